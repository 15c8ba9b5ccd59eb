"""Shuffles a data set that need not fit memory: an external sort by random keys, through one encrypted file.

Each row draws a 64-bit key from its place in the files alone, so the same files always come in the same order
(the data set's ledger tells data sets apart by their order too). The first 8 bits of a key say which of 256
buckets a row goes to; a bucket is sorted in memory, or spread over 256 of its own where it is too large.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chiron.guest_api.chunks import Counts, encode_chunk, layout_of
from chiron.guest_api.dataset import Dataset, Schema, checked_rows, checked_targets, out_of_range
from chiron.guest_api.errors import DatasetError
from chiron.policy.header import size_class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chiron.parties.formats.blocks import Block, Parts

HELD_OUT_SHARE = 5  # without a held-out part of its own, a fifth of a data set is held out
SHUFFLE_SEED = 0
BUCKET_BITS = 8
BUCKET_BYTES = 64 << 20  # a bucket that is sorted in memory
BUFFER_BYTES = 32 << 20  # rows that wait to be written to their buckets
KEY_BITS = 64
MAX_TARGETS = 1 << 16  # what a record holds; how many a schema may have is less
NONCE_BYTES = 12


class Spill:
    """Rows of one part in 256 buckets of a temporary file; what is on the disk is encrypted.

    A row is a record of `key`, `target` and `row`. The file has no name, and its key lives in this process.
    """

    def __init__(self, record: np.dtype[Any], *, shift: int = KEY_BITS - BUCKET_BITS) -> None:
        """Make the file; bits `shift` and up of a key say its bucket."""
        self.record, self._shift = record, shift
        self._file = tempfile.TemporaryFile(prefix="chiron-")  # noqa: SIM115  `__exit__` closes it
        self._cipher = AESGCM(os.urandom(32))
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(1 << BUCKET_BITS)]
        self._rows = [0] * (1 << BUCKET_BITS)
        self._waiting: list[list[NDArray[Any]]] = [[] for _ in range(1 << BUCKET_BITS)]
        self._waiting_bytes = 0
        self.rows, self.largest = 0, 0

    def add(self, records: NDArray[Any]) -> None:
        """Put records into their buckets."""
        bucket = (records["key"] >> np.uint64(self._shift)).astype(np.int64) & ((1 << BUCKET_BITS) - 1)
        order = np.argsort(bucket, kind="stable")
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, some in zip(numbers, np.split(records[order], starts[1:]), strict=True):
            self._waiting[number].append(some)
            self._rows[number] += len(some)
        self.rows += len(records)
        self.largest = max(self.largest, int(records["target"].max()))
        self._waiting_bytes += records.nbytes
        if self._waiting_bytes >= BUFFER_BYTES:
            self._flush()

    def ordered(self) -> Iterator[NDArray[Any]]:
        """Yield all records in the order of their keys."""
        self._flush()
        for number, rows in enumerate(self._rows):
            if rows * self.record.itemsize <= BUCKET_BYTES or self._shift == 0:
                records = np.concatenate([np.empty(0, self.record), *self._bucket(number)])
                yield records[np.argsort(records["key"], kind="stable")]
                continue
            with Spill(self.record, shift=self._shift - BUCKET_BITS) as finer:
                for some in self._bucket(number):
                    finer.add(some)
                yield from finer.ordered()

    def _flush(self) -> None:
        for number, some in enumerate(self._waiting):
            if some:
                plain = np.concatenate(some).tobytes()
                at = self._file.seek(0, os.SEEK_END)
                # CONF-1: of the user's own disk too, this sees ciphertext alone
                self._file.write(self._cipher.encrypt(self._nonce(at), plain, None))
                self._places[number].append((at, len(plain)))
        self._waiting = [[] for _ in self._waiting]
        self._waiting_bytes = 0

    def _bucket(self, number: int) -> Iterator[NDArray[Any]]:
        for at, size in self._places[number]:
            self._file.seek(at)
            plain = self._cipher.decrypt(self._nonce(at), self._file.read(size + 16), None)
            yield np.frombuffer(plain, self.record)

    @staticmethod
    def _nonce(at: int) -> bytes:
        """Return the nonce of what lies at a place: each place is written once, under a key of this file."""
        return at.to_bytes(NONCE_BYTES, "big")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


@dataclass(slots=True)
class Shuffled:
    """A data set on the user's disk, shuffled. A context manager: leaving it removes the temporary files."""

    schema: Schema
    rows: int
    held_out: int
    _spills: list[Spill] = field(repr=False)

    def stream(self) -> tuple[Iterator[NDArray[Any]], Iterator[NDArray[Any]]]:
        """Return the training and the held-out records, in blocks; read the first to its end first."""
        if len(self._spills) > 1:
            return self._spills[0].ordered(), self._spills[1].ordered()
        both = _Cut(self._spills[0].ordered())
        return both.take(self.rows), both.take(self.held_out)

    def chunks(self) -> Iterator[bytes]:
        """Yield the plaintext of each chunk, as `chunks_of` gives it of the same rows in memory."""
        layout, counts = layout_of(self.schema), Counts(self.rows, self.held_out)
        number = 0
        for part in self.stream():
            cut = _Cut(part)
            for _ in range(layout.held_out if number else layout.train):
                first, behind = layout.place(number, counts)
                records = np.concatenate(list(cut.take(behind - first)))
                yield encode_chunk(records["row"], records["target"], counts=counts, layout=layout)
                number += 1

    def load(self) -> Dataset:
        """Return all of it in memory."""
        parts = [list(part) for part in self.stream()]
        rows, held_out_rows = (np.concatenate([block["row"] for block in part]) for part in parts)
        targets, held_out_targets = (np.concatenate([block["target"] for block in part]) for part in parts)
        return Dataset(self.schema, rows, targets, held_out_rows, held_out_targets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for spill in self._spills:
            spill.__exit__(*exc)


class _Cut:
    """Blocks of records, cut where they are wanted."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks, self._left = blocks, next(blocks)

    def take(self, count: int) -> Iterator[NDArray[Any]]:
        """Yield the next `count` records."""
        while count:
            some, self._left = self._left[:count], self._left[count:]
            count -= len(some)
            yield some
            if count:
                self._left = next(self._blocks)


def shuffled(parts: Parts, *, classes: int | None = None) -> Shuffled:
    """Read, check and shuffle the parts of a data set.

    Args:
        parts: blocks of rows, as a reader gives them.
        classes: number of targets; by default what the files say, or one more than the largest.

    Raises:
        DatasetError: a value is not finite, a target out of range, a part empty, or parts differ in form.
    """
    with ExitStack() as made:
        spills = [made.enter_context(_spilled(part, number)) for number, part in enumerate(_given(parts))]
        if len({spill.record for spill in spills}) > 1:
            forms = " and ".join(f"{s.record['row'].base} {s.record['row'].shape}" for s in spills)
            raise DatasetError(f"training and held-out rows are {forms}: make them alike")
        rows, held_out = spills[0].rows, spills[-1].rows
        if len(spills) == 1:
            held_out = rows // HELD_OUT_SHARE
            rows -= held_out
        if not rows or not held_out:
            raise DatasetError(f"{rows} rows and {held_out} held out: at least one row of each is needed")
        largest = max(spill.largest for spill in spills)
        wanted = classes or parts.classes or largest + 1
        row = spills[0].record["row"]
        schema = Schema(row.shape, wanted, row.base.name, size_class(rows), size_class(held_out))
        if largest >= wanted:
            raise DatasetError(out_of_range(wanted))
        made.pop_all()
        return Shuffled(schema, rows, held_out, spills)


def _given(parts: Parts) -> Iterator[Iterator[Block]]:
    return (part for part in (parts.train, parts.held_out) if part is not None)


def _spilled(part: Iterator[Block], number: int) -> Spill:
    """Read a part to its end, check it and spread it over buckets."""
    keys = np.random.Generator(np.random.Philox(key=np.array([SHUFFLE_SEED, number], dtype=np.uint64)))
    with ExitStack() as made:
        spill: Spill | None = None
        for block in part:
            records = _records(block, keys)
            spill = spill or made.enter_context(Spill(records.dtype))
            if records.dtype != spill.record:
                raise DatasetError("rows differ in shape or type: make them alike")
            spill.add(records)
        if spill is None:
            raise DatasetError("no rows: at least one row of training and one held out are needed")
        made.pop_all()
        return spill


def _records(block: Block, keys: np.random.Generator) -> NDArray[Any]:
    rows, targets = checked_rows(block.rows), checked_targets(block.targets, MAX_TARGETS)
    if len(rows) != len(targets):
        raise DatasetError(f"{len(rows)} rows but {len(targets)} targets: give each row one target")
    record = np.dtype([("key", "<u8"), ("target", "<u2"), ("row", rows.dtype, rows.shape[1:])])
    records = np.empty(len(rows), record)
    records["key"] = keys.integers(0, 1 << KEY_BITS, size=len(rows), dtype=np.uint64)
    records["target"], records["row"] = targets, rows
    return records
