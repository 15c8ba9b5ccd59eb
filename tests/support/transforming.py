"""Guests with transforms, written as text: each takes all rows at once, changes them and gives them back."""

from __future__ import annotations

import struct

import wasmtime
from guests import HEADER, escaped

IMPORTS = ("header", "graph", "plan", "take", "give", "keep", "kept", "random", "log")
ROWS, NOTES, SEEN = 1 << 17, 1 << 12, 1 << 13  # addresses: rows, what was kept, what an instance remembers
PAGES = 72  # 4 MiB of rows behind the first two pages

# For every value of the $n bytes at ROWS: the code between, with the value's address in $i.
EACH = """(local.set $i (i32.const {rows}))
  (block $done (loop $next
    (br_if $done (i32.ge_u (local.get $i) (i32.add (i32.const {rows}) (local.get $n))))
    {code}
    (local.set $i (i32.add (local.get $i) (i32.const 4))) (br $next)))"""
TAKE = f"(local.set $n (call $take (i32.const {ROWS}) (i32.const {1 << 22})))"
GIVE = f"(drop (call $give (i32.const {ROWS}) (local.get $n)))"
SCALE = "(f32.store (local.get $i) (f32.mul (f32.load (local.get $i)) (f32.const {factor})))"


def each(code: str) -> str:
    """Return code that runs for every value."""
    return EACH.format(rows=ROWS, code=code)


def scaled(factor: float) -> str:
    """Return a transform that multiplies every value."""
    return TAKE + each(SCALE.format(factor=factor)) + GIVE


def transforming(
    exports: dict[str, str], *, graph: bytes = b"", header: tuple[int, ...] = HEADER, create: str = ""
) -> bytes:
    """Return a guest that declares this header, emits this graph and has these transforms."""
    imports = "\n".join(
        f'(import "chiron" "{name}" (func ${name} (param i32 i32) (result i32)))' for name in IMPORTS
    )
    transforms = "\n".join(
        f'(func (export "{name}") (result i32) (local $i i32) (local $n i32) {code} (i32.const 0))'
        for name, code in exports.items()
    )
    declared = escaped(struct.pack("<6I", *header))
    plan = escaped(struct.pack("<IIfffIII", 1, 0, 0.1, 0.0, 0.0, 0, 0, 0))
    text = f"""(module {imports}
      (memory (export "memory") {PAGES} {PAGES})
      (data (i32.const 0) "{declared}") (data (i32.const 64) "{plan}")
      (data (i32.const {ROWS}) "{escaped(graph)}")
      (func (export "configure") (result i32)
        (drop (call $header (i32.const 0) (i32.const 24))) (i32.const 0))
      (func (export "create") (result i32) (local $i i32) (local $n i32) {create}
        (drop (call $graph (i32.const {ROWS}) (i32.const {len(graph)})))
        (drop (call $plan (i32.const 64) (i32.const 32))) (i32.const 0))
      {transforms})"""
    return bytes(wasmtime.wat2wasm(text))
