"""Opens the two submissions of a job in the lead."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.chunks import Chunk, Counts, decode_chunk, layout_of, same_counts
from chiron.guest_api.dataset import Dataset, Schema
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.statistics import Statistics
from chiron.policy.kernel import StopReason
from chiron.training.errors import TrainingError
from chiron.training.results import EVALUATION_ROWS, STATISTICS_BATCHES
from chiron.training.submission import Kind, Manifest, chunking_of, read_submission
from enclave import ChunkIndex, ChunkReader, EnclaveError, read_envelope, unwrap_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from chiron.training.node import Node
    from chiron.training.submission import JobId


TRAINING_ROWS = STATISTICS_BATCHES * EVALUATION_ROWS  # that a network normalising by batch is settled with
SAMPLE_BYTES = 256 << 20  # of training chunks for the guest, and of held-out chunks for the accuracy


class StopError(TrainingError):
    """A job must end early for one of the closed list of public reasons."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Inputs:
    """Both parties' secrets, opened. `dataset_key` is for the workers.

    Of the data set's rows the lead holds a bounded part, drawn by the shuffle of its owner: `plaintext`, its
    first chunks, for the guest; `dataset`, which has the first rows of either part, for measuring.
    `statistics` are of all training rows, `content` is the SHA-256 of all chunks' plaintext.
    """

    guest_manifest: Manifest
    dataset_manifest: Manifest
    schema: Schema
    seed: bytes
    guest: bytes
    dataset: Dataset
    plaintext: bytes
    dataset_key: bytes
    dataset_path: Path
    statistics: Statistics
    content: bytes


def open_inputs(node: Node, job: JobId, *, guest: Path, dataset: Path) -> Inputs:
    """Check and decrypt both submissions.

    Raises:
        StopError: a submission is for another enclave or breaks its manifest or schema.
        OSError: the platform lost a file.
    """
    with _opened(node, job, guest, Kind.GUEST) as (source, guest_manifest, _, guest_key):
        guest_bytes = _read_guest(source, guest_key, guest_manifest)
    with _opened(node, job, dataset, Kind.DATASET) as (source, manifest, index, key):
        if manifest.schema is None or guest_manifest.seed is None or index is None:
            raise StopError(StopReason.SUBMISSION_REFUSED)
        try:
            taken = _take(open_chunks(source, index, manifest, key=key), manifest.schema)
        except (GuestApiError, EnclaveError) as error:
            raise StopError(StopReason.SUBMISSION_REFUSED) from error
    return Inputs(
        guest_manifest=guest_manifest,
        dataset_manifest=manifest,
        schema=manifest.schema,
        seed=guest_manifest.seed.to_bytes(8, "little"),
        guest=guest_bytes,
        dataset=taken.dataset,
        plaintext=taken.plaintext,
        dataset_key=key,
        dataset_path=dataset,
        statistics=taken.statistics,
        content=taken.content,
    )


@contextmanager
def _opened(
    node: Node, job: JobId, path: Path, kind: Kind
) -> Iterator[tuple[BufferedReader, Manifest, ChunkIndex | None, bytes]]:
    """Check a submission and unwrap its key; yield the file, which stands at the envelope."""
    with path.open("rb") as source:
        try:
            manifest, index = read_submission(source)
        except (TrainingError, GuestApiError) as error:
            raise StopError(StopReason.SUBMISSION_REFUSED) from error
        if manifest.kind is not kind or manifest.job != job:
            raise StopError(StopReason.SUBMISSION_REFUSED)
        start = source.tell()
        try:
            key = unwrap_key(source, private=node.hpke, purpose=kind.value, context=manifest.context)
        except EnclaveError as error:
            raise StopError(StopReason.NOT_FOR_THIS_LEAD) from error
        source.seek(start)
        yield source, manifest, index, key


def _read_guest(source: BufferedReader, key: bytes, manifest: Manifest) -> bytes:
    purpose, context = manifest.kind.value, manifest.context
    try:
        return b"".join(read_envelope(source, data_key=key, purpose=purpose, context=context))
    except EnclaveError as error:
        raise StopError(StopReason.SUBMISSION_REFUSED) from error


def open_chunks(source: BufferedReader, index: ChunkIndex, manifest: Manifest, *, key: bytes) -> ChunkReader:
    """Return what reads single chunks of a data set that was indexed.

    Raises:
        EnclaveError: the key is another one's.
        TrainingError: the submission is no data set.
    """
    if manifest.schema is None:
        raise TrainingError("the submission is no data set")
    return ChunkReader(
        source,
        index,
        chunking=chunking_of(manifest.schema),
        data_key=key,
        purpose=manifest.kind.value,
        context=manifest.context,
    )


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one pass over all chunks leaves in the lead."""

    plaintext: bytes
    dataset: Dataset
    statistics: Statistics
    content: bytes


def _take(reader: ChunkReader, schema: Schema) -> _Taken:
    """Check every chunk and keep a bounded part.

    Raises:
        EnclaveError, DatasetError: a chunk was changed, or breaks the schema.
    """
    layout, statistics, content = layout_of(schema), Statistics.empty(schema), hashlib.sha256()
    most = max(1, SAMPLE_BYTES // layout.chunk_bytes)
    sample: list[bytes] = []
    train: list[Chunk] = []
    held_out: list[Chunk] = []
    counts: Counts | None = None
    for number in range(layout.count):
        plaintext = reader.read(number)
        chunk = decode_chunk(plaintext, number, schema=schema)
        counts = counts or chunk.counts
        same_counts(iter((counts, chunk.counts)))
        content.update(plaintext)
        if number < layout.train:
            statistics.add(chunk.rows, chunk.targets)
            if len(sample) < most:
                sample.append(plaintext)
            if len(train) < most and sum(len(each.rows) for each in train) < TRAINING_ROWS:
                train.append(chunk)
        elif len(held_out) < most:
            held_out.append(chunk)
    statistics.held_out = 0 if counts is None else counts.held_out
    return _Taken(b"".join(sample), _joined(train, held_out, schema), statistics, content.digest())


def _joined(train: list[Chunk], held_out: list[Chunk], schema: Schema) -> Dataset:
    rows, held_out_rows = (np.concatenate([c.rows for c in part]) for part in (train, held_out))
    targets, held_out_targets = (np.concatenate([c.targets for c in part]) for part in (train, held_out))
    return Dataset(schema, rows, targets, held_out_rows, held_out_targets)
