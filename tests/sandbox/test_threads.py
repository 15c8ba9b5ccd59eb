"""Guests in several threads of one process never see each other's endings."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import wasmtime
from gates import start_together
from wasmtime import wat2wasm

from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, Outcome, StopGuest, run

THREADS, ROUNDS = 8, 30
LIMITS = Limits(fuel=1_000_000, memory_bytes=65_536)
GUEST = bytes(
    wat2wasm(
        """(module (import "chiron" "call" (func $call (param i32) (result i32)))
        (memory (export "memory") 1 1)
        (func (export "go") (result i32) (local $i i32)
          (loop (drop (call $call (local.get $i)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $i) (i32.const 20))))
          (call $call (i32.const 99))))"""
    )
)


class OwnFaultError(Exception):
    """A host fault that says whose it is."""


def outcome_of(thread: int, gate: threading.Barrier) -> list[Outcome]:
    def call(_memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        if arguments[0] == thread + 5 and thread % 3 == 0:
            raise OwnFaultError(f"fault of {thread}")
        if arguments[0] == thread + 5 and thread % 3 == 1:
            raise StopGuest(f"stop of {thread}")
        return thread

    imports = {"call": HostCall(1, call)}
    start_together(gate)
    return [run(GUEST, export="go", imports=imports, limits=LIMITS) for _ in range(ROUNDS)]


@pytest.mark.usefixtures("every_way")
def test_eight_threads_with_host_faults_never_mix_outcomes() -> None:
    gate = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda thread: outcome_of(thread, gate), range(THREADS)))
    for thread, outcomes in enumerate(results):
        assert len(outcomes) == ROUNDS
        assert len(set(outcomes)) == 1
        outcome = outcomes[0]
        if thread % 3 == 0:
            assert outcome.ending is Ending.HOST_FAULT
            assert outcome.detail.endswith(f"fault of {thread}")
        elif thread % 3 == 1:
            assert outcome.ending is Ending.STOPPED
            assert outcome.detail.endswith(f"stop of {thread}")
        else:
            assert (outcome.ending, outcome.value) == (Ending.RETURNED, thread)
    assert wasmtime._func.LAST_EXCEPTION is None
