"""A process's TLS identity: a fresh key and a certificate that carries Evidence (interoperable RA-TLS).

Source: Confidential Computing Consortium, "Interoperable RA-TLS": extension 2.23.133.5.4.9 (TCG DICE) with
CBOR tag 60000 around [evidence, claims]; the claims hold SHA-256 of the public key, and the Evidence's report
data is SHA-256 of the claims.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enclave.errors import AppraisalError, EnclaveError
from enclave.evidence import EVIDENCE_TAG, Evidence, decode_cbor, make_evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.evidence import Attester
    from enclave.verifier import Claims

EVIDENCE_OID = x509.ObjectIdentifier("2.23.133.5.4.9")
PUBKEY_HASH = "pubkey-hash"
SHA256_ID = 1  # IANA, Named Information Hash Algorithm Registry
VALIDITY = dt.timedelta(days=365)  # the age of the Evidence decides, not the certificate's
RENEWAL = dt.timedelta(hours=1)
_START_EARLIER = dt.timedelta(hours=1)  # for clocks that are behind


@dataclass(frozen=True, slots=True)
class Identity:
    """A process's key, its certificate, its Evidence, and what it needs to make fresh Evidence."""

    attester: Attester
    statements: Mapping[str, bytes]
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    evidence: Evidence

    def renewed(self, *, now: int) -> Identity:
        """Return this identity, with new Evidence and a new certificate for the same key after an hour.

        Without it nobody would speak to a process older than the age that reference values allow.
        """
        made = self.certificate.not_valid_before_utc + _START_EARLIER
        if dt.datetime.fromtimestamp(now, dt.UTC) - made < RENEWAL:
            return self
        evidence = self.fresh_evidence({})
        return replace(self, evidence=evidence, certificate=_certify(self.key, evidence, now=now))

    def fresh_evidence(self, extra: Mapping[str, bytes]) -> Evidence:
        """Return Evidence made now: the identity's statements, its key, and what this connection adds."""
        bound = {PUBKEY_HASH: pubkey_statement(self.key.public_key())}
        return make_evidence(self.attester, {**self.statements, **bound, **extra})


def make_identity(attester: Attester, statements: Mapping[str, bytes], *, now: int) -> Identity:
    """Make a fresh P-256 key and a self-signed certificate with Evidence for it.

    Args:
        attester: the enclave's.
        statements: what the enclave says of itself besides.
        now: seconds since 1970, for the certificate's validity.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    bound = {**statements, PUBKEY_HASH: pubkey_statement(key.public_key())}
    evidence = make_evidence(attester, bound)
    return Identity(attester, dict(statements), key, _certify(key, evidence, now=now), evidence)


def _certify(key: ec.EllipticCurvePrivateKey, evidence: Evidence, *, now: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chiron enclave")])
    start = dt.datetime.fromtimestamp(now, dt.UTC) - _START_EARLIER
    content = cbor2.dumps(cbor2.CBORTag(EVIDENCE_TAG, [evidence.to_bytes(), evidence.statements]))
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + VALIDITY)
        .add_extension(x509.UnrecognizedExtension(EVIDENCE_OID, content), critical=False)
        .sign(key, hashes.SHA256())
    )


def pubkey_statement(key: object) -> bytes:
    """Return the statement that binds a public key: CBOR [hash algorithm, digest of the SPKI].

    Raises:
        AppraisalError: step 0: the key is not ECDSA's on P-256.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AppraisalError(0, "the certificate's key is not on the elliptic curve P-256")
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return cbor2.dumps([SHA256_ID, hashlib.sha256(spki).digest()], canonical=True)


def evidence_in(certificate: x509.Certificate) -> Evidence:
    """Return the Evidence that a peer's certificate carries.

    Raises:
        AppraisalError: step 0: there is none, or it is malformed.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(EVIDENCE_OID).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise AppraisalError(0, "the peer's certificate carries no Evidence") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise AppraisalError(0, "the peer's Evidence extension is of another kind")
    try:
        return _parse_extension(extension.value)
    except EnclaveError as error:
        raise AppraisalError(0, str(error)) from error


def _parse_extension(raw: bytes) -> Evidence:
    tagged = decode_cbor(raw, what="Evidence extension")
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != EVIDENCE_TAG:
        raise EnclaveError(f"the Evidence extension is not under CBOR tag {EVIDENCE_TAG}")
    match tagged.value:
        case [bytes(encoded), bytes(statements)]:
            evidence = Evidence.from_bytes(encoded)
        case _:
            raise EnclaveError("the Evidence extension is not [evidence, claims]")
    if evidence.statements != statements:
        raise EnclaveError("the Evidence extension holds other claims than its Evidence")
    return evidence


def check_key_binding(claims: Claims, certificate: x509.Certificate) -> None:
    """Check that Evidence speaks for the key of this very certificate.

    Raises:
        AppraisalError: step 10: it was made for another key (relayed or copied Evidence).
    """
    if claims.statements.get(PUBKEY_HASH) != pubkey_statement(certificate.public_key()):  # ATT-3
        kind = "simulated Evidence" if claims.simulated else "Evidence"
        raise AppraisalError(10, f"the {kind} was made for another TLS key: it is relayed or copied")
