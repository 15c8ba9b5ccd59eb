"""Attack: the host takes pages away and watches which of them the guest touches (controlled channels).

Xu, Cui, Peinado, "Controlled-channel attacks", S&P 2015. A guest's memory has one size and is resident before
its code runs: touching it or not makes no page fault that the host would see as growth.
"""

from __future__ import annotations

import resource

import pytest
import wasmtime
from deployments import POLICY

from chiron.guest_api.limits import compile_guest
from wasm_sandbox import GuestMemory, GuestRefusedError, HostCall, Limits, Rules, load

PAGES = 512
ALLOWED = 64  # faults of Python itself between two host calls


def guest(work: str) -> bytes:
    return bytes(
        wasmtime.wat2wasm(f"""(module (import "chiron" "log" (func $mark (param i32 i32) (result i32)))
          (memory (export "memory") {PAGES} {PAGES})
          (func (export "run") (result i32) (local $i i32)
            (drop (call $mark (i32.const 0) (i32.const 0)))
            {work}
            (drop (call $mark (i32.const 0) (i32.const 0)))
            (i32.const 0)))""")
    )


TOUCH_ALL = f"""(loop $next
  (i32.store (i32.shl (local.get $i) (i32.const 12)) (i32.const 1))
  (local.set $i (i32.add (local.get $i) (i32.const 1)))
  (br_if $next (i32.lt_u (local.get $i) (i32.const {PAGES * 16}))))"""


def faults_between_marks(binary: bytes) -> int:
    """Return the page faults of this process while the guest works."""
    marks: list[int] = []

    def mark(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
        marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return 0

    limits = Limits(fuel=10_000_000, memory_bytes=PAGES << 16)
    with load(binary, Rules({"log": 2}, limits, ("run",))) as loaded:
        assert loaded.run("run", imports={"log": HostCall(2, mark)}).value == 0
    return marks[1] - marks[0]


@pytest.mark.parametrize("work", ["", TOUCH_ALL])
def test_touching_memory_makes_no_page_fault_in_the_slot(work: str) -> None:
    assert faults_between_marks(guest(work)) < ALLOWED


@pytest.mark.parametrize("memory", ["1 2", "1", "0 65536"])
def test_a_memory_that_could_grow_is_refused(memory: str) -> None:
    exports = "".join(f'(func (export "{e}") (result i32) (i32.const 0))' for e in ("configure", "create"))
    binary = bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") {memory}) {exports})'))
    with pytest.raises(GuestRefusedError):
        compile_guest(POLICY, binary)
