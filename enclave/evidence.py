"""Evidence: a quote and the statements that its report data binds (RFC 9334; interoperable RA-TLS)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType, Protocol

import cbor2

from enclave.errors import EnclaveError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.reference import ReferenceValues

Measurement = NewType("Measurement", str)
"""SHA-256 of the code that runs, in hexadecimal."""

REPORT_DATA_BYTES = 64
MAX_EVIDENCE_BYTES = 1 << 16
EVIDENCE_TAG = 60000  # interoperable RA-TLS: [evidence, claims]
_MAX_DEPTH = 8
_BYTES, _TEXT, _TAG = 2, 3, 6  # major types (RFC 8949, section 3.1)


class EvidenceFormat(StrEnum):
    """The formats that can be appraised."""

    SIMULATED = "chiron-sim-insecure"


class Attester(Protocol):
    """The part of an enclave that makes Evidence and sealing keys (RFC 9334, section 4)."""

    @property
    def simulated(self) -> bool:
        """Whether no hardware stands behind it."""

    @property
    def format(self) -> EvidenceFormat:
        """The format of its quotes."""

    def attest(self, report_data: bytes) -> bytes:
        """Return a fresh quote over exactly 64 bytes."""

    def sealing_key(self, purpose: str) -> bytes:
        """Return this code's 32-byte key for one purpose, the same at every start on this machine."""

    def own_reference(self) -> ReferenceValues:
        """Return the values that an enclave of the same code on this kind of machine must match."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quote of some format, and the CBOR of the statements whose digest the quote carries."""

    format: EvidenceFormat
    quote: bytes
    statements: bytes

    def to_bytes(self) -> bytes:
        """Return the encoding that `from_bytes` reads."""
        return cbor2.dumps([self.format.value, self.quote, self.statements], canonical=True)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Evidence:
        """Parse Evidence.

        Raises:
            EnclaveError: it is larger than 64 KiB, malformed, or of an unknown format.
        """
        if len(raw) > MAX_EVIDENCE_BYTES:
            raise EnclaveError(f"Evidence of {len(raw)} bytes is over the limit of {MAX_EVIDENCE_BYTES}")
        match decode_cbor(raw, what="Evidence"):
            case [str(name), bytes(quote), bytes(statements)] if name in set(EvidenceFormat):
                return cls(EvidenceFormat(name), quote, statements)
            case [str(name), bytes(), bytes()]:
                known = [each.value for each in EvidenceFormat]
                raise EnclaveError(
                    f"Evidence format {name[:40]!r} is unknown: this version appraises {known}"
                )
            case _:
                raise EnclaveError("Evidence is not of the form [format, quote, statements]")


def make_evidence(attester: Attester, statements: Mapping[str, bytes]) -> Evidence:
    """Have an attester bind statements: report data is SHA-256 of their CBOR, then 32 zero bytes."""
    encoded = encode_statements(statements)
    return Evidence(attester.format, attester.attest(report_data_for(encoded)), encoded)


def report_data_for(statements: bytes) -> bytes:
    """Return the 64 bytes that bind encoded statements (interoperable RA-TLS, section "Evidence")."""
    return hashlib.sha256(statements).digest().ljust(REPORT_DATA_BYTES, b"\0")


def encode_statements(statements: Mapping[str, bytes]) -> bytes:
    """Return statements as deterministic CBOR (RFC 8949, section 4.2)."""
    return cbor2.dumps(dict(statements), canonical=True)


def decode_statements(raw: bytes) -> dict[str, bytes]:
    """Parse encoded statements.

    Raises:
        EnclaveError: they are no map of text to bytes, or not in the deterministic encoding.
    """
    value = decode_cbor(raw, what="statements")
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(content, bytes) for name, content in value.items()
    ):
        raise EnclaveError("statements are not a map of text to bytes")
    return value


def decode_cbor(raw: bytes, *, what: str) -> object:
    """Decode one CBOR value in the deterministic encoding (RFC 8949, section 4.2), with nothing behind it.

    The bytes come from whoever connects: what could grow on decoding is refused before it is decoded.

    Raises:
        EnclaveError: the bytes are something else.
    """
    _refuse_tags(raw, what=what)
    try:
        value: object = cbor2.loads(
            raw,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        same = cbor2.dumps(value, canonical=True) == raw
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        raise EnclaveError(f"{what}: not one CBOR value") from error
    if not same:
        raise EnclaveError(f"{what}: not one CBOR value in the deterministic encoding")
    return value


def _refuse_tags(raw: bytes, *, what: str) -> None:
    """Walk over the heads of all items and refuse every tag but Evidence's own.

    A tag runs a parser of its own (regular expressions, numbers, dates), and shared references let a few
    hundred bytes stand for gigabytes (RFC 8949, section 10).
    """
    at = 0
    while at < len(raw):
        major, info = raw[at] >> 5, raw[at] & 0x1F
        if info > 27:  # noqa: PLR2004  28 to 30 are reserved, 31 is an indefinite length (RFC 8949, section 3)
            raise EnclaveError(f"{what}: not one CBOR value in the deterministic encoding")
        width = 1 << (info - 24) if info >= 24 else 0  # noqa: PLR2004  bytes of the argument
        argument = int.from_bytes(raw[at + 1 : at + 1 + width], "big") if width else info
        if major == _TAG and argument != EVIDENCE_TAG:
            raise EnclaveError(f"{what}: the CBOR tag {argument} has no place here")
        at += 1 + width + (argument if major in {_BYTES, _TEXT} else 0)
