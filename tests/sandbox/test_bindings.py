"""The two ways of calling wasmtime: nothing leaves a host function, and one is chosen by version."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import wasmtime
from gates import start_together
from wasmtime import wat2wasm

from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, Outcome, Rules, StopGuest, lean, load
from wasm_sandbox.execution import _Request
from wasm_sandbox.guest import BINDING
from wasm_sandbox.lean import LeanBinding, LeanRunning
from wasm_sandbox.public import PublicBinding

PAGE = 65_536
RULES = Rules({"call": 1}, Limits(fuel=1_000_000, memory_bytes=PAGE), ["go", "loop"])
BINDINGS = (PublicBinding, LeanBinding)
GUEST = bytes(
    wat2wasm(
        """(module (import "chiron" "call" (func $call (param i32) (result i32)))
        (memory (export "memory") 1 1)
        (func (export "go") (result i32) (call $call (i32.const 7)))
        (func (export "loop") (result i32) (drop (call $call (i32.const 1))) (loop br 0) (i32.const 0)))"""
    )
)


class OwnFaultError(Exception):
    """A host fault that says whose it is."""


def echo(_memory: GuestMemory, arguments: tuple[int, ...]) -> int:
    return arguments[0]


def test_the_lean_binding_serves_the_locked_wasmtime() -> None:
    assert lean.lean_available()
    assert BINDING is LeanBinding


@pytest.mark.parametrize("other", ["50.0.2", "50.0.0", "51.0.0", ""])
def test_another_wasmtime_gets_the_public_binding(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "version", lambda _name: other)
    assert not lean.lean_available()


def test_a_wasmtime_without_a_version_gets_the_public_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lean, "version", missing)
    assert not lean.lean_available()


def test_a_big_endian_machine_gets_the_public_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert not lean.lean_available()


@pytest.mark.parametrize("binding", BINDINGS)
def test_one_guest_runs_in_eight_threads_and_faults_stay_with_their_run(binding: type[PublicBinding]) -> None:
    gate = threading.Barrier(8)

    def outcomes(thread: int) -> set[Outcome]:
        def call(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
            if thread % 3 == 0:
                raise OwnFaultError(f"of {thread}")
            if thread % 3 == 1:
                raise StopGuest(f"of {thread}")
            return thread

        start_together(gate)
        return {loaded.run("go", imports={"call": HostCall(1, call)}) for _ in range(100)}

    with load(GUEST, replace(RULES, binding=binding)) as loaded, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(outcomes, range(8)))
    for thread, found in enumerate(results):
        (outcome,) = found
        kinds = (Ending.HOST_FAULT, Ending.STOPPED, Ending.RETURNED)
        assert outcome.ending is kinds[thread % 3]
        assert outcome.detail.endswith(f"of {thread}") or outcome.value == thread
    assert wasmtime._func.LAST_EXCEPTION is None


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_run_after_a_fault_knows_nothing_of_it(binding: type[PublicBinding]) -> None:
    def fail(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
        raise OwnFaultError

    with load(GUEST, replace(RULES, binding=binding)) as loaded:
        for _ in range(3):
            assert loaded.run("go", imports={"call": HostCall(1, fail)}).ending is Ending.HOST_FAULT
            assert loaded.run("go", imports={"call": HostCall(1, echo)}).value == 7


@pytest.mark.parametrize("binding", BINDINGS)
def test_no_run_begins_where_python_has_no_room_for_a_host_function(binding: type[PublicBinding]) -> None:
    def nested(depth: int) -> Outcome:
        return nested(depth - 1) if depth else loaded.run("go", imports={"call": HostCall(1, echo)})

    with load(GUEST, replace(RULES, binding=binding)) as loaded:
        endings: set[Ending | None] = set()
        for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
            try:
                endings.add(nested(depth).ending)
            except RecursionError:
                endings.add(None)
    assert endings <= {Ending.RETURNED, None}
    assert None in endings


def test_a_lean_callback_that_is_interrupted_ends_the_guest_and_raises_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Python raises KeyboardInterrupt between any two instructions, so also outside the host function's try.
    def interrupted(_request: object, _name: str, _call: HostCall) -> object:
        def host_function(_arguments: tuple[int, ...]) -> int:
            raise KeyboardInterrupt

        return host_function

    monkeypatch.setattr(_Request, "_host_function", interrupted)
    with load(GUEST, replace(RULES, binding=LeanBinding)) as loaded, pytest.raises(KeyboardInterrupt):
        loaded.run("loop", imports={"call": HostCall(1, echo)})


def test_a_lean_store_is_freed_once() -> None:
    with load(GUEST, replace(RULES, binding=LeanBinding)) as loaded:
        running = loaded._binding.open(RULES.limits)
        assert isinstance(running, LeanRunning)
        running.close()
        running.close()


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_store_is_freed_whatever_happens(
    binding: type[PublicBinding], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = _Request.close

    def note(request: _Request) -> None:
        close(request)
        closed.append(request)

    def interrupt(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Request, "close", note)
    with load(GUEST, replace(RULES, binding=binding)) as loaded, pytest.raises(KeyboardInterrupt):
        loaded.run("go", imports={"call": HostCall(1, interrupt)})
    assert len(closed) == 1


@pytest.mark.parametrize("binding", BINDINGS)
def test_an_export_that_was_not_there_is_wrong_use(binding: type[PublicBinding]) -> None:
    with load(GUEST, replace(RULES, binding=binding)) as loaded:
        with pytest.raises(ValueError, match="no function gone"):
            loaded.run("gone", imports={"call": HostCall(1, echo)})
        for handlers in ({}, {"call": HostCall(2, echo)}):
            with pytest.raises(ValueError, match="a handler of 1 parameters"):
                loaded.run("go", imports=handlers)
