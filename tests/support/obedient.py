"""A guest that behaves as the data, or a constant in it, tells it to: well, or badly in one of many ways."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import cache

import numpy as np
import wasmtime
from deployments import CLASSES, VALUES
from graphs import linear
from guests import IMPORTS, escaped
from networks import Network, perceptron

HEADER = (2, 16, 2, 4096, 50, 1000)  # epochs, batch, workers, parameters, slot_ms, create_ms
PLACE = VALUES - 1  # the value of the first row that tells the guest what to do


class Does(IntEnum):
    """What the guest does in `create`."""

    GOOD = 0
    OTHER_NETWORK = 1  # another graph, optimiser and rate, also good
    TRAP = 2
    LOOP = 3
    DENIED_CALL = 4
    BAD_GRAPH = 5
    NOTHING = 6  # neither graph nor plan
    DIVERGES = 7  # in training, from weights that overflow
    FAILS = 8  # returns another number than zero
    FLOODS = 9  # writes more than its sink holds
    AUGMENT_TRAPS = 10  # and creates a good network
    AUGMENT_LOOPS = 11
    AUGMENT_GIVES_NOTHING = 12


@cache
def _networks() -> dict[Does, bytes]:
    huge = Network((VALUES,), CLASSES)
    huge.add("Gemm", huge.values("w", np.full((VALUES, CLASSES), 3e38, dtype=np.float32)))
    return {
        Does.GOOD: linear(VALUES, CLASSES),
        Does.OTHER_NETWORK: perceptron(VALUES, 5, CLASSES).encoded(),
        Does.BAD_GRAPH: linear(VALUES, CLASSES, operator="MatMul"),
        Does.DIVERGES: huge.encoded(),
    }


def _plan(optimiser: int, rate: float) -> str:
    return escaped(struct.pack("<IIfffIII", 1, optimiser, rate, 0.0, 0.0, 0, 0, 0))


AUGMENT = f"""(func (export "augment") (result i32) (local $n i32)
  (drop (call $kept (i32.const 600) (i32.const 4)))
  (if (i32.eq (i32.load (i32.const 600)) (i32.const {Does.AUGMENT_TRAPS.value})) (then unreachable))
  (if (i32.eq (i32.load (i32.const 600)) (i32.const {Does.AUGMENT_LOOPS.value}))
    (then (loop $again (br $again))))
  (if (i32.eq (i32.load (i32.const 600)) (i32.const {Does.AUGMENT_GIVES_NOTHING.value}))
    (then (return (i32.const 0))))
  (local.set $n (call $take (i32.const {1 << 17}) (i32.const {1 << 22})))
  (drop (call $give (i32.const {1 << 17}) (local.get $n))) (i32.const 0))"""


@cache
def obedient_guest(constant: int = 0, *, log: str = "", augments: bool = False) -> bytes:
    """Return a guest that does what the first row's last value plus `constant` says.

    `log` is what its `configure` tells the operator; `augments` gives it a transform that hands back the
    rows.
    """
    imports = "\n".join(
        f'(import "chiron" "{name}" (func ${name} (param {"i32 " * count}) (result i32)))'
        for name, count in (IMPORTS | {"keep": 2, "kept": 2, "take": 2, "give": 2}).items()
    )
    networks = "".join(
        f'(data (i32.const {1024 * (1 + does)}) "{escaped(graph)}")' for does, graph in _networks().items()
    )
    emit = "".join(
        f"(if (i32.eq (local.get $graph) (i32.const {does.value})) (then "
        f"(drop (call $graph (i32.const {1024 * (1 + does)}) (i32.const {len(graph)})))))"
        for does, graph in _networks().items()
    )
    text = f"""(module {imports} {AUGMENT if augments else ""}
      (memory (export "memory") 600 600)
      (data (i32.const 0) "{escaped(struct.pack("<6I", *HEADER))}")
      (data (i32.const 64) "{_plan(0, 0.1)}") (data (i32.const 96) "{_plan(1, 0.05)}")
      (data (i32.const 256) "{escaped(log.encode())}")
      {networks}
      (func (export "configure") (result i32)
        (drop (call $log (i32.const 256) (i32.const {len(log)})))
        (drop (call $header (i32.const 0) (i32.const 24))) (i32.const 0))
      (func (export "create") (result i32) (local $does i32) (local $graph i32)
        (drop (call $batch (i32.const 0) (i32.const 1) (i32.const 512) (i32.const {4 * VALUES})))
        (local.set $does (i32.add (i32.const {constant})
          (i32.trunc_f32_s (f32.load (i32.const {512 + 4 * PLACE})))))
        (i32.store (i32.const 600) (local.get $does))
        (drop (call $keep (i32.const 600) (i32.const 4)))
        (if (i32.eq (local.get $does) (i32.const {Does.TRAP.value})) (then unreachable))
        (if (i32.eq (local.get $does) (i32.const {Does.LOOP.value})) (then (loop $again (br $again))))
        (if (i32.eq (local.get $does) (i32.const {Does.DENIED_CALL.value}))
          (then (drop (call $log (i32.const 0) (i32.const 4)))))
        (if (i32.eq (local.get $does) (i32.const {Does.FLOODS.value}))
          (then (drop (call $graph (i32.const 0) (i32.const {34 << 20})))))
        (if (i32.eq (local.get $does) (i32.const {Does.NOTHING.value})) (then (return (i32.const 0))))
        (if (i32.eq (local.get $does) (i32.const {Does.FAILS.value})) (then (return (i32.const 3))))
        (local.set $graph (select (i32.const 0) (local.get $does)
          (i32.ge_u (local.get $does) (i32.const {Does.AUGMENT_TRAPS.value}))))
        {emit}
        (drop (call $plan (select (i32.const 96) (i32.const 64)
          (i32.eq (local.get $does) (i32.const 1))) (i32.const 32)))
        (i32.const 0)))"""
    return bytes(wasmtime.wat2wasm(text))
