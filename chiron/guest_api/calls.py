"""The host calls: what each import of spec/guest.wit does, over bytes and integers.

Every handler asks the monitor first and acts only when it is granted; a denial stops the guest. How a guest
hands over bytes and integers is chiron.guest_api.lowering's affair.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.dataset import as_float
from chiron.guest_api.lowering import NO_ROOM, REFUSED, component_imports, core_imports
from chiron.guest_api.statistics import ROWS_TO_READ, Statistics
from chiron.policy.header import FIELDS, Header, encode_header
from chiron.policy.types import PolicyError
from wasm_sandbox import StopGuest

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Dataset, Schema
    from chiron.guest_api.lowering import Answer, Buffer, Logic
    from chiron.guest_api.monitor import Monitor
    from wasm_sandbox import ComponentCall, HostCall

SCHEMA_VERSION = 1
MAX_RANDOM_BYTES = 1 << 24
_SCHEMA = struct.Struct("<8I")
_HEADER = struct.Struct(f"<{len(FIELDS)}I")


@dataclass(slots=True)
class Flow:
    """What one run of a transform is given: its rows (float32, little-endian), and the notes of `create`."""

    rows: memoryview
    row_bytes: int
    notes: bytes
    taken: int = 0


class HostCalls:
    """The host's end of one run of a guest. `flow` is for a transform, `dataset` for `create`.

    The data set may hold the first chunks alone; `statistics` are then of all rows.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        schema: Schema,
        seed: bytes,
        dataset: Dataset | None = None,
        statistics: Statistics | None = None,
        flow: Flow | None = None,
    ) -> None:
        self._monitor = monitor
        self._schema = schema
        self._seed = seed
        self._dataset = dataset
        self._statistics_of = statistics
        self._flow = flow
        self._drawn = 0

    def imports(self) -> dict[str, HostCall]:
        """Return every import that a core guest may name."""
        return core_imports(self._table())

    def component_imports(self) -> dict[str, ComponentCall]:
        """Return every import that a component may name."""
        return component_imports(self._table())

    def _table(self) -> dict[str, Logic]:
        return {
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

    def _granted(self, name: str, payload: bytes = b"") -> None:
        if not self._monitor.call(name, payload):
            raise StopGuest(f"host call {name!r} is not granted in this phase, or its sink is full")

    def _granted_data(self, name: str) -> Dataset:
        self._granted(name)
        if self._dataset is None:
            raise StopGuest(f"host call {name!r} has no data set in this run")
        return self._dataset

    def _read_schema(self, _numbers: tuple[int, ...], _buffer: Buffer) -> Answer:
        self._granted("schema")
        shape = (*self._schema.shape, 1, 1)[:3]
        counts = (SCHEMA_VERSION, self._schema.rows_class, len(self._schema.shape), *shape)
        return _SCHEMA.pack(*counts, self._schema.classes, 0)

    def _random(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        self._granted("random")
        if buffer.size > min(MAX_RANDOM_BYTES, buffer.most):
            return REFUSED
        domain = self._seed + self._monitor.state.phase.encode() + self._drawn.to_bytes(8, "little")
        self._drawn += 1
        return hashlib.shake_256(domain).digest(buffer.size)

    def _header(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        if buffer.size != _HEADER.size:
            return REFUSED
        header = Header(*_HEADER.unpack(buffer.read()))
        try:
            number = encode_header(self._monitor.policy.menus, header)
        except PolicyError:
            return REFUSED  # the guest learns that a field is off its menu, and may choose again
        self._granted("header", number.to_bytes(8, "little"))
        return 0

    def _log(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        return self._emit("log", buffer)

    def _graph(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        return self._emit("graph", buffer)

    def _plan(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        return self._emit("plan", buffer)

    def _keep(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        return self._emit("keep", buffer)

    def _give(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        return self._emit("give", buffer)

    def _kept(self, _numbers: tuple[int, ...], _buffer: Buffer) -> Answer:
        return self._granted_flow("kept").notes

    def _take(self, _numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        flow = self._granted_flow("take")
        whole = flow.rows[flow.taken : flow.taken + buffer.size // flow.row_bytes * flow.row_bytes]
        if not whole and flow.taken < len(flow.rows):
            return NO_ROOM
        flow.taken += len(whole)
        return np.frombuffer(whole, dtype="u1")

    def _granted_flow(self, name: str) -> Flow:
        self._granted(name)
        if self._flow is None:
            raise StopGuest(f"host call {name!r} has no rows in this run")
        return self._flow

    def _emit(self, name: str, buffer: Buffer) -> Answer:
        self._granted(name, buffer.read())
        return 0

    def _statistics(self, numbers: tuple[int, ...], _buffer: Buffer) -> Answer:
        dataset = self._granted_data("statistics")
        kind, index = numbers
        if kind == ROWS_TO_READ:
            return np.array([len(dataset.rows)], dtype="<f4")
        self._statistics_of = self._statistics_of or Statistics.of(dataset)
        values = self._statistics_of.answer(kind, index)
        return REFUSED if values is None else values

    def _batch(self, numbers: tuple[int, ...], buffer: Buffer) -> Answer:
        dataset = self._granted_data("batch")
        first, count = numbers
        if first + count > len(dataset.rows):
            return REFUSED
        if count * dataset.schema.row_values * 4 > buffer.size:
            return NO_ROOM  # before anything is converted
        return np.ascontiguousarray(as_float(dataset.rows[first : first + count]), dtype="<f4")

    def _targets(self, numbers: tuple[int, ...], _buffer: Buffer) -> Answer:
        dataset = self._granted_data("targets")
        first, count = numbers
        if first + count > len(dataset.targets):
            return REFUSED
        return dataset.targets[first : first + count].astype("<i4")
