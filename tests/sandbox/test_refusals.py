"""What is refused before any of a guest's code runs."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import wat2wasm

from wasm_sandbox import GuestRefusedError, HostCall, Limits, inspect, run

PAGE = 65_536
LIMITS = Limits(fuel=1000, memory_bytes=4 * PAGE, module_bytes=4096)
GRANTED = {"log": 2, "batch": 4}
MEMORY = '(memory (export "memory") 1 1)'
GO = '(func (export "go") (result i32) i32.const 0)'


def refusal(binary: bytes, *, limits: Limits = LIMITS) -> GuestRefusedError:
    """Return the error of `inspect`, after checking that `run` refuses alike."""
    imports = {name: HostCall(count, lambda _memory, _arguments: 0) for name, count in GRANTED.items()}
    with pytest.raises(GuestRefusedError) as of_run:
        run(binary, export="go", imports=imports, limits=limits)
    with pytest.raises(GuestRefusedError) as of_inspect:
        inspect(binary, granted=GRANTED, limits=limits, exports=["go"])
    assert str(of_run.value) == str(of_inspect.value)
    return of_inspect.value


def module(text: str) -> bytes:
    return bytes(wat2wasm(f"(module {text})"))


GOOD = module(f'(import "chiron" "log" (func (param i32 i32) (result i32))) {MEMORY} {GO}')


def test_a_good_guest_is_described() -> None:
    info = inspect(GOOD, granted=GRANTED, limits=LIMITS, exports=["go"])
    assert info.digest == hashlib.sha256(GOOD).digest()
    assert (info.module_bytes, info.memory_bytes) == (len(GOOD), PAGE)
    assert (info.imports, info.exports) == (frozenset({"log"}), frozenset({"go"}))


@pytest.mark.parametrize(
    "binary",
    [
        b"",
        b"\0",
        b"\0asm",
        b"\0asm\x02\0\0\0",
        b"\0asm\x0d\0\x01\0",  # a component
        b"(module)",
        f"(module {MEMORY} {GO})".encode(),
        b"\x7fELF" + bytes(60),
        b"#include <stdio.h>",
    ],
)
def test_what_is_not_a_core_binary_is_refused(binary: bytes) -> None:
    assert refusal(binary).rule == "binary"


def test_text_is_told_apart_from_a_damaged_binary() -> None:
    assert "not text" in str(refusal(b"(module)"))
    assert "a component?" in str(refusal(b"\0asm\x0d\0\x01\0"))


def test_every_cut_of_a_guest_is_refused() -> None:
    for length in range(len(GOOD)):
        refusal(GOOD[:length])


@given(junk=st.binary(min_size=1, max_size=40))
def test_junk_after_the_preamble_is_refused(junk: bytes) -> None:
    refusal(b"\0asm\x01\0\0\0" + junk)


@pytest.mark.parametrize(
    "size", [b"\x80\x80\x80\x80\x10", b"\xff\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x00"]
)
def test_a_section_size_beyond_32_bits_is_refused(size: bytes) -> None:
    assert "section size" in str(refusal(b"\0asm\x01\0\0\0\x00" + size + bytes(16)))


@pytest.mark.parametrize("kind", [13, 14, 127, 255])
def test_an_unknown_section_is_refused(kind: int) -> None:
    assert f"unknown section {kind}" in str(refusal(GOOD + bytes([kind, 0])))


def test_size_is_checked_before_anything_else() -> None:
    error = refusal(b"junk" * 1025)
    assert error.rule == "module-bytes"
    assert "4100" in str(error)
    assert "4096" in str(error)


def test_a_guest_of_exactly_the_limit_is_admitted() -> None:
    inspect(GOOD, granted=GRANTED, limits=Limits(fuel=0, memory_bytes=PAGE, module_bytes=len(GOOD)))
    error = refusal(GOOD, limits=Limits(fuel=0, memory_bytes=PAGE, module_bytes=len(GOOD) - 1))
    assert error.rule == "module-bytes"


def test_a_start_function_is_refused() -> None:
    assert refusal(module(f"{MEMORY} {GO} (func $s) (start $s)")).rule == "start"


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ('"chiron" "socket" (func (param i32 i32) (result i32))', "'chiron.socket'"),
        ('"env" "log" (func (param i32 i32) (result i32))', "'env.log'"),
        ('"wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))', "fd_write"),
        ('"chiron" "memory" (memory 1 1)', "'chiron.memory'"),
        ('"chiron" "" (func (param i32 i32) (result i32))', "'chiron.'"),
    ],
)
def test_an_import_that_was_not_granted_is_named(wanted: str, shown: str) -> None:
    error = refusal(module(f"(import {wanted}) {GO}"))
    assert error.rule == "imports"
    assert shown in str(error)
    assert "grant it in the policy or drop the import" in str(error)


@pytest.mark.parametrize(
    "kind",
    [
        "(func (param i32) (result i32))",
        "(func (param i32 i32 i32) (result i32))",
        "(func (param i32 i32))",
        "(func (param i32 i32) (result i32 i32))",
        "(func (param i32 i64) (result i32))",
        "(func (param i32 i32) (result f32))",
        "(func (param i32 funcref) (result i32))",
        "(global i32)",
        "(memory 1 1)",
        "(table 1 funcref)",
    ],
)
def test_a_granted_import_of_another_type_is_refused(kind: str) -> None:
    error = refusal(module(f'(import "chiron" "log" {kind}) {GO}'))
    assert error.rule == "imports"
    assert "function of 2 i32" in str(error)


@pytest.mark.parametrize(
    ("memory", "shown"),
    [
        ("", "exactly one"),
        ("(memory 1 1)", "exactly one"),
        ('(memory (export "memory2") 1 1)', "exactly one"),
        ('(memory (export "memory") (export "again") 1 1)', "exactly one"),
        ('(memory (export "memory") 1)', "maximum none"),
        ('(memory (export "memory") 1 2)', "maximum 131072 bytes"),
        ('(memory (export "memory") 0 0)', "empty"),
        ('(memory (export "memory") 5 5)', "the limit is 262144"),
    ],
)
def test_a_memory_that_is_not_one_of_fixed_size_is_refused(memory: str, shown: str) -> None:
    error = refusal(module(f"{memory} {GO}"))
    assert error.rule == "memory"
    assert shown in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '(func (export "went") (result i32) i32.const 0)',
        '(func (export "go"))',
        '(func (export "go") (param i32) (result i32) i32.const 0)',
        '(func (export "go") (result i64) i64.const 0)',
        '(global (export "go") i32 i32.const 0)',
    ],
)
def test_a_guest_without_the_wanted_export_is_refused(text: str) -> None:
    error = refusal(module(f"{MEMORY} {text}"))
    assert error.rule == "exports"
    assert "go" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("(memory 1 1 shared)", id="threads"),
        pytest.param("(func (param i32) local.get 0 i32.const 1 i32.atomic.rmw.add drop)", id="atomics"),
        pytest.param("(memory i64 1 1)", id="memory64"),
        pytest.param(f"{MEMORY} (memory 1 1)", id="multi-memory"),
        pytest.param("(type (struct (field i32)))", id="gc"),
        pytest.param("(func (param (ref null func)) (param (ref func)))", id="function-references"),
        pytest.param("(tag $t) (func throw $t)", id="exceptions"),
        pytest.param("(func $f return_call $f)", id="tail-call"),
        pytest.param("(type $f (func)) (type $c (cont $f))", id="stack-switching"),
        pytest.param("(func (param v128 v128 v128) (result v128) local.get 0 local.get 1 local.get 2 "
                     "f32x4.relaxed_madd)", id="relaxed-simd"),
        pytest.param("(func (param i64 i64 i64 i64) (result i64 i64) local.get 0 local.get 1 local.get 2 "
                     "local.get 3 i64.add128)", id="wide-arithmetic"),
        pytest.param("(memory 1 1 (pagesize 1))", id="custom-page-sizes"),
    ],
)  # fmt: skip
def test_a_proposal_that_is_switched_off_is_refused(text: str) -> None:
    memory = "" if "(memory" in text else MEMORY
    assert refusal(module(f"{memory} {GO} {text}")).rule == "binary"


def test_a_long_import_name_is_shortened_in_the_message() -> None:
    error = refusal(module(f'(import "chiron" "{"x" * 3000}" (func)) {MEMORY} {GO}'))
    assert len(str(error)) < 300
