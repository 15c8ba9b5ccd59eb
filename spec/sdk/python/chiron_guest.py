# ruff: noqa: INP001 - copied into a guest, which is no package
"""Chiron guest interface, version 1, for Python: see spec/guest.wit for what every call does.

A guest is a module with a class `Model` that has the methods `configure` and `create`, each returning 0; if
it transforms, its class `WitWorld` has any of `transform_input`, `augment` and `transform_output`. It runs
from a snapshot that `chiron build` takes after its imports: import at the top, there are no files later.
Python computes in float64; where a guest in C would compute in float32, round every step with `f32`.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from componentize_py_types import Err
from wit_world.imports import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REFUSED, NO_ROOM = -1, -2
ALL_VALUES, ONE_COLUMN, ROWS_PER_TARGET, ROW_COUNTS, ROWS_TO_READ = range(5)
SGD, ADAMW = range(2)
CONSTANT, COSINE = range(2)
FAILED_AT_LINE = 100_000
MESSAGE_BYTES = 1 << 20
_FLOAT = struct.Struct("<f")
_PLAN = struct.Struct("<IIfffIII")
_AUGMENTATION = struct.Struct("<HBB3f3fI")
_RANDOM_BLOCK_BYTES = 4096  # what chiron.h draws at once: the same numbers follow
_MEAN = 4 * 65535 / 2


class Schema(NamedTuple):
    """What is public of the data set; `rows` is a size class, `shape` one row's."""

    version: int
    rows: int
    shape: tuple[int, ...]
    classes: int

    @property
    def row_values(self) -> int:
        """Values in one row."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def f32(value: float) -> float:
    """Round to float32: of a sum, product, quotient or root of two float32 this is the float32 operation."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    return rounded


def clamp(value: float, low: float, high: float) -> float:
    """Return the value, or the nearer end of the range that it lies outside of."""
    return low if value < low else high if value > high else value  # noqa: FURB136 - as chiron_clamp


def traced(method: Callable[..., int]) -> Callable[..., int]:
    """Turn an exception of `configure` or `create` into the result 100000 + the line that it came through.

    There is no standard error to write to: this number is what `chiron dry-run` shows of an exception.
    """

    def guarded(model: object) -> int:
        try:
            return method(model)
        except Exception as error:  # noqa: BLE001 - whatever the guest did
            line, step = 0, error.__traceback__
            while step is not None:
                if step.tb_frame.f_code.co_filename == method.__code__.co_filename:
                    line = step.tb_lineno
                step = step.tb_next
            return FAILED_AT_LINE + line

    return guarded


def schema() -> Schema:
    """Return what is public of the data set."""
    version, rows, rank, *shape, classes, _ = calls.schema()
    return Schema(version, rows, tuple(shape[:rank]), classes)


def header(*, epochs: int, batch: int, workers: int, parameters: int, slot_ms: int, create_ms: int) -> int:
    """Declare the public header, once; return 0 or a status."""
    try:
        calls.header([epochs, batch, workers, parameters, slot_ms, create_ms])
    except Err as error:
        return int(error.value)
    return 0


def log(text: str) -> None:
    """Append to the debug log; only in configure."""
    calls.log(text.encode())


def statistics(kind: int, index: int = 0) -> list[float]:
    """Return statistics of the training rows; only in create."""
    values: list[float] = calls.statistics(kind, index)
    return values


def rows(schema_: Schema, count: int) -> Iterator[tuple[list[float], list[int]]]:
    """Yield the first `count` training rows (flat float32) with their targets, a message at a time."""
    at_once = max(1, MESSAGE_BYTES // (4 * schema_.row_values))
    for first in range(0, count, at_once):
        some = min(at_once, count - first)
        yield calls.batch(first, some), calls.targets(first, some)


def graph(model: bytes) -> None:
    """Emit the ONNX model."""
    for first in range(0, len(model), MESSAGE_BYTES):
        calls.graph(model[first : first + MESSAGE_BYTES])


def keep(notes: bytes) -> None:
    """Append to what the transforms can read, at most 64 KiB in all; only in create."""
    calls.keep(notes)


def kept() -> bytes:
    """Return what create kept; only in a transform."""
    notes: bytes = calls.kept()
    return notes


def take() -> Iterator[list[float]]:
    """Yield the rows to transform, some whole ones at a time, flat; only in a transform."""
    while values := calls.take():
        yield values


def give(values: list[float]) -> None:
    """Append transformed rows; only in a transform."""
    for first in range(0, len(values), MESSAGE_BYTES // 4):
        calls.give(values[first : first + MESSAGE_BYTES // 4])


def plan(
    *,
    optimiser: int,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: int = CONSTANT,
    warmup_steps: int = 0,
    changes: bytes = b"",
) -> None:
    """Say how to train, once; `changes` is what trusted code does to rows, from `augmentation`."""
    numbers = (optimiser, learning_rate, momentum, weight_decay, schedule, warmup_steps, 0)
    calls.plan(_PLAN.pack(2 if changes else 1, *numbers) + changes)


def augmentation(
    *, crop_padding: int = 0, flip: bool = False, mean: Sequence[float] = (), deviation: Sequence[float] = ()
) -> bytes:
    """Return what trusted code does to rows: see plan in guest.wit."""
    padded = [*mean, *[0.0] * (3 - len(mean)), *deviation, *[0.0] * (3 - len(deviation))]
    return _AUGMENTATION.pack(crop_padding, flip, len(mean), *padded, 0)


class Random:
    """Pseudo-random numbers from the job's seed: the same as `ChironRandom` in chiron.h gives."""

    def __init__(self) -> None:
        self._scale = f32(1 / f32(65536 * f32(0.57735027)))  # sqrt(4 / 12)
        self._ready = array("f")

    def gaussians(self, count: int, *, deviation: float) -> bytes:
        """Return float32 of mean 0, nearly normal: each the sum of four uniform ones (Irwin-Hall)."""
        while len(self._ready) < count:
            block = array("H", calls.random(_RANDOM_BLOCK_BYTES))
            sums = zip(block[::4], block[1::4], block[2::4], block[3::4], strict=True)
            self._ready.extend([(a + b + c + d - _MEAN) * self._scale for a, b, c, d in sums])
        drawn, self._ready = self._ready[:count], self._ready[count:]
        return array("f", [deviation * value for value in drawn]).tobytes()
