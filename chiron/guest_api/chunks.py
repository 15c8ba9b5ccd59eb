"""How a data set is stored: chunks of one size and so many rows that sizes follow the public schema.

A chunk is a head (the exact row counts, the same in each), the targets of its rows and the rows; the rest is
zero. Training chunks come first, then the held-out ones. A part's rows are spread evenly: chunk c of C has
rows c*n//C to (c+1)*n//C of n, so that every chunk has rows and which are read tells nothing of n.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.dataset import DTYPES, Dataset, checked_rows, checked_targets
from chiron.guest_api.errors import DatasetError
from chiron.policy.header import size_class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Schema

CHUNK_BYTES = 1 << 20  # about: at least two rows
MIN_ROWS = 2
_HEAD = struct.Struct("<4sIQQ")
_MAGIC, _VERSION = b"CHDS", 2
_TARGET = np.dtype("<u2")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows lie; a function of the public schema alone.

    `rows` is how many a chunk has room for, `train` and `held_out` count the chunks of either part.
    """

    rows: int
    train: int
    held_out: int
    chunk_bytes: int

    @property
    def count(self) -> int:
        """All chunks."""
        return self.train + self.held_out

    @property
    def plaintext_bytes(self) -> int:
        """Size of all chunks together."""
        return self.count * self.chunk_bytes

    def place(self, chunk: int, counts: Counts) -> tuple[int, int]:
        """Return the first row of a chunk in its part, and the row behind its last."""
        if chunk < self.train:
            return _spread(chunk, self.train, counts.rows)
        return _spread(chunk - self.train, self.held_out, counts.held_out)


@dataclass(frozen=True, slots=True)
class Counts:
    """The exact row counts, which are the user's secret."""

    rows: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk's rows, (n, *shape), and targets, (n,) uint16. Secret."""

    rows: NDArray[Any]
    targets: NDArray[np.uint16]
    counts: Counts


def layout_of(schema: Schema) -> Layout:
    """Return the layout of a schema's chunks."""
    row_bytes = _row_bytes(schema)
    most = max(MIN_ROWS, CHUNK_BYTES // row_bytes)
    parts = (schema.rows_class, schema.held_out_class)
    rows = max(MIN_ROWS, *(math.ceil(part / math.ceil(part / most)) for part in parts))  # CONF-3
    train, held_out = (math.ceil(part / rows) for part in parts)
    return Layout(rows, train, held_out, _HEAD.size + rows * row_bytes)


def _row_bytes(schema: Schema) -> int:
    return schema.row_values * DTYPES[schema.dtype].itemsize + _TARGET.itemsize


def _spread(chunk: int, chunks: int, rows: int) -> tuple[int, int]:
    return chunk * rows // chunks, (chunk + 1) * rows // chunks


def encode_chunk(rows: NDArray[Any], targets: NDArray[Any], *, counts: Counts, layout: Layout) -> bytes:
    """Return one chunk's plaintext, always `layout.chunk_bytes` long."""
    out = bytearray(layout.chunk_bytes)  # CONF-3
    _HEAD.pack_into(out, 0, _MAGIC, _VERSION, counts.rows, counts.held_out)
    marks = targets.astype(_TARGET).tobytes()
    out[_HEAD.size : _HEAD.size + len(marks)] = marks
    first, raw = _HEAD.size + layout.rows * _TARGET.itemsize, rows.tobytes()
    out[first : first + len(raw)] = raw
    return bytes(out)


def decode_chunk(plaintext: bytes, number: int, *, schema: Schema) -> Chunk:
    """Parse what `encode_chunk` wrote for this place, and check it: its author is not trusted.

    Raises:
        DatasetError: the size, the counts or the values break the schema.
    """
    layout = layout_of(schema)
    if len(plaintext) != layout.chunk_bytes:
        text = f"a chunk has {len(plaintext)} bytes, its schema says {layout.chunk_bytes}"
        raise DatasetError(f"{text}: submit the data set again")
    counts = _counts(plaintext, schema)
    first, behind = layout.place(number, counts)
    rows_at = _HEAD.size + layout.rows * _TARGET.itemsize
    values, dtype = (behind - first) * schema.row_values, DTYPES[schema.dtype]
    targets = np.frombuffer(plaintext, _TARGET, behind - first, _HEAD.size)
    rows = np.frombuffer(plaintext, dtype, values, rows_at).reshape(-1, *schema.shape)
    used = (_HEAD.size + targets.nbytes, rows_at + rows.nbytes)
    if plaintext[used[0] : rows_at].strip(b"\0") or plaintext[used[1] :].strip(b"\0"):
        # NI-9: no second form of the same rows, which would have a ledger of its own
        raise DatasetError("a chunk's padding is not zero: submit the data set again")
    return Chunk(checked_rows(rows), checked_targets(targets, schema.classes), counts)


def _counts(plaintext: bytes, schema: Schema) -> Counts:
    magic, version, rows, held_out = _HEAD.unpack_from(plaintext)
    if (magic, version) != (_MAGIC, _VERSION):
        raise DatasetError("the data set does not start as one: submit it again with this version of Chiron")
    if min(rows, held_out) < 1:
        raise DatasetError("at least one row of training and one held out are needed: submit it again")
    if size_class(rows) != schema.rows_class or size_class(held_out) != schema.held_out_class:
        raise DatasetError("the row counts are not of the size classes in the schema: submit it again")
    return Counts(rows, held_out)


def chunks_of(dataset: Dataset) -> Iterator[bytes]:
    """Yield the plaintext of each chunk of a data set in memory, in order."""
    layout = layout_of(dataset.schema)
    counts = Counts(len(dataset.rows), len(dataset.held_out_rows))
    for number in range(layout.count):
        part = slice(*layout.place(number, counts))
        rows, targets = (
            (dataset.rows, dataset.targets)
            if number < layout.train
            else (dataset.held_out_rows, dataset.held_out_targets)
        )
        yield encode_chunk(rows[part], targets[part], counts=counts, layout=layout)


def encode_dataset(dataset: Dataset) -> bytes:
    """Return the whole plaintext: all chunks, whatever the exact row counts of one size."""
    return b"".join(chunks_of(dataset))


def decode_dataset(plaintext: bytes, schema: Schema) -> Dataset:
    """Parse all chunks.

    Raises:
        DatasetError: one breaks the schema, or they are of two data sets.
    """
    if len(plaintext) != layout_of(schema).plaintext_bytes:
        text = f"the data set has {len(plaintext)} bytes, its schema says {layout_of(schema).plaintext_bytes}"
        raise DatasetError(f"{text}: submit it again")
    return decode_prefix(plaintext, schema)


def decode_prefix(plaintext: bytes, schema: Schema) -> Dataset:
    """Parse the first chunks of a data set; what the others hold is missing from its arrays.

    Raises:
        DatasetError: there are too many or one is cut, breaks the schema, or they are of two data sets.
    """
    layout = layout_of(schema)
    count, rest = divmod(len(plaintext), layout.chunk_bytes)
    if rest or not 1 <= count <= layout.count:
        raise DatasetError(f"{len(plaintext)} bytes are not whole chunks of the schema: submit it again")
    size = layout.chunk_bytes
    chunks = [
        decode_chunk(plaintext[number * size : (number + 1) * size], number, schema=schema)
        for number in range(count)
    ]
    same_counts(chunk.counts for chunk in chunks)
    empty = np.empty((0, *schema.shape), DTYPES[schema.dtype])
    parts = (chunks[: layout.train], chunks[layout.train :])
    rows, held_out_rows = (np.concatenate([empty, *(c.rows for c in part)]) for part in parts)
    none = np.empty(0, np.uint16)
    targets, held_out_targets = (np.concatenate([none, *(c.targets for c in part)]) for part in parts)
    return Dataset(schema, rows, targets, held_out_rows, held_out_targets)


def same_counts(counts: Iterator[Counts]) -> Counts:
    """Return what all chunks say of the exact row counts.

    Raises:
        DatasetError: they differ.
    """
    first = next(counts)
    if any(other != first for other in counts):
        raise DatasetError("chunks differ in what they say of the row counts: submit the data set again")
    return first
