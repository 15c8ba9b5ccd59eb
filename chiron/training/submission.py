"""What a party hands in: a signed public manifest and an envelope that only the lead can open."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, TypedDict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chiron.guest_api.chunks import layout_of
from chiron.guest_api.dataset import Schema
from chiron.training.errors import TrainingError
from chiron.training.wire import canonical, parse_map
from enclave import ChunkIndex, Chunking, EnclaveError, index_chunks, write_chunks, write_envelope

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from typing import BinaryIO

JobId = NewType("JobId", str)
PartyKey = NewType("PartyKey", bytes)

_HEAD = struct.Struct("<4sI")
_MAGIC = b"CHSB"
_MANIFEST_DOMAIN = b"chiron submission v1\0"
MAX_MANIFEST_BYTES = 1 << 16
NO_ENVELOPE = "0" * 64
_EXCHANGED = "the envelope is not the one in the manifest (truncated or exchanged): submit again"


class _Bound(TypedDict):
    recipient: bytes
    purpose: str
    context: bytes


class Kind(StrEnum):
    """What a submission carries."""

    GUEST = "guest"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The public part of a submission.

    `party` is the submitter's Ed25519 key (32 bytes), `schema` is given with a data set and `seed` (64 bits)
    with a guest, `envelope` the digest of the ciphertext: SHA-256 of a guest's, `ChunkIndex.digest` of a
    data set's.
    """

    kind: Kind
    job: JobId
    party: PartyKey
    schema: Schema | None
    seed: int | None
    envelope: str

    def encoded(self) -> bytes:
        """Return the canonical bytes that the party signs."""
        return canonical(
            {
                "kind": self.kind.value,
                "job": self.job,
                "party": self.party,
                "schema": None if self.schema is None else self.schema.as_dict(),
                "seed": self.seed,
                "envelope": self.envelope,
            }
        )

    @property
    def context(self) -> bytes:
        """What the envelope is bound to besides its purpose: everything public but its own digest."""
        return envelope_context(self.kind, self.job, schema=self.schema, party=self.party)


def envelope_context(kind: Kind, job: JobId, *, schema: Schema | None, party: PartyKey) -> bytes:
    """Return the context that binds an envelope to its job, submitter and schema."""
    fields = None if schema is None else schema.as_dict()
    return hashlib.sha256(canonical([kind.value, job, party, fields])).digest()


def parse_job_id(text: str) -> JobId:
    """Return a job id.

    Raises:
        TrainingError: it is not 32 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise TrainingError("a job id is 32 hexadecimal digits: copy it from the output of `operator submit`")
    return JobId(text)


def draft_manifest(
    kind: Kind,
    job: JobId,
    *,
    signer: Ed25519PrivateKey,
    schema: Schema | None = None,
    seed: int | None = None,
) -> Manifest:
    """Return a manifest whose envelope is not written yet; a data set has a schema, a guest a seed."""
    return Manifest(kind, job, PartyKey(signer.public_key().public_bytes_raw()), schema, seed, NO_ENVELOPE)


def write_submission(
    sink: BinaryIO,
    source: BinaryIO,
    *,
    draft: Manifest,
    signer: Ed25519PrivateKey,
    recipient: bytes,
    padded_bytes: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Encrypt `source` to the lead and write the whole submission to `sink`, which must be seekable.

    Args:
        sink: where the submission goes.
        source: the plaintext, seekable; a data set's is read in order, chunk by chunk, and need not be.
        draft: the manifest without its envelope's digest, from `draft_manifest`.
        signer: the party's key.
        recipient: the lead's HPKE key from its appraised Evidence (X25519, 32 bytes).
        padded_bytes: size that a guest is padded to; a data set's follows from its schema.
        progress: told the bytes of plaintext done so far.
    """
    room = _HEAD.size + len(_signed(draft, signer))
    sink.write(bytes(room))
    bound: _Bound = {"recipient": recipient, "purpose": draft.kind.value, "context": draft.context}
    if draft.schema is None:
        info = write_envelope(source, sink, padded_bytes=padded_bytes, progress=progress, **bound)
    else:
        chunking = chunking_of(draft.schema)
        info = write_chunks(source, sink, chunking=chunking, progress=progress, **bound)
    manifest = replace(draft, envelope=info.digest)
    signed = _signed(manifest, signer)
    sink.seek(0)
    sink.write(_HEAD.pack(_MAGIC, len(signed)) + signed)
    return manifest


def chunking_of(schema: Schema) -> Chunking:
    """Return how a data set of this schema is cut."""
    layout = layout_of(schema)
    return Chunking(layout.chunk_bytes, layout.count)


def read_manifest(source: BufferedReader) -> Manifest:
    """Read and check the manifest, and leave `source` where the envelope starts; see `read_submission`."""
    return read_submission(source)[0]


def read_submission(source: BufferedReader) -> tuple[Manifest, ChunkIndex | None]:
    """Read and check the manifest, and leave `source` where the envelope starts.

    Returns a data set's index of chunks beside it. The whole file is read once, in constant memory.

    Raises:
        TrainingError: no submission, a bad signature, a field of the wrong form, or another envelope.
    """
    head = source.read(_HEAD.size)
    if len(head) != _HEAD.size or head[:4] != _MAGIC:
        raise TrainingError("the file is no Chiron submission: submit again")
    length = _HEAD.unpack(head)[1]
    if length > MAX_MANIFEST_BYTES:
        raise TrainingError(f"a manifest of {length} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    outer = parse_map(source.read(length))
    if set(outer) != {"manifest", "signature"}:
        raise TrainingError("a submission's head has exactly the keys manifest and signature")
    manifest = _parse(outer["manifest"])
    try:
        key = Ed25519PublicKey.from_public_bytes(manifest.party)
        key.verify(outer["signature"], _MANIFEST_DOMAIN + outer["manifest"])
    except (InvalidSignature, ValueError, TypeError) as error:
        raise TrainingError("the manifest's signature does not verify: submit again") from error
    start = source.tell()
    digest, index = _envelope_digest(source, manifest)
    if digest != manifest.envelope:
        raise TrainingError(_EXCHANGED)
    source.seek(start)
    return manifest, index


def _envelope_digest(source: BufferedReader, manifest: Manifest) -> tuple[str, ChunkIndex | None]:
    if manifest.schema is None:
        return hashlib.file_digest(source, "sha256").hexdigest(), None
    try:
        index = index_chunks(source, chunking_of(manifest.schema))
    except EnclaveError as error:
        raise TrainingError(_EXCHANGED) from error
    return index.digest, index


def _signed(manifest: Manifest, signer: Ed25519PrivateKey) -> bytes:
    encoded = manifest.encoded()
    return canonical({"manifest": encoded, "signature": signer.sign(_MANIFEST_DOMAIN + encoded)})


def _parse(raw: object) -> Manifest:
    if not isinstance(raw, bytes):
        raise TrainingError("a manifest is a byte string of CBOR")
    fields: dict[str, Any] = parse_map(raw)
    if set(fields) != set(Manifest.__dataclass_fields__):
        raise TrainingError(f"a manifest has exactly the keys {sorted(Manifest.__dataclass_fields__)}")
    if fields["kind"] not in list(Kind) or not isinstance(fields["party"], bytes):
        raise TrainingError("a manifest names its kind and its party's key")
    kind = Kind(fields["kind"])
    seed, schema, envelope = fields["seed"], fields["schema"], fields["envelope"]
    if (kind is Kind.GUEST) != (type(seed) is int and 0 <= seed < 1 << 64):
        raise TrainingError("a guest comes with a seed of 64 bits, a data set with none")
    if (kind is Kind.DATASET) != isinstance(schema, dict):
        raise TrainingError("a data set comes with a schema, a guest with none")
    if not isinstance(envelope, str) or not isinstance(fields["job"], str):
        raise TrainingError("a manifest names its job and its envelope's digest")
    parsed = None if schema is None else Schema.from_dict(schema)
    return Manifest(kind, parse_job_id(fields["job"]), PartyKey(fields["party"]), parsed, seed, envelope)
