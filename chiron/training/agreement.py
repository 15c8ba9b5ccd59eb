"""The offer that both parties approve, their approvals, and the receipt that the lead signs at the end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chiron.guest_api.dataset import Schema
from chiron.policy.header import FIELDS, Header, encode_header, slots_for
from chiron.policy.releases import header_bits
from chiron.policy.types import PolicyDigest
from chiron.training.errors import TrainingError
from chiron.training.submission import JobId, PartyKey
from chiron.training.wire import canonical, parse_map

if TYPE_CHECKING:
    from chiron.policy.types import Policy
    from chiron.training.submission import Manifest

_APPROVAL_DOMAIN = b"chiron approval v1\0"
_RECEIPT_DOMAIN = b"chiron receipt v1\0"
_REQUEST_DOMAIN = b"chiron request v1\0"
RECEIPT_VERSION = 1
RECEIPT_FIELDS = (
    "version", "offer", "approvals", "outcome", "simulated", "evidence", "private_training", "finished_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """Everything public of a job before it reads data: what each party agrees to by signing its digest."""

    job: JobId
    policy: PolicyDigest
    operator: PartyKey
    user: PartyKey
    schema: Schema
    header: Header
    seed: int
    guest: str
    dataset: str
    bits: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; keys and digests in hexadecimal."""
        return {
            "job": self.job,
            "policy": self.policy,
            "operator": self.operator.hex(),
            "user": self.user.hex(),
            "schema": self.schema.as_dict(),
            "header": self.header.as_dict(),
            "slots": slots_for(self.header, self.schema.rows_class),
            "seed": self.seed,
            "guest": self.guest,
            "dataset": self.dataset,
            "bits": dict(self.bits),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Offer:
        """Parse what `as_dict` wrote.

        Raises:
            TrainingError: a key is unknown or missing, or the slots are not those of header and schema.
        """
        if set(fields) != {*cls.__dataclass_fields__, "slots"} or set(fields["header"]) != set(FIELDS):
            raise TrainingError(
                "the offer is not of this version of Chiron: use the same version on both sides"
            )
        offer = cls(
            job=JobId(fields["job"]),
            policy=PolicyDigest(fields["policy"]),
            operator=PartyKey(bytes.fromhex(fields["operator"])),
            user=PartyKey(bytes.fromhex(fields["user"])),
            schema=Schema.from_dict(fields["schema"]),
            header=Header(**fields["header"]),
            seed=fields["seed"],
            guest=fields["guest"],
            dataset=fields["dataset"],
            bits=fields["bits"],
        )
        if offer.as_dict()["slots"] != fields["slots"]:
            raise TrainingError(
                "the offer's slots do not follow from its header and schema: do not approve it"
            )
        return offer

    @property
    def digest(self) -> bytes:
        """SHA-256 over the canonical encoding."""
        return hashlib.sha256(canonical(self.as_dict())).digest()


def offered_bits(policy: Policy, header: Header, *, rows_class: int) -> dict[str, int]:
    """Return what a job with this header may tell each observer of others' secrets, in bits.

    Raises:
        PolicyError: the header has a field that is not on its menu.
    """
    number = encode_header(policy.menus, header)
    return {
        name: header_bits(policy, clearance, header=number, rows_class=rows_class)
        for name, clearance in policy.observers.items()
    }


def make_offer(policy: Policy, guest: Manifest, *, dataset: Manifest, header: Header) -> Offer:
    """Put an offer together from what both parties submitted and what the guest declared.

    Raises:
        TrainingError: the submissions are not one guest and one data set of one job.
    """
    if guest.seed is None or dataset.schema is None or guest.job != dataset.job:
        raise TrainingError("a job needs a guest and a data set that name the same job id")
    bits = offered_bits(policy, header, rows_class=dataset.schema.rows_class)
    return Offer(
        job=guest.job,
        policy=policy.digest,
        operator=guest.party,
        user=dataset.party,
        schema=dataset.schema,
        header=header,
        seed=guest.seed,
        guest=guest.envelope,
        dataset=dataset.envelope,
        bits=bits,
    )


def sign_approval(signer: Ed25519PrivateKey, offer: Offer) -> bytes:
    """Sign an offer: the party agrees that the job runs as it says."""
    return signer.sign(_APPROVAL_DOMAIN + offer.digest)


def verify_approval(party: PartyKey, offer: Offer, signature: bytes) -> None:
    """Check a party's approval.

    Raises:
        TrainingError: the signature is not this party's over this offer.
    """
    _verify(party, signature, _APPROVAL_DOMAIN + offer.digest, what="an approval")  # JOB-1


def sign_request(signer: Ed25519PrivateKey, exporter: bytes, request: bytes) -> bytes:
    """Sign a request for one connection only; `exporter` is its TLS exporter value (RFC 9266)."""
    return signer.sign(_REQUEST_DOMAIN + exporter + request)


def verify_request(party: PartyKey, exporter: bytes, request: bytes, *, signature: bytes) -> None:
    """Check that a party made this request on this connection.

    Raises:
        TrainingError: it did not.
    """
    _verify(party, signature, _REQUEST_DOMAIN + exporter + request, what="a request")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the lead states about a finished job; `body` is canonical CBOR, signed by the lead's key."""

    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return canonical({"body": self.body, "signature": self.signature})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Receipt:
        """Parse a receipt's file; `verify` checks it.

        Raises:
            TrainingError: it is no receipt.
        """
        outer = parse_map(raw)
        if set(outer) != {"body", "signature"} or not all(isinstance(part, bytes) for part in outer.values()):
            raise TrainingError("the file is no Chiron receipt: fetch it again with `receipt JOB`")
        return cls(outer["body"], outer["signature"])

    def stated(self) -> dict[str, Any]:
        """Return what the receipt states, not yet verified: it names the Evidence to verify it with.

        Raises:
            TrainingError: a field is unknown or missing, or the receipt is of another version.
        """
        fields = parse_map(self.body)
        if set(fields) != set(RECEIPT_FIELDS) or fields["version"] != RECEIPT_VERSION:
            text = f"the file is no Chiron receipt of version {RECEIPT_VERSION}"
            raise TrainingError(f"{text}: fetch it again with `receipt JOB`")
        return fields

    def verify(self, lead: bytes) -> None:
        """Check that the lead's key (Ed25519, 32 bytes) has signed exactly this.

        Raises:
            TrainingError: another key signed, or the content changed.
        """
        _verify(PartyKey(lead), self.signature, _RECEIPT_DOMAIN + self.body, what="the receipt")


def sign_receipt(signer: Ed25519PrivateKey, fields: dict[str, Any]) -> Receipt:
    """Sign a receipt's fields."""
    body = canonical(fields)
    return Receipt(body, signer.sign(_RECEIPT_DOMAIN + body))


def _verify(party: PartyKey, signature: bytes, message: bytes, *, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(party).verify(signature, message)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise TrainingError(f"{what} does not carry a valid signature of the party it names") from error
