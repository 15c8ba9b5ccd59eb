"""The same guest and inputs give the same outcome and fuel in both profiles, both bindings and every run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import wat2wasm

from wasm_sandbox import GuestMemory, HostCall, Limits, Outcome, Profile, Rules, load
from wasm_sandbox.engine import settings as engine_settings
from wasm_sandbox.engine import settings_digest
from wasm_sandbox.lean import LeanBinding
from wasm_sandbox.public import PublicBinding

if TYPE_CHECKING:
    from wasm_sandbox.binding import Binding

PAGE = 65_536
RULES = Rules({"call": 2}, Limits(fuel=20_000, memory_bytes=PAGE, host_calls=20), ["go"])
BINDINGS: list[type[Binding]] = [PublicBinding, LeanBinding]
WAYS = [
    replace(RULES, profile=profile, binding=binding)
    for profile, binding in itertools.product(Profile, BINDINGS)
]

constants = st.one_of(
    st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 65_532, 65_533, 65_536]), st.integers(-9, 99_999)
).map(lambda value: f"(i32.const {value})")
floats = st.sampled_from(["nan", "-nan:0x200000", "inf", "-inf", "-0", "1e38", "0x1p-149", "1.5"]).map(
    lambda value: f"(f32.const {value})"
)


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return i32 expressions over i32 expressions."""
    binary = st.sampled_from(
        [f"i32.{name}" for name in ("add", "sub", "mul", "div_s", "div_u", "rem_s", "xor", "shl", "lt_s")]
    )
    float_binary = st.sampled_from(
        [f"f32.{name}" for name in ("add", "sub", "mul", "div", "min", "copysign")]
    )
    real = st.one_of(floats, inner.map(lambda x: f"(f32.reinterpret_i32 {x})"))
    return st.one_of(
        st.builds("({} {} {})".format, binary, inner, inner),
        st.builds("(i32.load {})".format, inner),
        st.builds("(local.tee $i {})".format, inner),
        st.builds("(if (result i32) {} (then {}) (else {}))".format, inner, inner, inner),
        st.builds("(call $call {} {})".format, inner, inner),
        st.builds("(call_indirect (type $t) {} {})".format, inner, inner),
        st.builds("(i32.reinterpret_f32 ({} {} {}))".format, float_binary, real, real),
        st.builds("(i32.trunc_f32_s ({} {} {}))".format, float_binary, real, real),
        st.builds("(memory.grow {})".format, inner),
    )


expressions = st.recursive(st.one_of(constants, st.just("(local.get $i)")), wider, max_leaves=12)
statements = st.one_of(
    st.builds("(drop {})".format, expressions),
    st.builds("(i32.store {} {})".format, expressions, expressions),
    st.builds("(memory.fill {} {} {})".format, expressions, expressions, expressions),
    st.builds("(loop (br_if 0 {}))".format, expressions),
    st.just("unreachable"),
)
guests = st.builds(
    '(module (type $t (func (param i32) (result i32))) (import "chiron" "call" (func $call (param i32 i32) '
    '(result i32))) (memory (export "memory") 1 1) (data (i32.const 60) "seed") (table 3 funcref) '
    "(elem (i32.const 1) $twice) (func $twice (param i32) (result i32) "
    "(i32.add (local.get 0) (local.get 0))) "
    '(func (export "go") (result i32) (local $i i32) {} {}))'.format,
    st.lists(statements, max_size=4).map(" ".join),
    expressions,
)


def observe(text: str, rules: Rules) -> tuple[Outcome, list[tuple[tuple[int, ...], bytes]]]:
    """Run a guest and return its outcome and what each host call saw."""
    seen: list[tuple[tuple[int, ...], bytes]] = []

    def call(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        seen.append((arguments, bytes(memory.read(0, len(memory)))))
        memory.write(arguments[0], b"answer")
        return len(seen)

    with load(bytes(wat2wasm(text)), rules) as loaded:
        first = loaded.run("go", imports={"call": HostCall(2, call)}), list(seen)
        seen.clear()
        assert (loaded.run("go", imports={"call": HostCall(2, call)}), seen) == first
    return first


@settings(max_examples=40, deadline=None)
@given(text=guests)
def test_a_random_guest_has_one_outcome_whatever_runs_it(text: str) -> None:
    first, *others = (observe(text, rules) for rules in WAYS)
    for other in others:
        assert other == first


@pytest.mark.parametrize(
    "body",
    [
        "(i32.load (i32.const 65533))",
        "(i32.load offset=4294967295 (i32.const -1))",
        "(i32.div_s (i32.const -2147483648) (i32.const -1))",
        "(call_indirect (result i32) (i32.const 0))",
        "(call_indirect (result i32) (i32.const 9))",
        "(i32.trunc_f32_u (f32.const nan))",
        "(call $go)",
        "(loop br 0) (i32.const 1)",
        "unreachable",
    ],
)
def test_each_trap_is_the_same_in_both_profiles(body: str) -> None:
    go = f'(func $go (export "go") (result i32) {body})'
    text = f'(module (memory (export "memory") 1 1) (table 1 funcref) {go})'
    assert len({observe(text, rules)[0] for rules in WAYS}) == 1


def test_the_profiles_differ_in_traps_and_reservations_alone() -> None:
    default, enclave = (engine_settings(stack_bytes=16_384, profile=profile) for profile in Profile)
    assert {name for name in default if default[name] != enclave[name]} == {
        "signals_based_traps",
        "memory_reservation",
        "memory_guard_size",
    }
    assert set(default) == set(enclave)


def test_every_setting_changes_the_digest() -> None:
    digests = {
        settings_digest(stack_bytes=stack, profile=profile)
        for stack, profile in itertools.product((16_384, 16_385), Profile)
    }
    assert len(digests) == 4
