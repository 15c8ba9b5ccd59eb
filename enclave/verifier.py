"""Appraisal: Evidence against reference values, in numbered steps (RFC 9334, section 8). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enclave.errors import AppraisalError, EnclaveError
from enclave.evidence import EvidenceFormat, Measurement, decode_cbor, decode_statements, report_data_for
from enclave.simulated import SIGNATURE_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.evidence import Evidence
    from enclave.reference import ReferenceValues

NONCE = "nonce"  # the statement that carries a verifier's nonce
CLOCK_SKEW_S = 120
_QUOTE_FIELDS = {"format": str, "measurement": str, "report_data": bytes, "issued_at": int}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verifier vouches for; the only thing other code trusts.

    `issued_at` is in seconds since 1970; `statements` is what the enclave says of itself.
    """

    format: EvidenceFormat
    simulated: bool
    measurement: Measurement
    statements: Mapping[str, bytes]
    issued_at: int


@dataclass(frozen=True, slots=True)
class _Quote:
    body: bytes
    signature: bytes
    measurement: str
    report_data: bytes
    issued_at: int


def appraise(evidence: Evidence, reference: ReferenceValues, *, nonce: bytes | None, now: int) -> Claims:
    """Return the claims of Evidence that matches the reference values.

    Args:
        evidence: what the attester sent.
        reference: what the relying party demands.
        nonce: what the statement `nonce` must equal; None where freshness is had in another way.
        now: the relying party's clock, seconds since 1970.

    Raises:
        AppraisalError: names the first step that fails.
    """
    if evidence.format.value != reference.format.value:  # ATT-4: simulated must be named
        text = f"the simulated Evidence is {evidence.format.value}, accepted is {reference.format.value}"
        raise AppraisalError(1, f"{text}: use reference values for this kind of enclave")
    quote = _parse_simulated(evidence.quote)
    _verify_signature(quote, reference.root_key)
    if quote.measurement != reference.measurement:
        text = f"the simulated enclave measures {quote.measurement}, not {reference.measurement}"
        raise AppraisalError(4, f"{text}: it runs other code than you expect; do not send it anything")
    if quote.report_data != report_data_for(evidence.statements):
        raise AppraisalError(5, "the simulated quote does not bind these statements")
    statements = _parse_statements(evidence.statements)
    _require(statements, reference)
    _check_nonce(statements, nonce)
    _check_age(quote.issued_at, reference, now)
    measurement = Measurement(quote.measurement)
    return Claims(
        evidence.format,
        simulated=True,
        measurement=measurement,
        statements=statements,
        issued_at=quote.issued_at,
    )


def _parse_simulated(raw: bytes) -> _Quote:
    try:
        body, signature = _pair(decode_cbor(raw, what="quote"))
        fields = decode_cbor(body, what="quote body")
    except EnclaveError as error:
        raise AppraisalError(2, f"the simulated quote is malformed: {error}") from error
    if not isinstance(fields, dict) or set(fields) != set(_QUOTE_FIELDS):
        raise AppraisalError(2, f"a simulated quote has exactly the fields {sorted(_QUOTE_FIELDS)}")
    if not all(type(fields[name]) is kind for name, kind in _QUOTE_FIELDS.items()):
        raise AppraisalError(2, "a field of the simulated quote has the wrong type")
    if fields["format"] != EvidenceFormat.SIMULATED.value:
        raise AppraisalError(2, "the quote's own format is not the simulated one")
    return _Quote(body, signature, fields["measurement"], fields["report_data"], fields["issued_at"])


def _pair(outer: object) -> tuple[bytes, bytes]:
    match outer:
        case [bytes(body), bytes(signature)]:
            return body, signature
        case _:
            raise EnclaveError("it is not [body, signature]")


def _verify_signature(quote: _Quote, root_key: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(root_key).verify(quote.signature, SIGNATURE_DOMAIN + quote.body)
    except (InvalidSignature, ValueError) as error:
        raise AppraisalError(
            3, "the simulated quote is not signed by the root key in the reference values"
        ) from error


def _parse_statements(raw: bytes) -> dict[str, bytes]:
    try:
        return decode_statements(raw)
    except EnclaveError as error:
        raise AppraisalError(6, f"the simulated Evidence is malformed: {error}") from error


def _require(statements: Mapping[str, bytes], reference: ReferenceValues) -> None:
    for name, value in reference.require.items():
        if statements.get(name) != value:
            raise AppraisalError(7, f"the simulated enclave does not state the required {name!r}")


def _check_nonce(statements: Mapping[str, bytes], nonce: bytes | None) -> None:
    if nonce is not None and statements.get(NONCE) != nonce:
        text = "the simulated Evidence does not carry the nonce of this connection"
        raise AppraisalError(8, f"{text}: it is not fresh")


def _check_age(issued_at: int, reference: ReferenceValues, now: int) -> None:
    if not -CLOCK_SKEW_S <= now - issued_at <= reference.max_age_s:
        text = f"the simulated Evidence is {now - issued_at} s old, allowed are {reference.max_age_s}"
        raise AppraisalError(9, f"{text}: check both clocks, or restart the enclave")
