"""The real runtime beside the kernel alone, and beside itself on other data, action by action.

Hypothesis writes a guest call by call, phase by phase: mostly calls that the phase grants, for a guest that
is denied at once reaches nothing. At each tick the guest runs in the real sandbox over the real host calls,
on two data sets of one schema. The kernel alone, told what each call means, must reach the same state with
the same events as the first run; and what each observer sees of both runs must be the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import wasmtime
from deployments import POLICY
from guests import HEADER, escaped
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from smith import visible

from chiron.guest_api import child
from chiron.guest_api.calls import Flow, HostCalls
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.limits import sandbox_limits
from chiron.guest_api.lowering import CALL_PARAMETERS
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.types import Content
from wasm_sandbox import Guest, Rules, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMITS = sandbox_limits(POLICY)
MEMORY = 2 << 16  # things lie in the guest's memory at:
GOOD_AT, BAD_AT, TEXT_AT, ROW_AT, OUT_AT = (
    0,
    64,
    1024,
    32768,
    1 << 16,
)  # where things lie in the guest's memory
TEXT = bytes(range(256)) * 16
NUMBER = encode_header(POLICY.menus, Header(*HEADER)).to_bytes(8, "little")
CALLS = {
    name: (0, 1) if rule.read and CALL_PARAMETERS[name] == 4 else () for name, rule in POLICY.calls.items()
}
IMPORTS = "".join(
    f'(import "chiron" "{name}" (func ${name} (param {"i32 " * count}) (result i32)))'
    for name, count in CALL_PARAMETERS.items()
)
DATA = (
    f'(data (i32.const {GOOD_AT}) "{escaped(struct.pack("<6I", *HEADER))}")'
    f'(data (i32.const {BAD_AT}) "{escaped(bytes(24))}")'
    f'(data (i32.const {TEXT_AT}) "{escaped(TEXT)}")'
)


@dataclass(frozen=True, slots=True)
class Do:
    """One statement of the guest: code, the call that it makes with its payload, or how it ends."""

    code: str
    call: str = ""
    payload: bytes = b""
    ends: bool = False


def called(name: str, at: int, size: int) -> Do:
    """Return a host call with its buffer at an address, and what the kernel is told of it."""
    numbers = "".join(f"(i32.const {number})" for number in CALLS[name])
    code = f"(drop (call ${name} {numbers} (i32.const {at}) (i32.const {size})))"
    if POLICY.calls[name].write is None:  # asked first, and then what is read does not fit
        return Do(code, name, ends=at + size > MEMORY)
    if at + size > MEMORY:  # what would be written cannot be read, so nobody is asked
        return Do(code, ends=True)
    return Do(code, name, TEXT[at - TEXT_AT :][:size])


def header(at: int) -> Do:
    """Return a declaration of the header; one that is off the menu is refused before the kernel is asked."""
    code = f"(drop (call $header (i32.const {at}) (i32.const 24)))"
    return Do(code, "header", NUMBER) if at == GOOD_AT else Do(code)


READ_ROW = called("batch", ROW_AT, 1024)
BRANCH = Do(f"(if (i32.load (i32.const {ROW_AT})) (then (unreachable)))")  # not zero in the second run alone
ENDINGS = (Do("(unreachable)", ends=True), Do("(return (i32.const 7))", ends=True))
OTHERS = sorted(set(CALLS) - {"header"})
ANYWHERE = st.builds(called, st.sampled_from(OTHERS), st.just(TEXT_AT), st.sampled_from((0, 1, 8, 64, 4096)))
OUTSIDE = st.sampled_from([called(name, MEMORY - 2, 64) for name in OTHERS if name != "take"])


def granted_in(phase: str) -> st.SearchStrategy[Do]:
    """Return calls that the phase grants."""
    names = [name for name in OTHERS if phase in POLICY.calls[name].phases]
    reads = [called(name, OUT_AT, size) for name in names if POLICY.calls[name].read for size in (32, 8192)]
    writes = [
        called(name, TEXT_AT, size) for name in names if POLICY.calls[name].write for size in (1, 32, 64)
    ]
    rows = [READ_ROW] if "batch" in names else []
    return st.sampled_from([*reads, *writes, *rows]) if names else ANYWHERE


@st.composite
def programs(draw: st.DrawFn, phase: str) -> list[Do]:
    """Return what a guest does in one slot: calls that are granted, and in one of four something else."""
    start = [header(draw(st.sampled_from((GOOD_AT,) * 7 + (BAD_AT,))))] if phase == "Configure" else []
    calls = draw(st.lists(granted_in(phase), max_size=4))
    if draw(st.integers(0, 3)):
        return start + calls
    return [*start, *calls, draw(st.one_of(ANYWHERE, OUTSIDE, st.sampled_from((BRANCH, *ENDINGS))))]


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

    def __init__(self) -> None:
        super().__init__()
        self.model = kernel.initial(POLICY, rows_class=DATASETS[0].schema.rows_class, spent={})
        self.runs = [Monitor(POLICY, self.model) for _ in DATASETS]

    @rule(data=st.data(), trusted=TRUSTED)
    def slot(self, data: st.DataObject, trusted: Mapping[str, int]) -> None:
        """Run a guest for one slot, then let the clock go on."""
        program = data.draw(programs(self.model.phase))
        with load(compiled(program), Rules(CALL_PARAMETERS, LIMITS, ("slot",))) as guest:
            for monitor, secret in zip(self.runs, DATASETS, strict=True):
                run(guest, monitor, secret)
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


def compiled(program: list[Do]) -> bytes:
    """Return the guest of one slot."""
    code = "".join(do.code for do in program)
    return bytes(
        wasmtime.wat2wasm(
            f'(module {IMPORTS} (memory (export "memory") 2 2) {DATA}'
            f'(func (export "slot") (result i32) {code} (i32.const 0)))'
        )
    )


def run(guest: Guest, monitor: Monitor, data: Dataset) -> None:
    """Run one slot as the guest's process does."""
    flow = Flow(memoryview(data.rows.tobytes()), 32, b"notes")
    calls = HostCalls(monitor, schema=data.schema, seed=bytes(8), dataset=data, flow=flow)
    child.run_export(guest, monitor, calls, export="slot")


def go(**more: Any) -> None:  # noqa: ANN401 - settings
    """Run the machine."""
    chosen = settings(max_examples=100, stateful_step_count=10, deadline=None, **more)
    run_state_machine_as_test(SideBySide, settings=chosen)


def test_the_runtime_does_what_the_kernel_decides_whatever_the_data_are() -> None:
    go()


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
    monkeypatch: pytest.MonkeyPatch, target: type, name: str, bug: Callable[..., None]
) -> None:
    monkeypatch.setattr(target, name, bug)
    with pytest.raises(AssertionError):
        go(phases=[Phase.generate], database=None)  # found is enough here; nothing is made smaller
