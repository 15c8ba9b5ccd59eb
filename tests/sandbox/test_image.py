"""Machine code is run only when this runtime compiled it, for this guest, under these settings."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from components import component
from wasmtime import Module, wat2wasm
from wasmtime.component import Component

from wasm_sandbox import (
    ComponentRules,
    Ending,
    GuestRefusedError,
    HostCall,
    Limits,
    Profile,
    Rules,
    image,
    load,
    load_component_image,
    load_image,
    precompile,
)

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 65_536
LIMITS = Limits(fuel=1_000, memory_bytes=PAGE, compile_ms=60_000)
RULES = Rules({"call": 1}, LIMITS, ["go"])
KEY = bytes(range(32))


def returning(value: int) -> bytes:
    text = f"""(module (import "chiron" "call" (func $call (param i32) (result i32)))
      (memory (export "memory") 1 1)
      (func (export "go") (result i32) (call $call (i32.const {value}))))"""
    return bytes(wat2wasm(text))


GUEST = returning(7)


@pytest.fixture(scope="module")
def made() -> bytes:
    return precompile(GUEST, rules=RULES, key=KEY)


def refused(changed: bytes, guest: bytes = GUEST, *, rules: Rules = RULES, key: bytes = KEY) -> str:
    with pytest.raises(GuestRefusedError) as error:
        load_image(changed, guest, rules=rules, key=key)
    return error.value.rule


@pytest.mark.parametrize("profile", Profile)
def test_an_image_runs_as_its_guest_does(profile: Profile) -> None:
    rules = replace(RULES, profile=profile)
    handlers = {"call": HostCall(1, lambda _memory, arguments: arguments[0] * 2)}
    compiled = precompile(GUEST, rules=rules, key=KEY)
    with load_image(compiled, GUEST, rules=rules, key=KEY) as of_image, load(GUEST, rules) as of_guest:
        outcomes = [loaded.run("go", imports=handlers) for loaded in (of_image, of_guest) for _ in range(2)]
        assert of_image.info == of_guest.info
    assert outcomes[0].value == 14
    assert len(set(outcomes)) == 1


def test_an_image_with_any_byte_changed_is_refused_before_wasmtime_sees_it(
    made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object) -> Module:
        raise AssertionError("machine code that is not authentic reached wasmtime")

    monkeypatch.setattr(Module, "deserialize", never)
    for position in [*range(64), *range(64, len(made), 97), len(made) - 1]:
        changed = bytearray(made)
        changed[position] ^= 1
        assert refused(bytes(changed)) == "image"


def test_an_image_that_is_cut_or_longer_is_refused(made: bytes) -> None:
    for changed in (b"", made[:31], made[:32], made[:-1], made + b"\0", made[32:], made[:32] + made):
        assert refused(changed) == "image"


def test_an_image_of_another_guest_key_or_settings_is_refused(made: bytes) -> None:
    assert refused(made, returning(8)) == "image"
    assert refused(made, key=bytes(32)) == "image"
    assert refused(made, rules=replace(RULES, profile=Profile.DEFAULT)) == "image"
    assert refused(made, rules=replace(RULES, limits=replace(LIMITS, stack_bytes=16 << 10))) == "image"


def test_an_image_of_another_wasmtime_is_refused(made: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "version", lambda _name: "50.0.2")
    assert refused(made) == "image"


def test_authentic_bytes_that_are_no_machine_code_are_refused() -> None:
    assert refused(image.make_image(b"junk", GUEST, rules=RULES, key=KEY)) == "image"


def test_the_guests_rules_are_checked_again(made: bytes) -> None:
    assert refused(made, rules=replace(RULES, granted={})) == "imports"
    assert refused(made, rules=replace(RULES, exports=["came"])) == "exports"
    assert refused(made, rules=replace(RULES, limits=replace(LIMITS, memory_bytes=PAGE - 1))) == "memory"
    assert refused(made, rules=replace(RULES, limits=replace(LIMITS, module_bytes=8))) == "module-bytes"


def test_components_have_images_too_and_one_kind_is_never_taken_for_the_other(
    made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = component("(i32.const 5)")
    limits = replace(LIMITS, memory_bytes=4 * PAGE, component_bytes=1 << 20)
    rules = ComponentRules({}, limits, ["configure"])
    whole = precompile(guest, rules=rules, key=KEY)
    with load_component_image(whole, guest, rules=rules, key=KEY) as loaded:
        assert loaded.run("configure", imports={}).value == 5
    as_core = replace(RULES, limits=limits)
    as_component = replace(rules, granted={"call": "func(u32) -> result<_, s32>"})

    def never(*_arguments: object) -> object:
        raise AssertionError("machine code that is not authentic reached wasmtime")

    monkeypatch.setattr(Component, "deserialize", never)
    monkeypatch.setattr(Module, "deserialize", never)
    for changed in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:40], b"", made):
        with pytest.raises(GuestRefusedError, match="was not made by this runtime"):
            load_component_image(changed, guest, rules=rules, key=KEY)
    for image_, of in ((whole, guest), (image.make_image(whole[32:], GUEST, rules=rules, key=KEY), GUEST)):
        assert refused(image_, of, rules=as_core) == "image"
    with pytest.raises(GuestRefusedError, match="was not made by this runtime"):
        load_component_image(
            image.make_image(made[32:], guest, rules=RULES, key=KEY), guest, rules=as_component, key=KEY
        )


def test_authentic_bytes_that_are_no_component_are_refused() -> None:
    guest = component("(i32.const 5)")
    rules = ComponentRules({}, replace(LIMITS, component_bytes=1 << 20))
    junk = image.make_image(b"junk", guest, rules=rules, key=KEY)
    with pytest.raises(GuestRefusedError, match="another machine"):
        load_component_image(junk, guest, rules=rules, key=KEY)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        load_image(b"", GUEST, rules=RULES, key=bytes(length))


@pytest.mark.parametrize(
    ("guest", "rules", "rule"),
    [
        (b"(module)", RULES, "binary"),
        (GUEST + b"\1\0", RULES, "binary"),
        (GUEST, replace(RULES, granted={}), "imports"),
        (GUEST, replace(RULES, limits=replace(LIMITS, module_bytes=len(GUEST) - 1)), "module-bytes"),
    ],
    ids=["text", "junk", "imports", "size"],
)
def test_compiling_apart_refuses_as_loading_does(guest: bytes, rules: Rules, rule: str) -> None:
    with pytest.raises(GuestRefusedError) as of_load:
        load(guest, rules)
    with pytest.raises(GuestRefusedError) as of_precompile:
        precompile(guest, rules=rules, key=KEY)
    assert of_precompile.value.rule == rule
    assert str(of_precompile.value) == str(of_load.value)


def in_place_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, script: str, ms: int = 60_000
) -> str:
    """Compile with a program that does something else; return the rule that refuses."""
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(GuestRefusedError) as error:
        precompile(GUEST, rules=replace(RULES, limits=replace(LIMITS, compile_ms=ms)), key=KEY)
    return error.value.rule


def test_a_compiler_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/id; exec sleep 20"
    assert in_place_of_the_compiler(monkeypatch, tmp_path, script=script, ms=1_500) == "compile-time"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text(encoding="ascii")), 0)


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo null; echo code; exit 1", "kill -SEGV $$", "kill -ABRT $$", "exit 0", "cat >/dev/null"],
)
def test_a_compiler_that_dies_is_a_refusal(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert in_place_of_the_compiler(monkeypatch, tmp_path, script=script) == "compile-memory"


def test_the_smallest_memory_for_compiling_is_enough_for_a_small_guest() -> None:
    rules = replace(RULES, limits=replace(LIMITS, compile_bytes=64 << 20))
    with load_image(precompile(GUEST, rules=rules, key=KEY), GUEST, rules=rules, key=KEY) as loaded:
        outcome = loaded.run("go", imports={"call": HostCall(1, lambda _memory, _arguments: 0)})
    assert outcome.ending is Ending.RETURNED
