"""What a component may not be: each rule refuses before anything runs, and says what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from components import component
from wasmtime import wat2wasm

from wasm_sandbox import ComponentRules, GuestRefusedError, Limits, inspect, is_component, load_component

LIMITS = Limits(fuel=1000, memory_bytes=1 << 20, component_bytes=1 << 20)
BODY = "(i32.const 0)"
TAKE = "func(list<u8>) -> result<_, s32>"
GRANTED = {"take": TAKE, "give": "func(u32) -> result<list<f32>, s32>"}
CORE = bytes(wat2wasm('(module (memory (export "memory") 1 1))'))


def refusal(binary: bytes, limits: Limits = LIMITS) -> GuestRefusedError:
    with pytest.raises(GuestRefusedError) as caught:
        load_component(binary, ComponentRules(GRANTED, limits, ["configure"]))
    return caught.value


def test_what_obeys_the_rules_is_described() -> None:
    binary = component(BODY, calls={"take": TAKE})
    with load_component(binary, ComponentRules(GRANTED, LIMITS, ["configure"])) as guest:
        assert guest.info.imports == {"take"}
        assert guest.info.exports == {"configure", "create"}
        assert guest.info.module_bytes == len(binary)


def test_the_layer_tells_a_component_from_a_core_module() -> None:
    assert is_component(component(BODY))
    assert not is_component(CORE)
    assert not is_component(b"")
    assert not is_component(b"(component)")


def test_without_the_switch_no_component_is_even_compiled() -> None:
    error = refusal(b"\0asm\x0d\0\x01\0 nothing valid", replace(LIMITS, component_bytes=0))
    assert error.rule == "components"
    assert "switches components on" in error.reason


def test_the_core_lowering_refuses_a_component() -> None:
    with pytest.raises(GuestRefusedError, match="component"):
        inspect(component(BODY), granted={}, limits=LIMITS)


def test_a_component_over_its_size_is_refused_at_its_edge() -> None:
    binary = component(BODY)
    assert refusal(binary, replace(LIMITS, component_bytes=len(binary) - 1)).rule == "module-bytes"
    load_component(binary, ComponentRules({}, replace(LIMITS, component_bytes=len(binary)))).close()


@pytest.mark.parametrize(
    "binary",
    [b"", CORE, b"(component)", b"\0asm\x0c\0\x01\0", component(BODY)[:-1], component(BODY) + b"\0"],
    ids=["empty", "core", "text", "version 12", "cut off", "longer"],
)
def test_what_is_no_valid_component_is_refused(binary: bytes) -> None:
    assert refusal(binary).rule == "binary"


@pytest.mark.parametrize(
    ("interface", "name"),
    [
        ("wasi:io/streams@0.2.0", "wasi:io/streams@0.2.0"),
        ("wasi:random/random@0.2.0", "wasi:random/random@0.2.0"),
        ("chiron:guest/host@1.0.0", "chiron:guest/host@1.0.0"),
        ("chiron:guest/calls@2.0.0", "chiron:guest/calls@2.0.0"),
    ],
)
def test_another_interface_is_refused_by_its_name(interface: str, name: str) -> None:
    error = refusal(component(BODY, calls={"take": TAKE}, interface=interface))
    assert error.rule == "imports"
    assert repr(name) in error.reason


def test_a_call_that_was_not_granted_is_refused_by_its_name() -> None:
    error = refusal(component(BODY, calls={"take": TAKE, "more": TAKE}))
    assert error.rule == "imports"
    assert "calls@1.0.0#more" in error.reason


@pytest.mark.parametrize(
    "signature",
    [
        "func(list<s8>) -> result<_, s32>",
        "func(list<u32>) -> result<_, s32>",
        "func(u32) -> result<_, s32>",
        "func(list<u8>, u32) -> result<_, s32>",
        "func(list<u8>) -> result<list<u8>, s32>",
        "func(list<u8>) -> result<_, u32>",
    ],
)
def test_a_call_of_another_type_is_refused(signature: str) -> None:
    error = refusal(component(BODY, calls={"take": signature}))
    assert error.rule == "imports"
    assert TAKE in error.reason


@pytest.mark.parametrize(
    "imported",
    [
        '(import "take" (func))',
        '(import "chiron:guest/calls@1.0.0" (func))',
        '(import "m" (core module))',
        '(import "t" (type (sub resource)))',
        '(import "chiron:guest/calls@1.0.0" (instance (export "take" (type (sub resource)))))',
        '(import "chiron:guest/calls@1.0.0" (instance (export "take" (func))))',
    ],
    ids=["function", "function by the interface's name", "module", "resource", "resource in it", "no types"],
)  # fmt: skip
def test_an_import_of_another_kind_is_refused(imported: str) -> None:
    assert refusal(component(BODY, outside=imported)).rule == "imports"


def test_a_missing_export_is_named() -> None:
    assert refusal(component(BODY, model="other:model/model@1.0.0")).rule == "exports"
    with pytest.raises(GuestRefusedError, match="transform"):
        load_component(component(BODY), ComponentRules(GRANTED, LIMITS, ["configure", "transform"]))


@pytest.mark.parametrize("builtin", ["task.cancel", "waitable-set.new", "thread.yield", "context.get i32 0"])
def test_asynchronous_components_are_refused(builtin: str) -> None:
    assert refusal(component(BODY, outside=f"(core func (canon {builtin}))")).rule == "binary"


@pytest.mark.parametrize(
    "module",
    [
        "(memory i64 1)",
        "(memory 1) (memory 1)",
        "(memory 1 1 shared)",
        "(func (param exnref))",
        "(func (return_call 0))",
        "(type (struct))",
    ],
)
def test_features_that_core_guests_lack_components_lack_too(module: str) -> None:
    assert refusal(component(BODY, outside=f"(core module {module})")).rule == "binary"
