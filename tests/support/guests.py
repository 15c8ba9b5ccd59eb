"""Small guests written as text, for what a C compiler would not let through."""

from __future__ import annotations

import struct

import wasmtime

HEADER = (1, 16, 1, 4096, 5, 1000)  # epochs, batch, workers, parameters, slot_ms, create_ms
IMPORTS = {"header": 2, "graph": 2, "plan": 2, "batch": 4, "log": 2}


def escaped(data: bytes) -> str:
    """Return bytes as a WebAssembly text string."""
    return "".join(f"\\{byte:02x}" for byte in data)


def guest(
    *,
    configure: str = "",
    create: str = "",
    header: tuple[int, ...] = HEADER,
    graph: bytes = b"",
    extra: str = "",
) -> bytes:
    """Return a guest whose exports declare this header and emit this graph, after running the given code."""
    imports = "\n".join(
        f'(import "chiron" "{name}" (func ${name} (param {"i32 " * count}) (result i32)))'
        for name, count in IMPORTS.items()
    )
    declared = escaped(struct.pack("<6I", *header))
    plan = escaped(struct.pack("<IIfffIII", 1, 0, 0.1, 0.0, 0.0, 0, 0, 0))
    pages = 2 + len(graph) // 65536
    text = f"""(module {imports} {extra}
      (memory (export "memory") {pages} {pages})
      (data (i32.const 0) "{declared}") (data (i32.const 64) "{plan}")
      (data (i32.const 256) "{escaped(graph)}")
      (func (export "configure") (result i32) (local $i i32) {configure}
        (drop (call $header (i32.const 0) (i32.const 24))) (i32.const 0))
      (func (export "create") (result i32) (local $i i32) {create}
        (drop (call $graph (i32.const 256) (i32.const {len(graph)})))
        (drop (call $plan (i32.const 64) (i32.const 32))) (i32.const 0)))"""
    return bytes(wasmtime.wat2wasm(text))


LOOP = "(loop $again (br $again))"
TRAP = "(unreachable)"
