"""Small components written as text, for what componentize-py would not let through."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import wasmtime

from wasm_sandbox.component_types import HOST_INTERFACE, MODEL_INTERFACE

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_AT = 16  # where a call's result lies: u32 of 0 (ok) or 1 (err), then status, or address and length


def component(
    body: str,
    *,
    calls: Mapping[str, str] | None = None,
    before: str = "",
    pages: str = "2",
    interface: str = HOST_INTERFACE,
    model: str = MODEL_INTERFACE,
    outside: str = "",
) -> bytes:
    """Return a component whose `configure` and `create` both have the given body.

    Args:
        body: code of a core function that returns an i32. `$NAME` calls a host call: a number is one i32, a
            list is address and length, and the last parameter is the address of the result, `ANSWER_AT`.
        calls: types of the host calls, as WIT writes them without names.
        before: declarations in the core module.
        pages: of its memory: minimum and, if there is one, maximum.
        interface: what it imports the calls from.
        model: what it exports its function in.
        outside: declarations in the component.
    """
    calls = calls or {}
    types = "".join(f'(export "{name}" {_component_type(text)})' for name, text in calls.items())
    lowered = "".join(
        f'(alias export $host "{name}" (func ${name})) '
        f"(core func ${name} (canon lower (func ${name}) (memory $memory) (realloc $realloc)))"
        for name in calls
    )
    wanted = "".join(
        f'(import "host" "{name}" (func ${name} (param {_flat(text)} i32)))' for name, text in calls.items()
    )
    given = "".join(f'(export "{name}" (func ${name}))' for name in calls)
    host = f'(import "{interface}" (instance $host {types}))' if calls else ""
    text = f"""(component {host} {outside}
      {_base(pages)}
      (core instance $base (instantiate $base))
      (alias core export $base "memory" (core memory $memory))
      (alias core export $base "realloc" (core func $realloc))
      {lowered}
      (core module $main {wanted} (import "base" "memory" (memory {pages.split(maxsplit=1)[0]})) {before}
        (func $go (export "go") (result i32) (local $i i32) {body}))
      (core instance $main (instantiate $main
        (with "base" (instance $base)) (with "host" (instance {given}))))
      (func $go (result s32) (canon lift (core func $main "go")))
      (instance $model (export "configure" (func $go)) (export "create" (func $go)))
      (export "{model}" (instance $model)))"""
    return bytes(wasmtime.wat2wasm(text))


def _base(pages: str) -> str:
    """Return the core module that has the memory, and an allocator that grows it and frees nothing."""
    return f"""(core module $base (memory (export "memory") {pages}) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
          (global.set $top (i32.add (local.get $at) (local.get 3)))
          (loop (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
            (then (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br 1))))
          (local.get $at)))"""


def _component_type(signature: str) -> str:
    parameters, result = re.fullmatch(r"func\((.*)\) -> (.*)", signature).groups()  # type: ignore[union-attr]
    named = "".join(f'(param "p{i}" {_value(kind)})' for i, kind in enumerate(parameters.split(", ")) if kind)
    return f"(func {named} (result {_value(result)}))"


def _value(kind: str) -> str:
    if kind.startswith("list<"):
        return f"(list {kind[5:-1]})"
    if kind.startswith("result<"):
        good, bad = kind[7:-1].split(", ")
        return f"(result {'' if good == '_' else _value(good)} (error {bad}))"
    return kind


def _flat(signature: str) -> str:
    parameters = signature[len("func(") : signature.index(")")].split(", ")
    return " ".join("i32 i32" if kind.startswith("list<") else "i32" for kind in parameters if kind)
