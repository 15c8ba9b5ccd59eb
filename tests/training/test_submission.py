"""Submissions: what a party signs and seals, and what is refused when it is read."""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import content_of, make_attester, new_node, small_dataset
from hypothesis import given
from hypothesis import strategies as st

from chiron.guest_api.chunks import encode_dataset, layout_of
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.statistics import Statistics
from chiron.policy.kernel import StopReason
from chiron.training.errors import TrainingError
from chiron.training.inputs import Inputs, StopError, open_chunks, open_inputs
from chiron.training.node import Node, Role
from chiron.training.submission import (
    MAX_MANIFEST_BYTES,
    JobId,
    Kind,
    Manifest,
    draft_manifest,
    parse_job_id,
    read_manifest,
    read_submission,
    write_submission,
)
from chiron.training.wire import canonical
from enclave import EnclaveError, generate_hpke_key, read_envelope, unwrap_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB, OTHER_JOB = JobId("0123456789abcdef" * 2), JobId("f" * 32)
DATASET = small_dataset()
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
DOMAIN = b"chiron submission v1\0"
HEAD = struct.Struct("<4sI")
LEAD = generate_hpke_key()


def submission(
    kind: Kind = Kind.GUEST,
    *,
    job: JobId = JOB,
    signer: Ed25519PrivateKey = SIGNER,
    recipient: bytes = LEAD.public_bytes,
    content: bytes | None = None,
) -> bytes:
    """Return a whole submission's bytes."""
    plaintext = (
        (encode_dataset(DATASET) if kind is Kind.DATASET else b"guest") if content is None else content
    )
    schema, seed = (DATASET.schema, None) if kind is Kind.DATASET else (None, 7)
    draft = draft_manifest(kind, job, signer=signer, schema=schema, seed=seed)
    sink = io.BytesIO()
    write_submission(
        sink,
        io.BytesIO(plaintext),
        draft=draft,
        signer=signer,
        recipient=recipient,
        padded_bytes=max(len(plaintext), 4096),
    )
    return sink.getvalue()


def source_of(raw: bytes) -> io.BufferedReader:
    return io.BufferedReader(cast("io.RawIOBase", io.BytesIO(raw)))


def read(raw: bytes) -> Manifest:
    return read_manifest(source_of(raw))


def split(raw: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Return manifest fields, signature and envelope."""
    length = HEAD.unpack_from(raw)[1]
    outer = cbor2.loads(raw[HEAD.size : HEAD.size + length])
    return cbor2.loads(outer["manifest"]), outer["signature"], raw[HEAD.size + length :]


def joined(fields: object, envelope: bytes, *, signature: object = None) -> bytes:
    """Return a submission with these fields, signed afresh unless a signature is given."""
    manifest = canonical(fields)
    signed = SIGNER.sign(DOMAIN + manifest) if signature is None else signature
    outer = canonical({"manifest": manifest, "signature": signed})
    return HEAD.pack(b"CHSB", len(outer)) + outer + envelope


@pytest.mark.parametrize("kind", list(Kind))
def test_a_submission_reads_back_and_its_envelope_opens(kind: Kind) -> None:
    source = source_of(submission(kind))
    manifest = read_manifest(source)
    assert (manifest.kind, manifest.job) == (kind, JOB)
    assert manifest.party == SIGNER.public_key().public_bytes_raw()
    start = source.tell()
    key = unwrap_key(source, private=LEAD, purpose=kind.value, context=manifest.context)
    source.seek(start)
    if kind is Kind.GUEST:
        parts = read_envelope(source, data_key=key, purpose=kind.value, context=manifest.context)
        assert b"".join(parts) == b"guest"
        return
    source.seek(0)
    index = read_submission(source)[1]
    assert index is not None
    reader = open_chunks(source, index, manifest, key=key)
    chunks = [reader.read(number) for number in (1, 0)]  # in any order
    assert chunks[1] + chunks[0] == encode_dataset(DATASET)


def test_progress_is_told_to_the_end() -> None:
    told: list[int] = []
    draft = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    write_submission(
        io.BytesIO(),
        io.BytesIO(b"guest"),
        draft=draft,
        signer=SIGNER,
        recipient=LEAD.public_bytes,
        padded_bytes=4096,
        progress=told.append,
    )
    assert told[-1] >= 5


def test_the_size_does_not_depend_on_the_content() -> None:
    assert len(submission(content=b"")) == len(submission(content=b"x" * 4000))


def test_neither_plaintext_shows_in_the_file() -> None:
    assert DATASET.rows[:2].tobytes() not in submission(Kind.DATASET)
    assert b"the secret guest" not in submission(content=b"the secret guest")


def test_a_submission_signed_by_another_key_is_refused() -> None:
    fields, _, envelope = split(submission())
    forged = Ed25519PrivateKey.generate().sign(DOMAIN + canonical(fields))
    with pytest.raises(TrainingError, match="signature does not verify"):
        read(joined(fields, envelope, signature=forged))


@pytest.mark.parametrize("signature", [b"", bytes(64), "text", 5])
def test_a_signature_of_the_wrong_form_is_refused(signature: object) -> None:
    fields, _, envelope = split(submission())
    with pytest.raises(TrainingError, match="signature does not verify"):
        read(joined(fields, envelope, signature=signature))


def test_a_signature_of_another_domain_is_refused() -> None:
    fields, _, envelope = split(submission())
    with pytest.raises(TrainingError, match="signature does not verify"):
        read(joined(fields, envelope, signature=SIGNER.sign(canonical(fields))))


def test_an_exchanged_envelope_is_refused() -> None:
    fields, _, _ = split(submission())
    _, _, other = split(submission(content=b"other"))
    with pytest.raises(TrainingError, match="truncated or exchanged"):
        read(joined(fields, other))


def test_a_changed_manifest_under_the_old_signature_is_refused() -> None:
    fields, signature, envelope = split(submission())
    with pytest.raises(TrainingError, match="signature does not verify"):
        read(joined(fields | {"seed": 8}, envelope, signature=signature))


@given(cut=st.integers(1, 4000))
def test_a_truncated_submission_is_refused(cut: int) -> None:
    raw = submission()
    with pytest.raises(TrainingError):
        read(raw[: max(0, len(raw) - cut)])


@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(position: int, bit: int) -> None:
    raw = bytearray(submission())
    raw[position % len(raw)] ^= 1 << bit
    with pytest.raises((TrainingError, GuestApiError)):
        read(bytes(raw))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(raw: bytes) -> None:
    for content in (raw, b"CHSB" + raw, HEAD.pack(b"CHSB", len(raw)) + raw):
        with pytest.raises(TrainingError):
            read(content)


def test_a_manifest_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TrainingError, match="over the limit"):
        read(HEAD.pack(b"CHSB", MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "exactly the keys"),
        ({"kind": "model"}, "names its kind"),
        ({"kind": ["guest"]}, "names its kind"),
        ({"party": "00" * 32}, "names its kind"),
        ({"party": b"short"}, "signature does not verify"),
        ({"seed": -1}, "seed of 64 bits"),
        ({"seed": 1 << 64}, "seed of 64 bits"),
        ({"seed": True}, "seed of 64 bits"),
        ({"seed": None}, "seed of 64 bits"),
        ({"kind": "dataset"}, "seed of 64 bits"),
        ({"kind": "dataset", "seed": None}, "comes with a schema"),
        ({"schema": DATASET.schema.as_dict()}, "comes with a schema"),
        ({"envelope": b"\0"}, "envelope's digest"),
        ({"envelope": "0" * 64}, "truncated or exchanged"),
        ({"job": 5}, "names its job"),
        ({"job": "../../etc/passwd"}, "32 hexadecimal digits"),
        ({"job": "A" * 32}, "32 hexadecimal digits"),
    ],
)
def test_a_manifest_of_the_wrong_form_is_refused_although_it_is_signed(
    change: dict[str, Any], words: str
) -> None:
    fields, _, envelope = split(submission())
    with pytest.raises(TrainingError, match=words):
        read(joined(fields | change, envelope))


def test_a_signed_schema_out_of_range_is_refused() -> None:
    fields, _, envelope = split(submission(Kind.DATASET))
    with pytest.raises(GuestApiError):
        read(joined(fields | {"schema": fields["schema"] | {"classes": 999}}, envelope))


def test_a_head_with_other_keys_or_an_unencoded_manifest_is_refused() -> None:
    for outer in ({"manifest": b""}, {"manifest": b"", "signature": b"", "x": 1}):
        raw = canonical(outer)
        with pytest.raises(TrainingError, match="exactly the keys manifest and signature"):
            read(HEAD.pack(b"CHSB", len(raw)) + raw)
    raw = canonical({"manifest": {}, "signature": b""})
    with pytest.raises(TrainingError, match="byte string of CBOR"):
        read(HEAD.pack(b"CHSB", len(raw)) + raw)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "G" * 32, "0" * 32 + "\n", "../" + "0" * 29])
def test_a_job_id_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(TrainingError, match="32 hexadecimal digits"):
        parse_job_id(text)


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Node:
    node = new_node(Role.LEAD, make_attester(tmp_path_factory.mktemp("lead")))
    return replace(node, hpke=LEAD)


@pytest.fixture
def opened(lead: Node, tmp_path: Path) -> Callable[..., Inputs]:
    def open_both(guest: bytes | None = None, dataset: bytes | None = None) -> Inputs:
        paths = {Kind.GUEST: tmp_path / "guest", Kind.DATASET: tmp_path / "dataset"}
        for kind, raw in ((Kind.GUEST, guest), (Kind.DATASET, dataset)):
            paths[kind].write_bytes(submission(kind) if raw is None else raw)
        return open_inputs(lead, JOB, guest=paths[Kind.GUEST], dataset=paths[Kind.DATASET])

    return open_both


def test_the_lead_opens_both_submissions(opened: Callable[..., Inputs]) -> None:
    inputs = opened()
    encoded = encode_dataset(DATASET)
    assert (inputs.guest, inputs.plaintext) == (b"guest", encoded[: layout_of(DATASET.schema).chunk_bytes])
    assert inputs.content == content_of(DATASET)
    assert np.array_equal(inputs.dataset.held_out_rows, DATASET.held_out_rows)
    assert inputs.statistics.as_dict() == Statistics.of(DATASET).as_dict()
    assert inputs.seed == (7).to_bytes(8, "little")
    assert inputs.schema == DATASET.schema


STRANGER = generate_hpke_key().public_bytes


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"guest": submission(recipient=STRANGER)}, StopReason.NOT_FOR_THIS_LEAD),
        ({"dataset": submission(Kind.DATASET, recipient=STRANGER)}, StopReason.NOT_FOR_THIS_LEAD),
        ({"guest": submission(job=OTHER_JOB)}, StopReason.SUBMISSION_REFUSED),
        ({"dataset": submission(Kind.DATASET, job=OTHER_JOB)}, StopReason.SUBMISSION_REFUSED),
        ({"guest": submission(Kind.DATASET)}, StopReason.SUBMISSION_REFUSED),
        ({"dataset": submission(Kind.GUEST)}, StopReason.SUBMISSION_REFUSED),
        ({"dataset": submission(Kind.DATASET, content=b"no data set")}, StopReason.SUBMISSION_REFUSED),
        ({"guest": b""}, StopReason.SUBMISSION_REFUSED),
        ({"guest": submission()[:-1]}, StopReason.SUBMISSION_REFUSED),
    ],
)
def test_the_lead_stops_a_job_whose_submission_does_not_fit(
    changed: dict[str, bytes], reason: StopReason, opened: Callable[..., Inputs]
) -> None:
    with pytest.raises(StopError) as caught:
        opened(**changed)
    assert caught.value.reason is reason


def test_a_signed_submission_around_a_changed_envelope_is_refused(opened: Callable[..., Inputs]) -> None:
    fields, _, envelope = split(submission())
    changed = envelope[:-1] + bytes([envelope[-1] ^ 1])
    fields["envelope"] = hashlib.sha256(changed).hexdigest()
    with pytest.raises(StopError) as caught:
        opened(guest=joined(fields, changed))
    assert caught.value.reason is StopReason.SUBMISSION_REFUSED


def test_an_envelope_resealed_under_another_party_does_not_open(opened: Callable[..., Inputs]) -> None:
    fields, _, envelope = split(submission(signer=Ed25519PrivateKey.generate()))
    stolen = fields | {"party": SIGNER.public_key().public_bytes_raw()}
    with pytest.raises(StopError) as caught:
        opened(guest=joined(stolen, envelope))
    assert isinstance(caught.value.__cause__, EnclaveError)
