"""Obligations as z3 decides them: counted, and kept where they fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import z3

from chiron.policy.kernel import Call, Fault, Stop, StopReason, Tick
from prover.reach import UNKNOWN_CALL
from prover.symbolic import AnyValues
from prover.world import any_content

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chiron.policy.kernel import Action
    from chiron.policy.types import Policy
    from prover.reach import Where
    from prover.symbolic import Term
    from prover.world import Named

STEPS = 1_000_000  # the solver's own count, for a clock would decide otherwise on a busy machine


@dataclass(frozen=True, slots=True)
class Failure:
    """An obligation that does not hold, or that the solver could not decide (which counts the same)."""

    observer: str
    rule: str
    phase: str
    action: str
    way: tuple[str, ...]
    broken: tuple[str, ...]

    def __str__(self) -> str:
        way = " -> ".join(self.way) or "the start"
        return (
            f"observer {self.observer}: {self.rule}: {self.action} in phase {self.phase}, reached by {way}: "
            f"{'; '.join(self.broken)}"
        )


class RefutedError(Exception):
    """The first failure of a proof that should stop there."""


@dataclass(slots=True)
class Proof:
    """Counts obligations and keeps those that fail."""

    policy: Policy
    first_only: bool = False
    obligations: int = 0
    failures: list[Failure] = field(default_factory=list)

    def require(
        self, hypotheses: Sequence[Term], goals: Named, *, where: Where, rule: str, **who: str
    ) -> None:
        """Discharge one obligation: the hypotheses imply every goal."""
        self.obligations += 1
        goals = {name: goal for name, goal in goals.items() if not z3.is_true(z3.simplify(goal))}
        if not goals:
            return
        solver = z3.Solver()
        solver.set("rlimit", STEPS)
        solver.add(*hypotheses)
        if solver.check(z3.Not(z3.And(*goals.values()))) == z3.unsat:
            return
        broken = tuple(name for name, goal in goals.items() if solver.check(z3.Not(goal)) != z3.unsat)
        named = {"observer": "everybody", "action": "-", **who}
        self.failures.append(Failure(rule=rule, phase=where.phase, way=where.way, broken=broken, **named))
        if self.first_only:
            raise RefutedError


def actions(policy: Policy, run: str) -> Iterator[tuple[str, Action]]:
    """Yield every action that a job can meet, by name, with all that is open in it."""
    for name in (*policy.calls, UNKNOWN_CALL):
        yield f"call {name}", Call(name, any_content("the payload"))
    yield "trap", Fault()
    yield "tick", any_tick(run)
    for reason in StopReason:
        yield f"stop {reason.name}", Stop(reason)


def any_tick(run: str) -> Tick:
    """Return a tick with any trusted values."""
    return Tick(AnyValues(run))  # type: ignore[arg-type]
