"""Runs the kernel's own code on symbolic values: every path it can take, each with its condition.

`Number` and `Truth` stand where the code expects an int and a bool. A branch on a `Truth` asks the active
exploration, which takes each side that the conditions so far allow. What the code computes is a term for z3.
Source: King, "Symbolic execution and program testing", CACM 1976.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from unittest.mock import patch

import z3

from chiron.policy import kernel, releases
from chiron.policy.types import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    from chiron.policy.types import Policy

Term = Any  # z3's Python interface has no types
Result = TypeVar("Result")
joined_of = z3.Function("joined", z3.IntSort(), z3.IntSort(), z3.IntSort())
number_of = z3.Function("number", z3.IntSort(), z3.IntSort())
_active: list[_Exploration] = []
BRANCH_STEPS = 300_000  # of the solver's own count, on which the same branches are taken every time


def _cannot_follow(self: object, *_: object) -> NoReturn:
    """Refuse an operation that would quietly take one side for values that are open."""
    raise TypeError(f"the kernel does something with a {type(self).__name__} that the prover cannot follow")


class Truth:
    """A truth value. Asking Python for its value makes the exploration choose a side."""

    __hash__ = None  # type: ignore[assignment]
    __eq__ = _cannot_follow

    def __init__(self, term: Term) -> None:
        self.term = term

    def __bool__(self) -> bool:
        return _active[-1].choose(self.term)


class Number:
    """A whole number."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, term: Term) -> None:
        self.term = term

    def __bool__(self) -> bool:
        return _active[-1].choose(self.term != 0)

    def __add__(self, other: object) -> Number:
        return Number(self.term + term_of(other))

    __radd__ = __add__

    def __sub__(self, other: object) -> Number:
        return Number(self.term - term_of(other))

    def __mul__(self, other: object) -> Number:
        return Number(self.term * term_of(other))

    __rmul__ = __mul__

    def __mod__(self, other: object) -> Number:
        return Number(self.term % term_of(other))

    def __lt__(self, other: object) -> Truth:
        return Truth(self.term < term_of(other))

    def __gt__(self, other: object) -> Truth:
        return Truth(self.term > term_of(other))

    def __eq__(self, other: object) -> Truth:  # type: ignore[override]
        return Truth(self.term == term_of(other))


@dataclass(frozen=True, slots=True, eq=False)
class Bytes:
    """A text of bytes that only its joins and its number are known of."""

    __hash__ = None  # type: ignore[assignment]
    __eq__ = __bool__ = _cannot_follow
    term: Term

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(joined_of(self.term, other.term))


class SymbolicContent(Content):
    """What a guest wrote: any bytes, any size."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    __eq__ = _cannot_follow

    def number(self) -> int:
        """Return the number that these bytes end with: any of 64 bits."""
        return Number(number_of(self.data.term) % 2**64)  # type: ignore[attr-defined,return-value]


class AnyValues(Mapping[str, Number]):
    """The trusted values of a tick: any name may be there or not, with any value."""

    __iter__ = __len__ = _cannot_follow

    def __init__(self, run: str) -> None:
        self.run = run

    def __getitem__(self, name: str) -> Number:
        return Number(z3.Int(f"trusted value for {name} of run {self.run}"))

    def __contains__(self, name: object) -> bool:
        return bool(Truth(z3.Bool(f"whether run {self.run} brings {name}")))


def term_of(value: object) -> Term:
    """Return a value, symbolic or not, as a term."""
    if isinstance(value, Number | Truth | Bytes):
        return value.term
    return z3.BoolVal(value) if isinstance(value, bool) else z3.IntVal(value)


@dataclass(frozen=True, slots=True)
class Path(Generic[Result]):
    """One way through the code: what must hold for it to be taken, and what it came to."""

    condition: tuple[Term, ...]
    result: Result


class _Exploration:
    """The choices of one run: those given, then the first side that is possible."""

    def __init__(self, solver: Term, given: Sequence[bool]) -> None:
        self.solver, self.given = solver, given
        self.taken: list[bool] = []
        self.condition: list[Term] = []
        self.open: list[list[bool]] = []

    def choose(self, term: Term) -> bool:
        term = z3.simplify(term)
        if z3.is_true(term) or z3.is_false(term):
            return bool(z3.is_true(term))
        known = next((taken for taken in self.condition if z3.eq(taken, term)), None)
        if known is not None or any(z3.eq(taken, z3.Not(term)) for taken in self.condition):
            return known is not None
        if len(self.taken) < len(self.given):
            side = self.given[len(self.taken)]
        else:
            side = self._possible(term)
            if side and self._possible(z3.Not(term)):
                self.open.append([*self.taken, False])
        self.taken.append(side)
        self.condition.append(term if side else z3.Not(term))
        return side

    def _possible(self, term: Term) -> bool:
        return bool(self.solver.check(*self.condition, term) != z3.unsat)


def explore(assuming: Sequence[Term], run: Callable[[], Result]) -> list[Path[Result]]:
    """Return every path of `run` that the assumptions allow. A branch the solver cannot decide is taken."""
    solver = z3.Solver()
    solver.set("rlimit", BRANCH_STEPS)
    solver.add(*assuming)
    paths, open_paths = [], [list[bool]()]
    while open_paths:
        exploration = _Exploration(solver, open_paths.pop())
        _active.append(exploration)
        try:
            result = run()
        finally:
            _active.pop()
        open_paths += exploration.open
        paths.append(Path(tuple(exploration.condition), result))
    return paths


@contextmanager
def symbolic_ticks() -> Iterator[None]:
    """Leave open how long a phase that follows the header is: at least 1, the same for the same header.

    This is the one function of the kernel that the prover does not run. Its tests go through every header.
    """
    with patch.object(kernel, "phase_ticks", phase_ticks), patch.object(releases, "phase_ticks", phase_ticks):
        yield


def phase_ticks(policy: Policy, phase: str, *, header: object, rows_class: object) -> object:
    """Return a phase's length as a term where the header decides it. Stands in for the real function."""
    ticks = policy.phases[phase].ticks
    if isinstance(ticks, int):
        return ticks
    if ticks == "answers":
        return policy.declassifiers["answer"].uses
    length = z3.Function(f"length {ticks}", z3.IntSort(), z3.IntSort(), z3.IntSort())
    value = length(term_of(header), term_of(rows_class))
    return Number(z3.If(value < 1, 1, value))
