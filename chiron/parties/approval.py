"""Reads a job's offer and receipt from the appraised lead, checks them, approves or refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chiron.parties.errors import PartyError
from chiron.parties.platform import ask_lead
from chiron.policy.types import PolicyError
from chiron.training.agreement import Offer, Receipt, offered_bits, sign_approval, verify_approval
from chiron.training.node import ROLE, SIGNER, Role
from chiron.training.submission import PartyKey
from enclave import EnclaveError, Evidence, appraise

if TYPE_CHECKING:
    from chiron.parties.home import Home
    from chiron.parties.platform import Platform
    from chiron.policy.types import Policy
    from chiron.training.submission import JobId


def fetch_offer(platform: Platform, home: Home, job: JobId, *, policy: Policy) -> Offer:
    """Return the offer, checked against the policy that the party has read itself.

    Raises:
        PartyError: the lead refuses, or the offer is for another policy, party or cost than it says.
    """
    offer = Offer.from_dict(ask_lead(platform, home, {"ask": "offer", "job": job}))
    key = home.signer.public_key().public_bytes_raw()
    if offer.policy != policy.digest:
        raise PartyError(
            "the offer is under another policy than yours: compare spec/policy.toml on both sides"
        )
    try:
        bits = offered_bits(policy, offer.header, rows_class=offer.schema.rows_class)
    except PolicyError as error:
        raise PartyError(f"the offer's header is not on your policy's menus: {error}") from error
    if offer.job != job or key not in {offer.operator, offer.user} or offer.bits != bits:
        raise PartyError("the offer does not add up (job, party or bits): do not approve it")
    return offer


def approve(platform: Platform, home: Home, offer: Offer) -> None:
    """Sign an offer and hand the signature to the lead.

    Raises:
        PartyError: the lead refuses.
    """
    signature = sign_approval(home.signer, offer)
    ask_lead(platform, home, {"ask": "approve", "job": offer.job, "approval": signature})


def refuse(platform: Platform, home: Home, job: JobId) -> None:
    """Refuse an offer.

    Raises:
        PartyError: the lead says that it is too late, or too early.
    """
    ask_lead(platform, home, {"ask": "refuse", "job": job})


def fetch_receipt(platform: Platform, home: Home, job: JobId) -> tuple[Receipt, dict[str, Any]]:
    """Return a receipt and what it states.

    Raises:
        PartyError: the lead refuses, or the receipt is another job's or does not verify.
    """
    receipt = Receipt.from_bytes(ask_lead(platform, home, {"ask": "receipt", "job": job}))
    stated = verify_receipt(receipt, home)
    if stated["offer"]["job"] != job:
        raise PartyError("the lead answered with another job's receipt: do not rely on it")
    return receipt, stated


def verify_receipt(receipt: Receipt, home: Home) -> dict[str, Any]:
    """Return what a receipt states, once its Evidence, its signature and both approvals hold.

    Raises:
        PartyError: its Evidence does not match the party's reference values, or is not a lead's.
        TrainingError: it is no receipt, or a signature does not verify.
    """
    fields = receipt.stated()
    try:
        evidence = Evidence.from_bytes(fields["evidence"])
        claims = appraise(evidence, home.reference, nonce=None, now=fields["finished_at"])
    except EnclaveError as error:
        raise PartyError(f"the receipt's Evidence is not trusted: {error}") from error
    if claims.statements.get(ROLE) != Role.LEAD.value.encode():
        raise PartyError("the receipt's Evidence is not a lead's: do not rely on it")
    receipt.verify(claims.statements[SIGNER])  # JOB-5
    offer = Offer.from_dict(fields["offer"])
    for party in (offer.operator, offer.user):
        approved = fields["approvals"].get(party.hex(), "")  # a missing approval is an invalid one
        verify_approval(PartyKey(party), offer, bytes.fromhex(approved))
    return fields
