"""The real runtime beside the kernel alone, and beside itself on other data, action by action.

Hypothesis writes a guest call by call, phase by phase: mostly calls that the phase grants, for a guest that
is denied at once reaches nothing. At each tick the guest runs in the real sandbox over the real host calls,
on two data sets of one schema. The kernel alone, told what each call means, must reach the same state with
the same events as the first run; and what each observer sees of both runs must be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import POLICY
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from slot_guests import (
    BAD_AT,
    CALLS,
    GOOD_AT,
    LOWERINGS,
    MEMORY,
    OUT_AT,
    TEXT_AT,
    Do,
    Lowering,
)
from smith import visible

from chiron.guest_api import child
from chiron.guest_api.calls import Flow, HostCalls
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.types import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chiron.guest_api.limits import LoadedGuest

pytestmark = pytest.mark.no_cover  # many runs of what other tests cover: tracing takes most of the time

ENDINGS = (Do("(unreachable)", ends=True), Do("(return (i32.const 7))", ends=True))
OTHERS = sorted(set(CALLS) - {"header"})


def anywhere(lowering: Lowering) -> st.SearchStrategy[Do]:
    """Return any call, whatever the phase grants."""
    sizes = st.sampled_from((0, 1, 8, 64, 4096))
    return st.builds(lowering.called, st.sampled_from(OTHERS), st.just(TEXT_AT), sizes)


def outside(lowering: Lowering) -> st.SearchStrategy[Do]:
    """Return calls whose buffer ends behind the guest's memory."""
    return st.sampled_from([lowering.called(name, MEMORY - 2, 64) for name in OTHERS if name != "take"])


def granted_in(phase: str, lowering: Lowering) -> st.SearchStrategy[Do]:
    """Return calls that the phase grants."""
    names = [name for name in OTHERS if phase in POLICY.calls[name].phases]
    reads = [
        lowering.called(name, OUT_AT, size)
        for name in names
        if POLICY.calls[name].read
        for size in (32, 8192)
    ]
    writes = [
        lowering.called(name, TEXT_AT, size)
        for name in names
        if POLICY.calls[name].write
        for size in (1, 32, 64)
    ]
    rows = [lowering.read_row] if "batch" in names else []
    return st.sampled_from([*reads, *writes, *rows]) if names else anywhere(lowering)


@st.composite
def programs(draw: st.DrawFn, phase: str, lowering: Lowering) -> list[Do]:
    """Return what a guest does in one slot: calls that are granted, and in one of four something else."""
    at = draw(st.sampled_from((GOOD_AT,) * 7 + (BAD_AT,))) if phase == "Configure" else None
    start = [] if at is None else [lowering.header(at)]
    calls = draw(st.lists(granted_in(phase, lowering), max_size=4))
    if draw(st.integers(0, 3)):
        return start + calls
    rest = st.sampled_from((lowering.branch, *ENDINGS))
    return [*start, *calls, draw(st.one_of(anywhere(lowering), outside(lowering), rest))]


def dataset(secret: float) -> Dataset:
    """Return data whose first value is the secret: zero, or something that a guest can branch on."""
    rows, targets = np.full((20, 8), secret, np.float32), np.arange(20) % 3
    return make_dataset(rows, targets, held_out=(rows[:4], targets[:4]), classes=3)


DATASETS = (dataset(0.0), dataset(1.5))
TRUSTED = st.fixed_dictionaries(
    {name: st.integers(0, 2**20) for name in ("outcome", "accuracy", "loss", "answer")}
)


class SideBySide(RuleBasedStateMachine):
    """Two real runs, and the kernel alone for the first of them."""

    lowering: Lowering

    def __init__(self) -> None:
        super().__init__()
        self.model = kernel.initial(POLICY, rows_class=DATASETS[0].schema.rows_class, spent={})
        self.runs = [Monitor(POLICY, self.model) for _ in DATASETS]

    @rule(data=st.data(), trusted=TRUSTED)
    def slot(self, data: st.DataObject, trusted: Mapping[str, int]) -> None:
        """Run a guest for one slot, then let the clock go on."""
        program = data.draw(programs(self.model.phase, self.lowering))
        with self.lowering.loaded(program) as guest:
            for monitor, secret in zip(self.runs, DATASETS, strict=True):
                run(guest, monitor, secret, export=self.lowering.export)
        self.model = self.told(program)
        assert self.runs[0].state == self.model
        self.tick(trusted)

    @precondition(lambda self: self.model.phase in {"Approve", "Train", "Seal"})
    @rule(trusted=TRUSTED)
    def wait(self, trusted: Mapping[str, int]) -> None:
        """Let the clock go on to the next phase without a guest."""
        for _ in range(self.model.ticks_left):
            self.tick(trusted)

    def tick(self, trusted: Mapping[str, int]) -> None:
        """End the slot everywhere, and compare."""
        left, right = (monitor.tick(trusted) for monitor in self.runs)
        self.model, _, events = kernel.step(POLICY, self.model, kernel.Tick(trusted))
        assert (self.runs[0].state, left) == (self.model, events)
        for name, clearance in POLICY.observers.items():
            seen = [[visible(event, clearance) for event in events_] for events_ in (left, right)]
            assert seen[0] == seen[1], name
        clocks = [(monitor.state.phase, monitor.state.ticks_left) for monitor in self.runs]
        assert clocks[0] == clocks[1]

    def told(self, program: list[Do]) -> kernel.State:
        """Return the state that the kernel reaches when it is told the program's calls."""
        state = self.model
        for do in program:
            if do.call:
                state, reply, _ = kernel.step(POLICY, state, kernel.Call(do.call, Content.of(do.payload)))
                if reply is kernel.Reply.DENIED:
                    return state
            if do.ends:
                return kernel.step(POLICY, state, kernel.Fault())[0]
        return state


def run(guest: LoadedGuest, monitor: Monitor, data: Dataset, *, export: str) -> None:
    """Run one slot as the guest's process does."""
    flow = Flow(memoryview(data.rows.tobytes()), 32, b"notes")
    calls = HostCalls(monitor, schema=data.schema, seed=bytes(8), dataset=data, flow=flow)
    child.run_export(guest, monitor, calls, export=export)


def go(lowering: str, *, examples: int = 100, **more: Any) -> None:  # noqa: ANN401 - settings
    """Run the machine."""
    machine = type("Lowered", (SideBySide,), {"lowering": LOWERINGS[lowering]})
    chosen = settings(max_examples=examples, stateful_step_count=10, deadline=None, **more)
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.parametrize(("lowering", "examples"), [("core", 100), ("component", 25)])
def test_the_runtime_does_what_the_kernel_decides_whatever_the_data_are(lowering: str, examples: int) -> None:
    go(lowering, examples=examples)


def unnoticed_fault(_: Monitor) -> None:
    """Forget that the guest ended."""


def fault_on_the_clock(monitor: Monitor) -> None:
    """End the slot when the guest ends."""
    monitor._step(kernel.Fault())
    monitor.tick()


def forgotten_denial(calls: HostCalls, name: str, payload: bytes = b"") -> None:
    """Ask, and after a denial go on as if nobody had asked."""
    before = calls._monitor.state
    if not calls._monitor.call(name, payload):
        calls._monitor.state = before


def not_asked(calls: HostCalls, name: str, payload: bytes = b"") -> None:
    """Carry a call out without asking."""
    if name != "plan":
        granted(calls, name, payload)


def cut_short(calls: HostCalls, name: str, payload: bytes = b"") -> None:
    """Tell the kernel of less than was written."""
    granted(calls, name, payload[:-1])


granted = HostCalls._granted


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (Monitor, "fault", unnoticed_fault),
        (Monitor, "fault", fault_on_the_clock),
        (HostCalls, "_granted", forgotten_denial),
        (HostCalls, "_granted", not_asked),
        (HostCalls, "_granted", cut_short),
    ],
)
def test_a_runtime_that_does_something_else_is_noticed(
    monkeypatch: pytest.MonkeyPatch, target: type, name: str, bug: Callable[..., None], lowering: str
) -> None:
    monkeypatch.setattr(target, name, bug)
    with pytest.raises(AssertionError):
        go(lowering, phases=[Phase.generate], database=None)  # found is enough here; nothing is made smaller
