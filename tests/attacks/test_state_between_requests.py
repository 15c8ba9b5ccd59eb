"""Attack: a guest remembers one request to tell it in its answer to the next.

Hunt et al., "Ryoan", OSDI 2016: a module processes one unit of work and its memory is thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import wasmtime
from deployments import POLICY, POLICY_BYTES, VALUES, compiled, small_dataset

from chiron.guest_api.transforms import INPUT, Transformer, Transforms
from chiron.policy import kernel

if TYPE_CHECKING:
    from chiron.policy.types import Policy

SCHEMA = small_dataset().schema
ROW = 4 * VALUES
# Adds the row to what lies in memory, a global and a table from before, and gives the sum.
REMEMBERS = f"""(module
  (import "chiron" "take" (func $take (param i32 i32) (result i32)))
  (import "chiron" "give" (func $give (param i32 i32) (result i32)))
  (memory (export "memory") 2 2) (global $before (mut f32) (f32.const 0))
  (func (export "configure") (result i32) (i32.const 0)) (func (export "create") (result i32) (i32.const 0))
  (func (export "transform_input") (result i32)
    (drop (call $take (i32.const 0) (i32.const {ROW})))
    (f32.store (i32.const 4096) (f32.add (f32.load (i32.const 4096)) (f32.load (i32.const 0))))
    (global.set $before (f32.add (global.get $before) (f32.load (i32.const 0))))
    (f32.store (i32.const 0) (f32.load (i32.const 4096)))
    (f32.store (i32.const 4) (global.get $before))
    (drop (call $give (i32.const 0) (i32.const {ROW}))) (i32.const 0)))"""


def serving(policy: Policy) -> kernel.State:
    state = kernel.initial(policy, rows_class=SCHEMA.rows_class, spent={})
    return kernel.State(
        "Serve",
        10,
        state.label,
        state.alive,
        state.rows_class,
        state.header,
        state.sinks,
        state.uses,
        state.spent,
    )


def test_every_request_finds_a_fresh_guest() -> None:
    binary = bytes(wasmtime.wat2wasm(REMEMBERS))
    transforms = Transforms(binary, b"", (INPUT,))
    with Transformer(
        transforms, policy=POLICY_BYTES, schema=SCHEMA, compiled=compiled(binary)
    ) as transformer:
        for value in (5.0, 7.0, 5.0):
            row = np.full((1, VALUES), value, np.float32)
            given = transformer.apply(INPUT, row, state=serving(POLICY), deadline_ms=5000)
            assert given[0, :2].tolist() == [value, value], "nothing of the request before"


def test_the_guest_would_remember_in_one_instance() -> None:
    """The same module, twice in one instance by hand: the test above can fail."""
    store = wasmtime.Store()
    linker = wasmtime.Linker(store.engine)
    kind = wasmtime.FuncType([wasmtime.ValType.i32()] * 2, [wasmtime.ValType.i32()])
    for name in ("take", "give"):
        linker.define_func("chiron", name, kind, lambda _at, _size: 0)
    instance = linker.instantiate(store, wasmtime.Module(store.engine, REMEMBERS))
    exports = instance.exports(store)
    memory, run = exports["memory"], exports["transform_input"]
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(run, wasmtime.Func)
    for expected in (5.0, 10.0):
        memory.write(store, np.array([5.0], "<f4").tobytes(), 0)
        run(store)
        assert np.frombuffer(memory.read(store, 0, 8), "<f4").tolist() == pytest.approx([expected] * 2)
