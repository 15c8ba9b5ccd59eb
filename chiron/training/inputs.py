"""Opens the two submissions of a job in the lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chiron.guest_api.dataset import Dataset, Schema, decode_dataset
from chiron.guest_api.errors import GuestApiError
from chiron.policy.kernel import StopReason
from chiron.training.errors import TrainingError
from chiron.training.submission import Kind, Manifest, read_manifest
from enclave import EnclaveError, read_envelope, unwrap_key

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    from chiron.training.node import Node
    from chiron.training.submission import JobId


class StopError(TrainingError):
    """A job must end early for one of the closed list of public reasons."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Inputs:
    """Both parties' secrets, opened. `dataset_key` is for the workers, `plaintext` the encoded rows."""

    guest_manifest: Manifest
    dataset_manifest: Manifest
    schema: Schema
    seed: bytes
    guest: bytes
    dataset: Dataset
    plaintext: bytes
    dataset_key: bytes
    dataset_path: Path


def open_inputs(node: Node, job: JobId, *, guest: Path, dataset: Path) -> Inputs:
    """Check and decrypt both submissions.

    Raises:
        StopError: a submission is for another enclave or breaks its manifest or schema.
        OSError: the platform lost a file.
    """
    guest_manifest, _, guest_bytes = _open(node, job, guest, Kind.GUEST)
    manifest, key, plaintext = _open(node, job, dataset, Kind.DATASET)
    if manifest.schema is None or guest_manifest.seed is None:
        raise StopError(StopReason.SUBMISSION_REFUSED)
    try:
        decoded = decode_dataset(plaintext, manifest.schema)
    except GuestApiError as error:
        raise StopError(StopReason.SUBMISSION_REFUSED) from error
    return Inputs(
        guest_manifest=guest_manifest,
        dataset_manifest=manifest,
        schema=manifest.schema,
        seed=guest_manifest.seed.to_bytes(8, "little"),
        guest=guest_bytes,
        dataset=decoded,
        plaintext=plaintext,
        dataset_key=key,
        dataset_path=dataset,
    )


def _open(node: Node, job: JobId, path: Path, kind: Kind) -> tuple[Manifest, bytes, bytes]:
    with path.open("rb") as source:
        try:
            manifest = read_manifest(source)
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
        return manifest, key, read_plaintext(source, key, manifest)


def read_plaintext(source: BufferedReader, key: bytes, manifest: Manifest) -> bytes:
    """Decrypt an envelope that `source` stands at.

    Raises:
        StopError: it was changed or cut after it was sealed.
    """
    try:
        return b"".join(
            read_envelope(source, data_key=key, purpose=manifest.kind.value, context=manifest.context)
        )
    except EnclaveError as error:
        raise StopError(StopReason.SUBMISSION_REFUSED) from error
