"""Every limit holds at, one below and one above its edge, through both bindings and in both profiles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from wasmtime import wat2wasm

from wasm_sandbox import (
    Ending,
    GuestMemory,
    GuestRefusedError,
    HostCall,
    Limits,
    Outcome,
    Rules,
    load,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("every_way")
PAGE = 65_536
LIMITS = Limits(fuel=1_000_000, memory_bytes=4 * PAGE, table_elements=100)
CALL = '(import "chiron" "call" (func $call (param i32 i32) (result i32)))'


def guest(body: str, *, before: str = "", pages: int = 1) -> bytes:
    return bytes(
        wat2wasm(
            f'(module {before} (memory (export "memory") {pages} {pages}) '
            f'(func (export "go") (result i32) (local $i i32) {body}))'
        )
    )


def go(binary: bytes, limits: Limits) -> Outcome:
    def read(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return len(memory.read(*arguments))

    return run(binary, export="go", imports={"call": HostCall(2, read)}, limits=limits)


def times(count: int, body: str) -> str:
    """Repeat a statement."""
    return (
        f"(loop {body} (local.set $i (i32.add (local.get $i) (i32.const 1))) "
        f"(br_if 0 (i32.lt_u (local.get $i) (i32.const {count}))))"
    )


def edge(returns: Callable[[int], bool], most: int) -> int:
    """Return the number from 1 to `most` after which the answer changes."""
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if returns(middle) == returns(1) else (low, middle)
    return low


def test_fuel() -> None:
    binary = guest(times(50, "") + "(local.get $i)")

    def with_fuel(fuel: int) -> Outcome:
        return go(binary, replace(LIMITS, fuel=fuel))

    below = edge(lambda fuel: with_fuel(fuel).ending is Ending.RETURNED, 10_000)
    found = [with_fuel(below + more) for more in (0, 1, 2)]
    assert [outcome.ending for outcome in found] == [Ending.OUT_OF_FUEL, Ending.RETURNED, Ending.RETURNED]
    # Fuel is looked at where functions and loops begin: the last turn may run to its end on the last unit.
    assert [outcome.fuel_used for outcome in found] == [below, below + 1, below + 2]


@pytest.mark.parametrize("pages", [1, 4])
def test_memory(pages: int) -> None:
    binary = guest("(memory.size)", pages=pages)
    for more in (0, 1):
        assert go(binary, replace(LIMITS, memory_bytes=pages * PAGE + more)).value == pages
    with pytest.raises(GuestRefusedError) as error:
        go(binary, replace(LIMITS, memory_bytes=pages * PAGE - 1))
    assert error.value.rule == "memory"


@pytest.mark.parametrize(
    ("elements", "ending"), [(99, Ending.RETURNED), (100, Ending.RETURNED), (101, Ending.MEMORY)]
)
def test_elements_of_a_table(elements: int, ending: Ending) -> None:
    assert go(guest("i32.const 0", before=f"(table {elements} funcref)"), LIMITS).ending is ending


@pytest.mark.parametrize(("more", "value"), [(89, 10), (90, 10), (91, -1)])
def test_growth_of_a_table(more: int, value: int) -> None:
    body = f"(table.grow 0 (ref.null func) (i32.const {more}))"
    assert go(guest(body, before="(table 10 funcref)"), LIMITS).value == value


@pytest.mark.parametrize(
    ("tables", "ending"), [(3, Ending.RETURNED), (4, Ending.RETURNED), (5, Ending.MEMORY)]
)
def test_number_of_tables(tables: int, ending: Ending) -> None:
    assert go(guest("i32.const 0", before="(table 1 funcref)" * tables), LIMITS).ending is ending


def test_stack() -> None:
    def descend(depth: int) -> Outcome:
        recursive = """(func $down (param i32) (result i32)
          (if (result i32) (local.get 0)
            (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1)))))
            (else (i32.const 0))))"""
        return go(guest(f"(call $down (i32.const {depth}))", before=recursive), LIMITS)

    fits = edge(lambda depth: descend(depth).ending is Ending.RETURNED, 1 << 20)
    assert [descend(fits - 1).value, descend(fits).value] == [fits - 1, fits]
    above = descend(fits + 1)
    assert (above.ending, above.fuel_used) == (Ending.TRAPPED, LIMITS.fuel)
    assert fits > 1_000


@pytest.mark.parametrize(
    ("size", "ending"), [(99, Ending.RETURNED), (100, Ending.RETURNED), (101, Ending.STOPPED)]
)
def test_output_bytes(size: int, ending: Ending) -> None:
    first, second = f"(call $call (i32.const 0) (i32.const {size - 50}))", "(i32.const 50)"
    halves = f"(drop {first}) (call $call (i32.const 0) {second})"
    outcome = go(guest(halves, before=CALL), replace(LIMITS, output_bytes=100))
    assert outcome.ending is ending


@pytest.mark.parametrize(
    ("calls", "ending"), [(9, Ending.RETURNED), (10, Ending.RETURNED), (11, Ending.STOPPED)]
)
def test_host_calls(calls: int, ending: Ending) -> None:
    body = times(calls, "(drop (call $call (i32.const 0) (i32.const 0)))") + "(i32.const 0)"
    outcome = go(guest(body, before=CALL), replace(LIMITS, host_calls=10))
    assert outcome.ending is ending
    assert ("HostCallLimitError" in outcome.detail) == (ending is Ending.STOPPED)


def test_host_calls_are_counted_anew_in_each_run() -> None:
    binary = guest("(call $call (i32.const 0) (i32.const 0))", before=CALL)
    rules = Rules({"call": 2}, replace(LIMITS, host_calls=1), ["go"])
    with load(binary, rules) as loaded:
        handlers = {"call": HostCall(2, lambda _memory, _arguments: 5)}
        assert [loaded.run("go", imports=handlers).value for _ in range(3)] == [5, 5, 5]


def test_size_of_the_binary() -> None:
    binary = guest("i32.const 3")
    for more in (0, 1):
        assert go(binary, replace(LIMITS, module_bytes=len(binary) + more)).value == 3
    with pytest.raises(GuestRefusedError) as error:
        go(binary, replace(LIMITS, module_bytes=len(binary) - 1))
    assert error.value.rule == "module-bytes"


def without_names(binary: bytes) -> bytes:
    return binary[: binary.index(b"\4name") - 2]


def admitted(binary: bytes) -> str:
    """Return the rule that refuses a guest, or nothing when it runs."""
    try:
        return "" if go(binary, LIMITS).value == 3 else "wrong"
    except GuestRefusedError as error:
        return error.rule


@pytest.mark.parametrize(
    ("sections", "rule"), [(199, ""), (200, ""), (201, "sections"), (100_000, "sections")]
)
def test_number_of_sections(sections: int, rule: str) -> None:
    # type, import, function, memory, export and code come first; the rest are empty custom sections
    plain = without_names(guest("i32.const 3", before=CALL))
    assert admitted(plain + b"\0\1\0" * (sections - 6)) == rule


@pytest.mark.parametrize(("more", "rule"), [(-1, ""), (0, ""), (1, "names")])
def test_size_of_the_names(more: int, rule: str) -> None:
    body = b"\4name" + bytes((1 << 20) + more - 5)
    length = bytes([len(body) & 0x7F | 0x80, len(body) >> 7 & 0x7F | 0x80, len(body) >> 14])
    assert admitted(without_names(guest("i32.const 3")) + b"\0" + length + body) == rule


@pytest.mark.parametrize(("exports", "rule"), [(255, ""), (256, ""), (257, "sections")])
def test_number_of_exports(exports: int, rule: str) -> None:
    more = "".join(f'(export "f{number}")' for number in range(exports - 2))
    assert admitted(guest("i32.const 3", before=f"(func {more})")) == rule
