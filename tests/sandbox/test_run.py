"""Every way a run can end, and what a guest cannot do while it runs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime
from wasmtime import wat2wasm

from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, Outcome, StopGuest, run

PAGE = 65_536
LIMITS = Limits(fuel=1_000_000, memory_bytes=4 * PAGE, table_elements=100)
Arguments = tuple[int, ...]
pytestmark = pytest.mark.usefixtures("every_way")


def guest(body: str, *, before: str = "", pages: int = 1) -> bytes:
    """Make a guest whose `go` has the given body."""
    return bytes(
        wat2wasm(
            f'(module {before} (memory (export "memory") {pages} {pages}) '
            f'(func $go (export "go") (result i32) {body}))'
        )
    )


def go(
    binary: bytes,
    *,
    limits: Limits = LIMITS,
    call: Callable[[GuestMemory, Arguments], int] | None = None,
    parameters: int = 2,
) -> Outcome:
    imports = {} if call is None else {"call": HostCall(parameters, call)}
    return run(binary, export="go", imports=imports, limits=limits)


CALL = '(import "chiron" "call" (func $call (param i32 i32) (result i32)))'


def calling(pointer: int, length: int) -> bytes:
    return guest(f"(call $call (i32.const {pointer}) (i32.const {length}))", before=CALL)


def test_returning_gives_the_signed_value() -> None:
    outcome = go(guest("i32.const -7"))
    assert (outcome.ending, outcome.value, outcome.detail) == (Ending.RETURNED, -7, "")


def test_a_trap_gives_the_names_of_the_guests_functions() -> None:
    outcome = go(guest("call $deep i32.const 0", before="(func $deep unreachable)"))
    assert (outcome.ending, outcome.value) == (Ending.TRAPPED, None)
    assert "deep" in outcome.detail
    assert "go" in outcome.detail


@pytest.mark.parametrize(
    "body",
    [
        "(i32.load (i32.const 65536))",
        "(i32.load offset=4294967295 (i32.const -1))",
        "(i32.div_u (i32.const 1) (i32.const 0))",
        "(call_indirect (result i32) (i32.const 0))",
    ],
)
def test_faults_of_the_guest_are_traps(body: str) -> None:
    assert go(guest(body, before="(table 1 funcref)")).ending is Ending.TRAPPED


def test_a_data_segment_outside_memory_is_a_trap() -> None:
    outcome = go(guest("i32.const 0", before='(data (i32.const 65535) "ab")'))
    assert outcome.ending is Ending.TRAPPED


def test_an_endless_loop_uses_exactly_its_fuel() -> None:
    outcome = go(guest("(loop br 0) i32.const 0"))
    assert (outcome.ending, outcome.value, outcome.fuel_used) == (Ending.OUT_OF_FUEL, None, LIMITS.fuel)


def test_endless_recursion_is_a_trap_that_shows_no_depth() -> None:
    outcome = go(guest("call $go"))
    assert outcome.ending is Ending.TRAPPED
    assert outcome.fuel_used == LIMITS.fuel
    assert outcome.detail == "call stack exhausted: recurse less deeply"


def test_a_smaller_stack_limit_ends_recursion_sooner() -> None:
    def depth(stack_bytes: int) -> int:
        calls: list[None] = []

        def note(_memory: GuestMemory, _arguments: Arguments) -> int:
            calls.append(None)
            return 0

        body = "(drop (call $call (i32.const 0) (i32.const 0))) (call $go)"
        limits = Limits(fuel=10**6, memory_bytes=PAGE, stack_bytes=stack_bytes)
        assert go(guest(body, before=CALL), call=note, limits=limits).ending is Ending.TRAPPED
        return len(calls)

    assert 100 < depth(16 << 10) * 8 < depth(256 << 10)


def test_a_table_above_its_limit_ends_as_memory() -> None:
    assert go(guest("i32.const 0", before="(table 100 funcref)")).ending is Ending.RETURNED
    assert go(guest("i32.const 0", before="(table 101 funcref)")).ending is Ending.MEMORY


def test_a_table_does_not_grow_above_its_limit() -> None:
    body = "(table.grow 0 (ref.null func) (i32.const {}))"
    assert go(guest(body.format(90), before="(table 10 funcref)")).value == 10
    assert go(guest(body.format(91), before="(table 10 funcref)")).value == -1


def test_more_tables_than_four_end_as_memory() -> None:
    assert go(guest("i32.const 0", before="(table 1 funcref)" * 4)).ending is Ending.RETURNED
    assert go(guest("i32.const 0", before="(table 1 funcref)" * 5)).ending is Ending.MEMORY


def test_memory_does_not_grow() -> None:
    assert go(guest("(memory.grow (i32.const 1))")).value == -1


def test_a_stop_by_the_host_is_its_own_ending() -> None:
    def stop(_memory: GuestMemory, _arguments: Arguments) -> int:
        raise StopGuest("not in this phase")

    outcome = go(calling(0, 0), call=stop)
    assert (outcome.ending, outcome.value) == (Ending.STOPPED, None)
    assert "not in this phase" in outcome.detail


def test_a_fault_of_the_host_is_its_own_ending() -> None:
    def fail(_memory: GuestMemory, _arguments: Arguments) -> int:
        raise LookupError("broken")

    outcome = go(calling(0, 0), call=fail)
    assert (outcome.ending, outcome.value) == (Ending.HOST_FAULT, None)
    assert "LookupError" in outcome.detail


@pytest.mark.parametrize("status", [None, "0", 1.0, 2**31, -(2**31) - 1])
def test_a_status_that_is_no_i32_is_a_fault_of_the_host(status: int) -> None:
    assert go(calling(0, 0), call=lambda _memory, _arguments: status).ending is Ending.HOST_FAULT


@pytest.mark.parametrize("status", [-(2**31), -1, 0, 2**31 - 1])
def test_a_status_reaches_the_guest(status: int) -> None:
    assert go(calling(0, 0), call=lambda _memory, _arguments: status).value == status


def test_a_fault_leaves_nothing_in_the_wasmtime_package() -> None:
    def fail(_memory: GuestMemory, _arguments: Arguments) -> int:
        raise LookupError("broken")

    go(calling(0, 0), call=fail)
    assert wasmtime._func.LAST_EXCEPTION is None


def test_an_interrupt_of_the_process_is_raised_after_the_guest_ended() -> None:
    def interrupt(_memory: GuestMemory, _arguments: Arguments) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(calling(0, 0), call=interrupt)
    assert wasmtime._func.LAST_EXCEPTION is None


def test_a_stopped_guest_reaches_no_handler_again() -> None:
    calls = []

    def stop(_memory: GuestMemory, arguments: Arguments) -> int:
        calls.append(arguments)
        raise StopGuest("enough")

    twice = "(call $call (i32.const 1) (i32.const 1)) drop (call $call (i32.const 2) (i32.const 2))"
    outcome = go(guest(twice, before=CALL), call=stop)
    assert calls == [(1, 1)]
    assert outcome.ending is Ending.STOPPED


def test_a_stopped_guest_cannot_loop_on(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = []
    close = GuestMemory.close

    def look_and_close(memory: GuestMemory) -> None:
        counters.append(int.from_bytes(memory.read(0, 4), "little"))
        close(memory)

    def stop(_memory: GuestMemory, _arguments: Arguments) -> int:
        raise StopGuest("enough")

    monkeypatch.setattr(GuestMemory, "close", look_and_close)
    count = "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))"
    body = f"(call $call (i32.const 1) (i32.const 1)) drop (loop {count} br 0) i32.const 0"
    outcome = go(guest(body, before=CALL), call=stop)
    assert outcome.ending is Ending.STOPPED
    assert outcome.fuel_used < 100
    assert counters[0] <= 1


def test_arguments_arrive_unsigned() -> None:
    seen: list[Arguments] = []

    def note(_memory: GuestMemory, arguments: Arguments) -> int:
        seen.append(arguments)
        return 0

    go(calling(-1, -(2**31)), call=note)
    assert seen == [(2**32 - 1, 2**31)]


@pytest.mark.parametrize(
    ("pointer", "length"), [(-1, 1), (-1, 2), (1, -1), (PAGE, 1), (PAGE - 1, 2), (-(2**31), -(2**31))]
)
def test_an_address_outside_memory_stops_the_guest(pointer: int, length: int) -> None:
    def read(memory: GuestMemory, arguments: Arguments) -> int:
        return len(memory.read(*arguments))

    outcome = go(calling(pointer, length), call=read)
    assert outcome.ending is Ending.STOPPED
    assert "GuestAddressError" in outcome.detail


def test_reading_past_the_output_limit_stops_the_guest() -> None:
    def read(memory: GuestMemory, arguments: Arguments) -> int:
        return len(memory.read(*arguments))

    limits = Limits(fuel=1000, memory_bytes=PAGE, output_bytes=100)
    assert go(calling(0, 100), call=read, limits=limits).value == 100
    twice = "(call $call (i32.const 0) (i32.const 100)) drop (call $call (i32.const 0) (i32.const 1))"
    outcome = go(guest(twice, before=CALL), call=read, limits=limits)
    assert outcome.ending is Ending.STOPPED
    assert "OutputLimitError" in outcome.detail


def test_what_a_handler_writes_the_guest_reads() -> None:
    def write(memory: GuestMemory, arguments: Arguments) -> int:
        memory.write(arguments[0], (305_419_896).to_bytes(4, "little"))
        return 0

    body = "(drop (call $call (i32.const 8) (i32.const 0))) (i32.load (i32.const 8))"
    assert go(guest(body, before=CALL), call=write).value == 305_419_896


def test_memory_is_out_of_reach_after_the_run() -> None:
    kept: list[GuestMemory] = []

    def keep(memory: GuestMemory, _arguments: Arguments) -> int:
        kept.append(memory)
        return 0

    go(calling(0, 0), call=keep)
    with pytest.raises(ValueError, match="released"):
        kept[0].read(0, 1)


def test_each_run_has_a_fresh_memory() -> None:
    count = guest(
        "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.load (i32.const 0))"
    )
    assert [go(count).value for _ in range(3)] == [1, 1, 1]


def test_fuel_is_enough_exactly_from_what_a_run_uses() -> None:
    binary = guest(
        "(local $i i32) (loop (local.set $i (i32.add (local.get $i) (i32.const 1))) "
        "(br_if 0 (i32.lt_u (local.get $i) (i32.const 50)))) local.get $i"
    )
    used = go(binary).fuel_used
    at_the_edge = Limits(fuel=used, memory_bytes=PAGE)
    below = Limits(fuel=used // 2, memory_bytes=PAGE)
    assert go(binary, limits=at_the_edge).value == 50
    assert go(binary, limits=below).ending is Ending.OUT_OF_FUEL


def test_one_unit_of_fuel_decides() -> None:
    binary = guest("i32.const 0")  # one unit for entering, one for the constant
    outcomes = [go(binary, limits=Limits(fuel=fuel, memory_bytes=PAGE)) for fuel in (1, 2, 3)]
    assert [outcome.fuel_used for outcome in outcomes] == [1, 2, 2]
    assert [outcome.ending for outcome in outcomes] == [Ending.OUT_OF_FUEL, Ending.RETURNED, Ending.RETURNED]


def test_a_guest_without_fuel_does_nothing() -> None:
    limits = Limits(fuel=0, memory_bytes=PAGE)
    assert go(guest("(loop br 0) i32.const 0"), limits=limits).ending is Ending.OUT_OF_FUEL


def test_outcomes_repeat_exactly() -> None:
    body = (
        "(local $i i32) (local $x f32) (local.set $x (f32.const 1.5)) (loop "
        "(local.set $x (f32.sqrt (f32.mul (local.get $x) (f32.const 3.25)))) "
        "(local.set $i (i32.add (local.get $i) (i32.const 1))) "
        "(br_if 0 (i32.lt_u (local.get $i) (i32.const 999)))) (i32.reinterpret_f32 (local.get $x))"
    )
    assert len({go(guest(body)) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    "expression",
    [
        "(f32.div (f32.const 0) (f32.const 0))",
        "(f32.sqrt (f32.const -1))",
        "(f32.add (f32.reinterpret_i32 (i32.const 0x7fc12345)) (f32.const 1))",
        "(f32.add (f32.reinterpret_i32 (i32.const 0xffc12345)) (f32.const 1))",
        "(f32.sub (f32.const inf) (f32.const inf))",
        "(f32.demote_f64 (f64.reinterpret_i64 (i64.const 0xfff8123456789abc)))",
    ],
)
def test_every_computed_nan_has_the_same_bits(expression: str) -> None:
    assert go(guest(f"(i32.reinterpret_f32 {expression})")).value == 0x7FC00000


def test_all_memory_is_resident_before_the_guest_runs() -> None:
    pages = 1024  # 64 MiB

    def resident_kib(_memory: GuestMemory, _arguments: Arguments) -> int:
        match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        return int(match[1]) if match else -1

    def run_with(count: int) -> int:
        binary = guest("(call $call (i32.const 0) (i32.const 0))", before=CALL, pages=count)
        outcome = go(binary, call=resident_kib, limits=Limits(fuel=1000, memory_bytes=pages * PAGE))
        assert outcome.value is not None
        return outcome.value

    assert run_with(pages) - run_with(1) > 60 << 10


def test_memory_is_touched_before_the_guest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def note(_memory: GuestMemory, _arguments: Arguments) -> int:
        order.append("called")
        return 0

    monkeypatch.setattr(GuestMemory, "touch_all", lambda _memory: order.append("touched"))
    go(calling(0, 0), call=note)
    assert order == ["touched", "called"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"fuel": -1, "memory_bytes": PAGE},
        {"fuel": 2**64, "memory_bytes": PAGE},
        {"fuel": 1, "memory_bytes": 2**32 + 1},
        {"fuel": 1, "memory_bytes": PAGE, "stack_bytes": 4 << 20},
        {"fuel": 1, "memory_bytes": PAGE, "output_bytes": -1},
    ],
)
def test_limits_that_the_engine_cannot_keep_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)


def test_a_host_call_has_at_most_sixteen_parameters() -> None:
    with pytest.raises(ValueError, match="16"):
        HostCall(17, lambda _memory, _arguments: 0)
