"""Components: every way a run can end, and lists that arrive as they left."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import wasmtime
import wasmtime.component
from components import ANSWER_AT, component
from gates import start_together
from hypothesis import given, settings
from hypothesis import strategies as st

import wasm_sandbox.component
from wasm_sandbox import (
    ComponentCall,
    ComponentRules,
    Ending,
    Limits,
    Outcome,
    StopGuest,
    component_link,
    load_component,
)
from wasm_sandbox.component_types import ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 65_536
LIMITS = Limits(fuel=1_000_000, memory_bytes=64 * PAGE, table_elements=100, component_bytes=1 << 20)
NOTHING = "(i32.const 0)"
Values = tuple[int | bytes, ...]
both_paths = pytest.mark.parametrize("fast", [True, False], ids=["fast", "public"])


def go(
    binary: bytes,
    imports: dict[str, ComponentCall] | None = None,
    *,
    limits: Limits = LIMITS,
    fast: bool = True,
    times: int = 1,
) -> list[Outcome]:
    imports = imports or {}
    signatures = {name: call.signature for name, call in imports.items()}
    with load_component(binary, ComponentRules(signatures, limits, ["configure"])) as guest:
        assert guest._fast  # this wasmtime is the one that the fast path was written for
        guest._fast = fast
        return [guest.run("configure", imports=imports) for _ in range(times)]


def status(handler: Callable[[Values], int]) -> dict[str, ComponentCall]:
    return {"call": ComponentCall(("u32",), None, handler)}


def calling(body: str, *, calls: dict[str, str] | None = None, **parts: str) -> bytes:
    return component(body, calls=calls or {"call": "func(u32) -> result<_, s32>"}, **parts)


CALL = f"(call $call (local.get $i) (i32.const {ANSWER_AT}))"
COUNT_CALLS = f"(loop {CALL} (local.set $i (i32.add (local.get $i) (i32.const 1))) (br 0)) unreachable"


def test_returning_gives_the_signed_value() -> None:
    (outcome,) = go(component("(i32.const -7)"))
    assert (outcome.ending, outcome.value, outcome.detail) == (Ending.RETURNED, -7, "")


@pytest.mark.parametrize(
    "body",
    ["unreachable", "(i32.load (i32.const -1))", "(i32.div_u (i32.const 1) (i32.const 0))", "(call $go)"],
)
def test_faults_of_the_guest_are_traps_that_name_its_functions(body: str) -> None:
    (outcome,) = go(component(f"(drop {body}) {NOTHING}" if body != "unreachable" else body))
    assert (outcome.ending, outcome.value) == (Ending.TRAPPED, None)
    assert "go" in outcome.detail


def test_a_trap_at_the_start_of_an_instance_is_a_trap() -> None:
    (outcome,) = go(component(NOTHING, before="(func $s unreachable) (start $s)"))
    assert outcome.ending is Ending.TRAPPED


def test_an_endless_loop_uses_exactly_its_fuel() -> None:
    (outcome,) = go(component("(loop br 0) unreachable"))
    assert (outcome.ending, outcome.value, outcome.fuel_used) == (Ending.OUT_OF_FUEL, None, LIMITS.fuel)


def test_memory_grows_to_the_limit_and_no_further() -> None:
    grow = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size)"
    for pages in (2, 5, 64):
        (outcome,) = go(component(grow), limits=replace(LIMITS, memory_bytes=pages * PAGE))
        assert (outcome.ending, outcome.value) == (Ending.RETURNED, pages)


TOO_MUCH = {
    "memory": component(NOTHING, pages="65"),
    "table": component(NOTHING, before="(table 101 funcref)"),
    "second memory": component(
        NOTHING, outside="(core module $m (memory 1)) (core instance (instantiate $m))"
    ),
    "instances": component(NOTHING, outside="(core module $m)" + "(core instance (instantiate $m))" * 63),
    "tables": component(
        NOTHING, outside="(core module $m (table 1 funcref))" + "(core instance (instantiate $m))" * 9
    ),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_does_not_fit_ends_before_the_guest_runs(what: str) -> None:
    (outcome,) = go(TOO_MUCH[what])
    assert (outcome.ending, outcome.value) == (Ending.MEMORY, None)


def test_each_run_has_a_fresh_memory() -> None:
    body = (
        "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.load (i32.const 0))"
    )
    assert [outcome.value for outcome in go(component(body), times=3)] == [1, 1, 1]


def test_the_same_run_uses_the_same_fuel() -> None:
    assert len(set(go(calling(f"{CALL} {NOTHING}"), status(lambda _: 0), times=5))) == 1


@both_paths
def test_a_stop_takes_the_guests_fuel(monkeypatch: pytest.MonkeyPatch, *, fast: bool) -> None:
    seen, calls, answer = [], [], wasm_sandbox.component._Request.answer

    def counted(request: wasm_sandbox.component._Request, *arguments: Any) -> Any:  # noqa: ANN401
        calls.append(1)
        return answer(request, *arguments)

    monkeypatch.setattr(wasm_sandbox.component._Request, "answer", counted)

    def stop_at_three(values: Values) -> int:
        seen.append(values[0])
        if values == (3,):
            raise StopGuest("enough")
        return 0

    (outcome,) = go(calling(COUNT_CALLS), status(stop_at_three), fast=fast)
    assert seen == [0, 1, 2, 3]
    assert len(calls) == 4
    assert (outcome.ending, outcome.value) == (Ending.STOPPED, None)
    assert outcome.detail == "host call call: StopGuest: enough"
    assert 0 < outcome.fuel_used < 1000


@both_paths
def test_straight_code_after_a_stop_gets_nothing_from_its_calls(*, fast: bool) -> None:
    seen = []

    def stop(values: Values) -> int:
        seen.append(values[0])
        raise StopGuest("enough")

    (outcome,) = go(calling(CALL * 5 + NOTHING), status(stop), fast=fast)
    assert (seen, outcome.ending, outcome.value) == ([0], Ending.STOPPED, None)


@both_paths
@pytest.mark.parametrize("error", [ValueError("bug"), wasmtime.WasmtimeError("bug"), SystemExit("bug")])
def test_a_bug_of_the_host_is_a_host_fault(error: BaseException, *, fast: bool) -> None:
    def fail(_: Values) -> int:
        raise error

    binary = calling(COUNT_CALLS)
    if isinstance(error, Exception):
        (outcome,) = go(binary, status(fail), fast=fast)
        assert outcome.ending is Ending.HOST_FAULT
    else:
        with pytest.raises(SystemExit):
            go(binary, status(fail), fast=fast)
    assert wasmtime.component._enter.LAST_EXCEPTION is None


@both_paths
@pytest.mark.parametrize("answer", [1, 2**31, -(2**31) - 1, b"", "text", None])
def test_a_handler_that_keeps_no_form_is_a_host_fault(answer: object, *, fast: bool) -> None:
    def handler(_: Values) -> int:
        return answer  # type: ignore[return-value]

    (outcome,) = go(calling(COUNT_CALLS), status(handler), fast=fast)
    assert outcome.ending is Ending.HOST_FAULT


@both_paths
@pytest.mark.parametrize("answer", [-1, -2, -(2**31)])
def test_a_status_is_the_error_of_the_result(answer: int, *, fast: bool) -> None:
    body = f"{CALL} (i32.load offset=4 (i32.const {ANSWER_AT}))"
    (outcome,) = go(calling(body), status(lambda _: answer), fast=fast)
    assert outcome.value == answer


@both_paths
def test_unsigned_numbers_arrive_whole(*, fast: bool) -> None:
    seen: list[Values] = []

    def see(values: Values) -> int:
        seen.append(values)
        return 0

    go(calling(f"(local.set $i (i32.const -1)) {CALL} {NOTHING}"), status(see), fast=fast)
    assert seen == [(2**32 - 1,)]


def echo(element: str, data: bytes, *, limits: Limits = LIMITS, fast: bool) -> tuple[Outcome, list[bytes]]:
    """Hand a list to a guest that hands it back."""
    seen: list[bytes] = []

    def take(values: Values) -> int:
        seen.extend(value for value in values if isinstance(value, bytes))
        return 0

    imports = {
        "give": ComponentCall((), element, lambda _: np.frombuffer(data, ELEMENTS[element])),
        "take": ComponentCall((f"list<{element}>",), None, take),
    }
    body = f"""(call $give (i32.const {ANSWER_AT}))
      (call $take (i32.load offset=4 (i32.const {ANSWER_AT})) (i32.load offset=8 (i32.const {ANSWER_AT}))
        (i32.const 48)) (i32.load (i32.const 48))"""
    binary = component(body, calls={name: call.signature for name, call in imports.items()})
    (outcome,) = go(binary, imports, limits=limits, fast=fast)
    return outcome, seen


@both_paths
@pytest.mark.parametrize("element", ELEMENTS)
def test_lists_of_every_kind_arrive_as_they_left(element: str, *, fast: bool) -> None:
    size = np.dtype(ELEMENTS[element]).itemsize
    for count in (0, 1, 2, 1000):
        data = np.random.default_rng(count).integers(0, 256, count * size, dtype="uint8")
        sent = np.where(np.isnan(data.view("f4")), 0, data.view("f4")) if element == "f32" else data
        outcome, seen = echo(element, sent.tobytes(), fast=fast)
        assert (outcome.ending, outcome.value, seen) == (Ending.RETURNED, 0, [sent.tobytes()])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=30))
def test_the_fast_path_gives_what_the_public_one_gives(numbers: list[float]) -> None:
    data = np.array(numbers, dtype="<f4").tobytes()
    assert echo("f32", data, fast=True) == echo("f32", data, fast=False)


def test_a_mebibyte_of_each_kind_passes_at_once() -> None:
    data = np.arange(1 << 18, dtype="<f4").tobytes()
    for element in ("f32", "u8"):
        outcome, seen = echo(element, data, fast=True)
        assert (outcome.ending, seen == [data]) == (Ending.RETURNED, True)


def test_a_list_over_the_engines_limit_ends_the_guest_and_nothing_else() -> None:
    body = f"(call $take (i32.const 0) (i32.const {5 << 20}) (i32.const {ANSWER_AT})) {NOTHING}"
    imports = {"take": ComponentCall(("list<u8>",), None, lambda _: 0)}
    binary = component(body, calls={"take": imports["take"].signature}, pages="128")
    (outcome,) = go(binary, imports, limits=replace(LIMITS, memory_bytes=128 * PAGE))
    assert (outcome.ending, outcome.value) == (Ending.TRAPPED, None)


@both_paths
def test_more_output_than_the_limit_stops_the_guest(*, fast: bool) -> None:
    for limit, ending in ((11, Ending.STOPPED), (12, Ending.RETURNED)):
        limits = replace(LIMITS, output_bytes=limit)
        outcome, seen = echo("u8", bytes(12), limits=limits, fast=fast)
        assert (outcome.ending, len(seen)) == (ending, ending is Ending.RETURNED)


@both_paths
def test_more_host_calls_than_the_limit_stop_the_guest(*, fast: bool) -> None:
    for limit, ending in ((4, Ending.STOPPED), (5, Ending.RETURNED)):
        limits = replace(LIMITS, host_calls=limit)
        (outcome,) = go(calling(CALL * 5 + NOTHING), status(lambda _: 0), limits=limits, fast=fast)
        assert outcome.ending is ending


def test_another_version_of_the_package_takes_the_public_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert component_link.fast_path_fits()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "51.0.0")
    assert not component_link.fast_path_fits()
    monkeypatch.undo()
    monkeypatch.delattr("wasmtime._ffi.wasmtime_component_val_t")
    assert not component_link.fast_path_fits()


def test_running_with_other_calls_than_it_was_checked_with_is_our_own_mistake() -> None:
    call = status(lambda _: 0)["call"]
    with load_component(
        calling(f"{CALL} {NOTHING}"), ComponentRules({"call": call.signature}, LIMITS, ["configure"])
    ) as guest:
        for export, imports in (
            ("configure", {}),
            ("configure", {"call": ComponentCall((), None, lambda _: 0)}),
            ("transform", {"call": call}),
        ):
            with pytest.raises(ValueError, match="load_component"):
                guest.run(export, imports=imports)


@pytest.mark.parametrize(
    ("parameters", "gives"), [(("s64",), None), (("u32",), "f64"), (("list<s8>",), "u8")]
)
def test_a_host_call_of_other_kinds_cannot_be_made(parameters: tuple[str, ...], gives: str | None) -> None:
    with pytest.raises(ValueError, match="made of"):
        ComponentCall(parameters, gives, lambda _: 0)


@both_paths
def test_the_public_path_runs_one_guest_at_a_time(*, fast: bool) -> None:
    first, second = threading.Event(), threading.Event()
    together = []

    def wait(_: Values) -> int:
        if not first.is_set():
            first.set()
            together.append(second.wait(5 if fast else 0.3))
        second.set()
        return 0

    imports = status(wait)
    signature = {"call": imports["call"].signature}
    binary = calling(f"{CALL} {NOTHING}")
    with load_component(binary, ComponentRules(signature, LIMITS, ["configure"])) as guest:
        guest._fast = fast

        def run(_: int) -> Outcome:
            return guest.run("configure", imports=imports)

        with ThreadPoolExecutor(2) as pool:
            assert {outcome.ending for outcome in pool.map(run, range(2))} == {Ending.RETURNED}
    assert together == [fast]


class OwnFaultError(Exception):
    """A host fault that says whose it is."""


@both_paths
def test_eight_threads_with_host_faults_never_mix_outcomes(*, fast: bool) -> None:
    threads, rounds = 8, 20
    gate = threading.Barrier(threads)
    body = COUNT_CALLS.replace("(br 0)", "(br_if 0 (i32.lt_u (local.get $i) (i32.const 20)))")
    binary = calling(body.replace("unreachable", "(i32.const 5)"))

    def call_of(thread: int) -> dict[str, ComponentCall]:
        def call(values: Values) -> int:
            if values[0] == thread + 5 and thread % 3 == 0:
                raise OwnFaultError(f"fault of {thread}")
            if values[0] == thread + 5 and thread % 3 == 1:
                raise StopGuest(f"stop of {thread}")
            return -thread

        return status(call)

    signature = {"call": "func(u32) -> result<_, s32>"}
    with load_component(binary, ComponentRules(signature, LIMITS, ["configure"])) as guest:
        guest._fast = fast

        def outcomes_of(thread: int) -> list[Outcome]:
            start_together(gate)
            imports = call_of(thread)
            return [guest.run("configure", imports=imports) for _ in range(rounds)]

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(outcomes_of, range(threads)))
    for thread, outcomes in enumerate(results):
        assert len(set(outcomes)) == 1
        expected = (Ending.HOST_FAULT, Ending.STOPPED, Ending.RETURNED)[thread % 3]
        assert outcomes[0].ending is expected
        assert expected is Ending.RETURNED or outcomes[0].detail.endswith(f"of {thread}")
    assert wasmtime.component._enter.LAST_EXCEPTION is None
