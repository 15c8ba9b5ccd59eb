"""The prover's values against Python's: each path it finds does what the kernel does with real values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import z3

from chiron.policy import kernel
from chiron.policy.header import Header, encode_header, phase_ticks
from chiron.policy.kernel import Call, Charged, Fault, Frame, Release, State, Stop, Stopped, StopReason, Tick
from chiron.policy.loader import load_policy
from chiron.policy.types import Content
from prover import symbolic
from prover.reach import UNKNOWN_CALL, reachable
from prover.symbolic import Number, explore, number_of, symbolic_ticks, term_of
from prover.world import any_content, any_job, content_terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.policy.kernel import Action
    from prover.reach import Where
    from prover.symbolic import Path

pytestmark = pytest.mark.long

POLICY = load_policy()
HEADER = encode_header(
    POLICY.menus, Header(epochs=3, batch=16, workers=2, parameters=4096, slot_ms=5, create_ms=1000)
)
ROWS = 64
SPENT = (0, 1)  # nothing, or everything


@dataclass(frozen=True, slots=True)
class Values:
    """One point of the finite projection: a value for everything that the prover leaves open."""

    ticks_left: int
    alive: bool
    header: int
    full: bool
    used: bool
    spent: bool

    def state(self, place: Where) -> State:
        return State(
            phase=place.phase,
            ticks_left=self.ticks_left,
            label=place.label,
            alive=self.alive,
            rows_class=ROWS,
            header=self.header,
            sinks={name: Content.of(self.written(name)) for name in POLICY.sinks},
            uses={name: rule.uses * self.used for name, rule in POLICY.declassifiers.items()},
            spent={name: cap * self.spent for name, cap in POLICY.ledger_cap_bits.items()},
        )

    def written(self, sink: str) -> bytes:
        size = POLICY.sinks[sink].capacity_bytes if sink in {"header", "plan"} else 64
        return bytes([self.header % 256, self.header >> 8]).ljust(8, b"\0").rjust(size, b"\0") * self.full


def projection() -> Iterator[Values]:
    flags = [False, True]
    for point in itertools.product((1, 2), flags, (0, HEADER), flags, flags, flags):
        yield Values(*point)


def actions(*, concrete: bool) -> Iterator[tuple[str, Action]]:
    payload = Content.of(b"\x05" + bytes(7)) if concrete else any_content("the payload")
    for name in (*POLICY.calls, UNKNOWN_CALL):
        yield name, Call(name, payload)
    yield "trap", Fault()
    values: dict[str, Any] = {
        name: 300 if concrete else Number(z3.Int(f"trusted {name}")) for name in POLICY.declassifiers
    }
    yield "tick", Tick(values)
    yield "stop", Stop(StopReason.PLATFORM_FAULT)


def assignment(place: Where, values: Values) -> Any:  # noqa: ANN401  a z3 model
    """Return a model in which every open value is the projection's."""
    open_state, real = any_job(POLICY, "1", place.phase, place.label).state, values.state(place)
    solver = z3.Solver()
    for field in ("ticks_left", "alive", "rows_class", "header"):
        solver.add(term_of(getattr(open_state, field)) == term_of(getattr(real, field)))
    for kind in ("uses", "spent"):
        for name, term in getattr(open_state, kind).items():
            solver.add(term_of(term) == getattr(real, kind)[name])
    for name in POLICY.sinks:
        data, _ = content_terms(open_state, name)
        solver.add(z3.Int(f"size of {name} of run 1") == real.sinks[name].size)
        solver.add(number_of(data) == real.sinks[name].number())
    payload = dict(actions(concrete=True))["log"]
    assert isinstance(payload, Call)
    solver.add(z3.Int("size of the payload") == payload.payload.size)
    for name in POLICY.declassifiers:
        solver.add(z3.Int(f"trusted {name}") == 300)
    for number, (ticks, phase) in itertools.product((0, HEADER), (("slots", "Train"), ("epochs", "Seal"))):
        length = z3.Function(f"length {ticks}", z3.IntSort(), z3.IntSort(), z3.IntSort())
        solver.add(length(number, ROWS) == phase_ticks(POLICY, phase, header=number, rows_class=ROWS))
    assert solver.check() == z3.sat
    return solver.model()


def value_in(model: Any, thing: object) -> object:  # noqa: ANN401  a z3 model
    term = model.eval(term_of(thing), model_completion=True)
    return term.as_long() if z3.is_int_value(term) else bool(z3.is_true(term))


def shown(model: Any, step: kernel.Step) -> object:  # noqa: ANN401  a z3 model
    """Return a step's outcome as plain values; contents as their sizes."""
    state, reply, events = step
    counts = [
        {name: value_in(model, count) for name, count in mapping.items()}
        for mapping in (state.uses, state.spent)
    ]
    sizes = {name: value_in(model, content.size) for name, content in state.sinks.items()}
    numbers = [value_in(model, part) for part in (state.ticks_left, state.alive, state.header)]
    return (state.phase, state.label, reply, numbers, counts, sizes, [event_in(model, e) for e in events])


def event_in(model: Any, event: kernel.Event) -> object:  # noqa: ANN401  a z3 model
    match event:
        case Frame(sink, label, size_bytes, content):
            return sink, label, size_bytes, value_in(model, content.size)
        case Release(name, to, bits, value):
            return name, to, bits, value_in(model, value)
        case Charged(bits):
            return {name: value_in(model, paid) for name, paid in bits.items()}
        case Stopped(reason):
            return reason


def places() -> list[Where]:
    with symbolic_ticks():
        return reachable(POLICY)


def paths(place: Where, action: Action) -> list[Path[kernel.Step]]:
    job = any_job(POLICY, "1", place.phase, place.label)
    with symbolic_ticks():
        return explore([], lambda: kernel.step(POLICY, job.state, action))


def disagreements(place: Where) -> list[str]:
    found = []
    real_actions = dict(actions(concrete=True))
    ways = {name: paths(place, action) for name, action in actions(concrete=False)}
    for values in projection():
        model = assignment(place, values)
        for name, action in real_actions.items():
            taken = [p for p in ways[name] if all(value_in(model, c) for c in map(Number, p.condition))]
            real = kernel.step(POLICY, values.state(place), action)
            if [shown(model, path.result) for path in taken] != [shown(model, real)]:
                found.append(f"{place.phase} {name} {values}")
    return found


@pytest.mark.parametrize("place", places(), ids=lambda place: f"{place.phase}-{len(place.label.owners)}")
def test_each_path_does_what_the_kernel_does_over_the_finite_projection(place: Where) -> None:
    assert disagreements(place) == []


@pytest.mark.nightly
@pytest.mark.parametrize("operator", ["__mod__", "__lt__", "__gt__", "__add__"])
def test_a_wrong_symbolic_operator_is_noticed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(symbolic.Number, operator)
    monkeypatch.setattr(
        symbolic.Number, operator, lambda self, other: right(self, Number(term_of(other) + 1))
    )
    assert any(disagreements(place) for place in places() if place.phase in {"Configure", "Seal"})


def test_a_kernel_that_changes_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = next(place for place in places() if place.phase == "Seal")
    ways = {name: paths(place, action) for name, action in actions(concrete=False)}
    monkeypatch.setattr(kernel, "_release", lambda *_: Release("outcome", POLICY.guest_label, 1, 0))
    values = Values(1, alive=True, header=HEADER, full=False, used=False, spent=False)
    model = assignment(place, values)
    (taken,) = [p for p in ways["tick"] if all(value_in(model, c) for c in map(Number, p.condition))]
    real = kernel.step(POLICY, values.state(place), dict(actions(concrete=True))["tick"])
    assert shown(model, taken.result) != shown(model, real)
