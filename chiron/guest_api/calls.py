"""The host calls: one table that binds each import of spec/guest.wit to the monitor and the data set.

Every handler asks the monitor first and acts only when it is granted; a denial stops the guest.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.dataset import as_float
from chiron.policy.header import FIELDS, Header, encode_header
from chiron.policy.types import PolicyError
from wasm_sandbox import GuestMemory, HostCall, StopGuest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset, Float32Array, Schema
    from chiron.guest_api.monitor import Monitor

REFUSED, NO_ROOM = -1, -2  # status codes of spec/guest.wit
SCHEMA_VERSION = 1
MAX_RANDOM_BYTES = 1 << 24
_SCHEMA = struct.Struct("<8I")
_HEADER = struct.Struct(f"<{len(FIELDS)}I")
CALL_PARAMETERS: Mapping[str, int] = {
    "schema": 2,
    "random": 2,
    "header": 2,
    "log": 2,
    "statistics": 4,
    "batch": 4,
    "targets": 4,
    "graph": 2,
    "plan": 2,
    "keep": 2,
    "kept": 2,
    "take": 2,
    "give": 2,
}
ALL_VALUES, ONE_COLUMN, ROWS_PER_TARGET, ROW_COUNTS = range(4)


@dataclass(slots=True)
class Flow:
    """What one run of a transform is given: its rows (float32, little-endian), and the notes of `create`."""

    rows: memoryview
    row_bytes: int
    notes: bytes
    taken: int = 0


class HostCalls:
    """The host's end of one run of a guest. `flow` is for a transform, `dataset` for `create`."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        schema: Schema,
        seed: bytes,
        dataset: Dataset | None = None,
        flow: Flow | None = None,
    ) -> None:
        self._monitor = monitor
        self._schema = schema
        self._seed = seed
        self._dataset = dataset
        self._flow = flow
        self._drawn = 0

    def imports(self) -> dict[str, HostCall]:
        """Return every import a guest may name, with its count of i32 parameters."""
        handlers = {
            "schema": self._read_schema,
            "random": self._random,
            "header": self._header,
            "log": self._log,
            "statistics": self._statistics,
            "batch": self._batch,
            "targets": self._targets,
            "graph": self._graph,
            "plan": self._plan,
            "keep": self._keep,
            "kept": self._kept,
            "take": self._take,
            "give": self._give,
        }
        return {name: HostCall(CALL_PARAMETERS[name], handler) for name, handler in handlers.items()}

    def _granted(self, name: str, payload: bytes = b"") -> None:
        if not self._monitor.call(name, payload):
            raise StopGuest(f"host call {name!r} is not granted in this phase, or its sink is full")

    def _granted_data(self, name: str) -> Dataset:
        self._granted(name)
        if self._dataset is None:
            raise StopGuest(f"host call {name!r} has no data set in this run")
        return self._dataset

    def _read_schema(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        self._granted("schema")
        pointer, capacity = arguments
        shape = (*self._schema.shape, 1, 1)[:3]
        counts = (SCHEMA_VERSION, self._schema.rows_class, len(self._schema.shape), *shape)
        return _give(memory, pointer, capacity, _SCHEMA.pack(*counts, self._schema.classes, 0))

    def _random(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        self._granted("random")
        pointer, count = arguments
        if count > MAX_RANDOM_BYTES:
            return REFUSED
        domain = self._seed + self._monitor.state.phase.encode() + self._drawn.to_bytes(8, "little")
        self._drawn += 1
        memory.write(pointer, hashlib.shake_256(domain).digest(count))
        return 0

    def _header(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        pointer, size = arguments
        if size != _HEADER.size:
            return REFUSED
        header = Header(*_HEADER.unpack(memory.read(pointer, size)))
        try:
            number = encode_header(self._monitor.policy.menus, header)
        except PolicyError:
            return REFUSED  # the guest learns that a field is off its menu, and may choose again
        self._granted("header", number.to_bytes(8, "little"))
        return 0

    def _log(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return self._emit("log", memory, arguments)

    def _graph(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return self._emit("graph", memory, arguments)

    def _plan(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return self._emit("plan", memory, arguments)

    def _keep(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return self._emit("keep", memory, arguments)

    def _give(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        return self._emit("give", memory, arguments)

    def _kept(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        flow = self._granted_flow("kept")
        pointer, capacity = arguments
        return _give(memory, pointer, capacity, flow.notes)

    def _take(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        flow = self._granted_flow("take")
        pointer, capacity = arguments
        whole = flow.rows[flow.taken : flow.taken + capacity // flow.row_bytes * flow.row_bytes]
        if not whole and flow.taken < len(flow.rows):
            return NO_ROOM
        flow.taken += len(whole)
        return _give(memory, pointer, capacity, whole)

    def _granted_flow(self, name: str) -> Flow:
        self._granted(name)
        if self._flow is None:
            raise StopGuest(f"host call {name!r} has no rows in this run")
        return self._flow

    def _emit(self, name: str, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        pointer, size = arguments
        self._granted(name, bytes(memory.read(pointer, size)))
        return 0

    def _statistics(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        dataset = self._granted_data("statistics")
        kind, index, pointer, capacity = arguments
        values = _statistics(dataset, kind, index)
        return REFUSED if values is None else _give(memory, pointer, capacity, values.tobytes())

    def _batch(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        dataset = self._granted_data("batch")
        first, count, pointer, capacity = arguments
        if first + count > len(dataset.rows):
            return REFUSED
        size = count * dataset.schema.row_values * 4
        if size > capacity:
            return NO_ROOM
        return _give(memory, pointer, capacity, as_float(dataset.rows[first : first + count]).tobytes())

    def _targets(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        dataset = self._granted_data("targets")
        first, count, pointer, capacity = arguments
        if first + count > len(dataset.targets):
            return REFUSED
        return _give(
            memory, pointer, capacity, dataset.targets[first : first + count].astype("<i4").tobytes()
        )


def _give(memory: GuestMemory, pointer: int, capacity: int, data: bytes | memoryview) -> int:
    if len(data) > capacity:
        return NO_ROOM
    memory.write(pointer, data)
    return len(data)


def _statistics(dataset: Dataset, kind: int, index: int) -> Float32Array | None:
    """Return float32 statistics of the training rows, or None for a question that does not exist."""
    if kind == ALL_VALUES:
        return _summary(dataset.rows)
    if kind == ONE_COLUMN and index < dataset.schema.row_values:
        return _summary(dataset.rows.reshape(len(dataset.rows), -1)[:, index])
    if kind == ROWS_PER_TARGET:
        return np.bincount(dataset.targets, minlength=dataset.schema.classes).astype("<f4")
    if kind == ROW_COUNTS:
        return np.array([len(dataset.rows), len(dataset.held_out_rows)], dtype="<f4")
    return None


def _summary(values: NDArray[np.generic]) -> Float32Array:
    """Return mean, standard deviation, minimum and maximum, accumulated in float64."""
    scale = 1 / 255 if values.dtype == np.uint8 else 1.0
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    summary = np.array([mean, deviation, values.min(), values.max()], dtype=np.float64) * scale
    return summary.astype("<f4")
