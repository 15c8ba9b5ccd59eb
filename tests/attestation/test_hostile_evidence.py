"""What anybody can send before it has been appraised: CBOR and certificates made to hurt."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from enclave import (
    AppraisalError,
    EnclaveError,
    Evidence,
    EvidenceFormat,
    Measurement,
    SimulatedAttester,
    appraise,
    create_simulated_cpu,
    make_evidence,
    make_identity,
)
from enclave.evidence import EVIDENCE_TAG, MAX_EVIDENCE_BYTES, decode_cbor
from enclave.identity import EVIDENCE_OID, PUBKEY_HASH, check_key_binding, evidence_in

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000
QUICK_S = 2.0  # the bombs below take minutes or all memory where they go off


def shared_references(levels: int) -> bytes:
    """Lists that each hold the one before twice (tags 28 and 29): 2 ** levels items when written out."""
    parts = [b"\xd8\x1c\x82\x01\x01"]
    parts += [b"\xd8\x1c\x82" + (b"\xd8\x1d" + cbor2.dumps(level)) * 2 for level in range(levels)]
    return b"\x98" + bytes([len(parts)]) + b"".join(parts)


BOMBS = {
    "shared references": shared_references(60),
    "a regular expression": cbor2.dumps(cbor2.CBORTag(35, "((a{1,999}){1,999}){1,999}")),
    "a big number": cbor2.dumps(cbor2.CBORTag(5, [2**40, 3])),
    "a date": cbor2.dumps(cbor2.CBORTag(1, 2**62)),
    "a tag behind a string": b"\x82\x41\x00" + shared_references(60),
    "a tag behind a long string": b"\x82\x59\x01\x00" + bytes(256) + shared_references(60),
    "a tag in a map": b"\xa1\x61\x61" + shared_references(60),
    "a tag in Evidence's tag": b"\xd9\xea\x60" + shared_references(60),
    "nesting": b"\x81" * 60_000 + b"\x00",
    "a length without content": b"\x9b\x7f" + b"\xff" * 7,
    "a string without content": b"\x5b\x7f" + b"\xff" * 7,
    "an indefinite string that hides a tag": b"\x82\x5f\x41\x00\xff" + shared_references(60),
    "two keys of one name": b"\xa2\x61\x61\x41\x01\x61\x61\x41\x02",
    "numbers as keys": b"\xa1\x01\x01",
}


@pytest.mark.parametrize("name", BOMBS)
def test_cbor_that_grows_is_refused_before_it_is_decoded(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(EnclaveError, match=r"no place here|not one CBOR value"):
        decode_cbor(BOMBS[name], what="bytes")
    assert time.monotonic() - start < QUICK_S


@given(st.binary(max_size=60))
def test_any_bytes_are_evidence_or_an_enclave_error(raw: bytes) -> None:
    for each in (raw, b"\x83" + raw, b"\xa1" + raw, b"\xd8" + raw):
        for parse in (Evidence.from_bytes, lambda given: decode_cbor(given, what="bytes")):
            with suppress(EnclaveError):  # anything else is a failure
                parse(each)


NUMBERS = st.integers(-(2**64), 2**64 - 1)  # larger ones carry a tag
VALUES = NUMBERS | st.binary() | st.text()


@given(st.lists(VALUES | st.lists(VALUES | st.dictionaries(st.text(), VALUES))))
def test_values_without_tags_survive_and_nothing_may_follow_them(value: list[object]) -> None:
    raw = cbor2.dumps(value, canonical=True)
    assert decode_cbor(raw, what="bytes") == value
    with pytest.raises(EnclaveError):
        decode_cbor(raw + b"\0", what="bytes")


def test_a_bomb_in_a_quote_or_in_statements_fails_its_own_step(tmp_path: Path) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: NOW)
    bomb = shared_references(60)
    quote = attester.attest(hashlib.sha256(bomb).digest().ljust(64, b"\0"))
    for step, evidence in (
        (2, Evidence(EvidenceFormat.SIMULATED, bomb, b"\xa0")),
        (6, Evidence(EvidenceFormat.SIMULATED, quote, bomb)),
    ):
        with pytest.raises(AppraisalError) as caught:
            appraise(evidence, attester.own_reference(), nonce=None, now=NOW)
        assert caught.value.step == step


def certificate(content: bytes | None, *, key: ec.EllipticCurvePrivateKey | None = None) -> x509.Certificate:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    start = dt.datetime.fromtimestamp(NOW, dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
    )
    if content is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(EVIDENCE_OID, content), critical=False)
    return builder.sign(key, hashes.SHA256())


GOOD = Evidence(EvidenceFormat.SIMULATED, b"quote", cbor2.dumps({"role": b"lead"}))


def tagged(value: object, *, tag: int = EVIDENCE_TAG) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, value))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "carries no Evidence"),
        (b"", "not one CBOR value"),
        (cbor2.dumps([GOOD.to_bytes(), GOOD.statements]), "not under CBOR tag 60000"),
        (tagged([GOOD.to_bytes(), GOOD.statements], tag=60001), "tag 60001 has no place"),
        (tagged([GOOD.to_bytes()]), "not [evidence, claims]"),
        (tagged([GOOD.to_bytes(), GOOD.statements, b""]), "not [evidence, claims]"),
        (tagged([GOOD.to_bytes(), "text"]), "not [evidence, claims]"),
        (tagged([b"\x80", GOOD.statements]), "not of the form"),
        (tagged([GOOD.to_bytes(), cbor2.dumps({"role": b"worker"})]), "other claims than its Evidence"),
        (tagged([bytes(MAX_EVIDENCE_BYTES + 1), b""]), "over the limit"),
        (tagged([GOOD.to_bytes(), GOOD.statements]) + b"\0", "not one CBOR value"),
        (shared_references(60), "no place here"),
    ],
)
def test_step_0_a_certificate_without_whole_evidence_is_refused(content: bytes | None, words: str) -> None:
    with pytest.raises(AppraisalError) as caught:
        evidence_in(certificate(content))
    assert caught.value.step == 0
    assert words in str(caught.value)


def test_the_evidence_in_an_identitys_certificate_is_found_whole_and_speaks_for_its_key(
    tmp_path: Path,
) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: NOW)
    identity = make_identity(attester, {"role": b"lead"}, now=NOW)
    found = evidence_in(identity.certificate)
    assert found == identity.evidence
    claims = appraise(found, attester.own_reference(), nonce=None, now=NOW)
    check_key_binding(claims, identity.certificate)
    spki = identity.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert claims.statements == {
        "role": b"lead",
        PUBKEY_HASH: b"\x82\x01\x58\x20" + hashlib.sha256(spki).digest(),  # CBOR [1, SHA-256]
    }
    with pytest.raises(AppraisalError, match="step 10 failed: the simulated Evidence"):
        check_key_binding(claims, certificate(None))


@pytest.mark.parametrize("kind", ["P-384", "Ed25519"])
def test_a_certificates_key_on_another_curve_is_refused_though_its_evidence_names_it(
    kind: str, tmp_path: Path
) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: NOW)
    shown = certificate(None, key=ec.generate_private_key(ec.SECP384R1())) if kind == "P-384" else edwards()
    spki = shown.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    statement = cbor2.dumps([1, hashlib.sha256(spki).digest()])
    evidence = make_evidence(attester, {PUBKEY_HASH: statement})
    claims = appraise(evidence, attester.own_reference(), nonce=None, now=NOW)
    with pytest.raises(AppraisalError, match="not on the elliptic curve P-256"):
        check_key_binding(claims, shown)


def edwards() -> x509.Certificate:
    key = ed25519.Ed25519PrivateKey.generate()
    like = certificate(None)
    return (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(like.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .sign(key, None)
    )


def test_an_identity_is_renewed_after_an_hour_under_the_same_key(tmp_path: Path) -> None:
    create_simulated_cpu(tmp_path / "cpu")
    clock = [NOW]
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: clock[0])
    identity = make_identity(attester, {"role": b"lead"}, now=NOW)
    assert identity.renewed(now=NOW + 3599) is identity
    clock[0] = NOW + 3600
    renewed = identity.renewed(now=NOW + 3600)
    assert renewed.key is identity.key
    claims = appraise(evidence_in(renewed.certificate), attester.own_reference(), nonce=None, now=clock[0])
    assert (claims.issued_at, claims.statements["role"]) == (NOW + 3600, b"lead")
    check_key_binding(claims, renewed.certificate)
