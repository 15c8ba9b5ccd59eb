"""Says of a policy or a receipt who may learn what, when and how many bits, as plain values."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from chiron.guest_api.errors import GuestApiError
from chiron.parties.approval import verify_receipt
from chiron.parties.errors import PartyError
from chiron.policy.header import combinations, encode_header, phase_ticks
from chiron.policy.releases import DATA_SET, counts, data_set_bits, header_bits, job_bits, uses_of
from chiron.policy.types import PolicyError
from chiron.training.agreement import Offer, Receipt, ledger_terms, offered_bits
from chiron.training.errors import TrainingError
from chiron.training.schedule import frame_format
from chiron.training.submission import parse_job_id
from enclave import EnclaveError, Evidence

if TYPE_CHECKING:
    from chiron.parties.home import Home
    from chiron.policy.types import Label, Policy

Facts = dict[str, Any]  # JSON values

MEANINGS: Final = {
    "header": "which entry of each menu the guest picked for the public header",
    "outcome": "whether the job gave a model",
    "accuracy": "the model's accuracy on the held-out rows, in tenths of a percent",
    "loss": "the mean loss of one epoch, in steps of 1/32",
    "answer": "the class and the score that answer one query",
}
NOT_COVERED: Final = (
    "Time: what overruns its part of the schedule shows, and so does jitter.",
    "Caches, memory access patterns and the processors' load: they are not in the policy's model.",
    "Messages of the platform's own making: that a job exists, and between which keys.",
    "What releases mean: bits bound how much is told, not which fact about a row they tell.",
    "A platform that deletes a ledger or a budget, or puts an older one back: it is not noticed yet.",
)
SIMULATED_PROTECTS: Final = "Simulated enclaves protect nothing: the platform can read every secret."
_DIGEST = re.compile("[0-9a-f]{64}")
_ENDINGS = ("sealed", "failed")
_MAX_NUMBER = 1 << 64
_MAX_SECONDS = 253402300800  # the year 10000, which no calendar here shows
_MALFORMED = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class PublicJob:
    """What numbers depend on in one job: the header's number and the data set's public size class."""

    header: int
    rows_class: int


def explain_policy(policy: Policy, *, job: PublicJob | None = None) -> Facts:
    """Return what a policy allows; with a job, what it allows in that job."""
    return {
        "policy": {"name": policy.name, "digest": policy.digest},
        "observers": {name: _observer(policy, name, job) for name in policy.observers},
        "releases": {name: _release(policy, name, job) for name in policy.declassifiers},
        "guest": {"starts_with_secrets_of": _names(policy.guest_label), "limits": asdict(policy.limits)},
        "sources": {name: _names(label) for name, label in policy.sources.items()},
        "sinks": {
            name: {"cleared_for": _names(sink.label), "bytes": sink.capacity_bytes}
            for name, sink in policy.sinks.items()
        },
        "calls": {
            name: {"read": rule.read, "write": rule.write, "phases": sorted(rule.phases)}
            for name, rule in policy.calls.items()
        },
        "timeline": [_phase(policy, name, job) for name in policy.phases],
        "header": {
            "menus": {name: list(values) for name, values in policy.menus.fields},
            "headers": combinations(policy.menus),
        },
        "serving": asdict(policy.serving),
        "not_covered": list(NOT_COVERED),
    }


def explain_receipt(receipt: Receipt, *, policy: Policy, home: Home | None) -> Facts:
    """Return what a receipt states of its job, and what the policy allowed there.

    Args:
        receipt: the receipt.
        policy: the policy in force here; a receipt under another is explained without its rules.
        home: whose reference values verify it; without one the receipt counts as not verified.

    Raises:
        PartyError: a statement is malformed or contradicts the policy, or the receipt does not verify.
        TrainingError: it is no receipt of this version, or a signature does not verify.
    """
    stated = receipt.stated()
    offer, evidence = _parsed(stated)
    if home is not None:
        verify_receipt(receipt, home)
    facts: Facts = {
        "receipt": {
            "verified": home is not None,
            "outcome": stated["outcome"],
            "simulated": stated["simulated"],
            "evidence_format": evidence.format.value,
            "charged": stated["charged"],
            "private_training": stated["private_training"],
            "finished_at": stated["finished_at"],
            "policy_in_force": offer.policy == policy.digest,
            "frame_bytes": frame_format(offer).frame_bytes,
            **offer.as_dict(),
        }
    }
    if offer.policy != policy.digest:
        return facts | {"not_covered": list(NOT_COVERED)}
    return facts | explain_policy(policy, job=_checked_job(policy, offer, stated["charged"]))


def _checked_job(policy: Policy, offer: Offer, charged: object) -> PublicJob:
    """Return the job, whose bits and charge must be those of the policy."""
    rows_class = offer.schema.rows_class
    try:
        bits = offered_bits(policy, offer.header, rows_class=rows_class)
        ledger = ledger_terms(policy, offer.header, rows_class=rows_class, spent=offer.ledger["spent"])
    except PolicyError as error:
        raise PartyError(f"the receipt's header is not on its policy's menus: {error}") from error
    if (offer.bits, offer.ledger, charged) != (bits, ledger, ledger["charge"]):
        raise PartyError("the receipt's bits do not follow from its policy: do not rely on it")
    return PublicJob(encode_header(policy.menus, offer.header), rows_class)


def _parsed(stated: dict[str, Any]) -> tuple[Offer, Evidence]:
    """Return a receipt's offer and Evidence; every statement that is shown must have its form.

    Raises:
        PartyError: one has not.
    """
    try:
        offer = Offer.from_dict(stated["offer"])
        frame_format(offer)  # checks the size class
        evidence = Evidence.from_bytes(stated["evidence"])
        sound = _is_sound(stated, offer)
    except (TrainingError, GuestApiError, EnclaveError, *_MALFORMED) as error:
        raise PartyError(f"the receipt is malformed ({type(error).__name__}): fetch it again") from error
    if not sound:
        raise PartyError("the receipt is malformed (a statement's form): fetch it again with `receipt JOB`")
    return offer, evidence


def _is_sound(stated: dict[str, Any], offer: Offer) -> bool:
    """Tell whether all numbers, digests and names of a receipt have their form; wrong types raise."""
    tables = (offer.bits, stated["charged"], *offer.ledger.values())
    counted = [number for table in tables for number in table.values()]
    numbers = [offer.seed, *offer.header.as_dict().values(), *counted]
    digests = (offer.policy, offer.guest, offer.dataset)
    return (
        all(type(number) is int and -_MAX_NUMBER < number < _MAX_NUMBER for number in numbers)
        and all(_DIGEST.fullmatch(digest) for digest in digests)
        and all(set(table) == set(offer.bits) for table in tables)
        and parse_job_id(offer.job) == offer.job
        and stated["outcome"] in _ENDINGS
        and type(stated["simulated"]) is bool
        and set(stated["approvals"]) == {offer.operator.hex(), offer.user.hex()}
        and stated["private_training"] is None
        and type(stated["finished_at"]) is int
        and 0 <= stated["finished_at"] < _MAX_SECONDS
    )


def _observer(policy: Policy, name: str, job: PublicJob | None) -> Facts:
    clearance = policy.observers[name]
    in_job = (
        job_bits(policy, clearance)
        if job is None
        else header_bits(policy, clearance, header=job.header, rows_class=job.rows_class)
    )
    rules = policy.declassifiers.items()
    phases = policy.phases.items()
    return {
        "sees_secrets_of": _names(clearance),
        "job_bits": in_job,
        "leak_cap_bits": policy.leak_cap_bits.get(name, 0),
        "data_set_bits": _data_set_bits(policy, name, job),
        "ledger_cap_bits": policy.ledger_cap_bits[name],
        "learns": [each for each, rule in rules if counts(rule, clearance)],
        "sees_of_its_own": [
            each for each, rule in rules if rule.to.flows_to(clearance) and rule.source.flows_to(clearance)
        ],
        "reads_frames": sorted(
            {
                sink
                for _, phase in phases
                for sink in phase.frames
                if policy.sinks[sink].label.flows_to(clearance)
            }
        ),
    }


def _data_set_bits(policy: Policy, observer: str, job: PublicJob | None) -> int:
    """Return what one job may tell an observer of the data set: this job, or any under the policy."""
    if job is not None:
        return data_set_bits(policy, header=job.header, rows_class=job.rows_class)[observer]
    owners, clearance = policy.sources[DATA_SET].owners, policy.observers[observer]
    rules = policy.declassifiers.values()
    return sum(r.bits * r.uses for r in rules if counts(r, clearance) and r.source.owners & owners)


def _release(policy: Policy, name: str, job: PublicJob | None) -> Facts:
    rule = policy.declassifiers[name]
    return {
        "meaning": MEANINGS.get(name, "a value that only its name describes"),
        "input": rule.input,
        "carries_secrets_of": _names(rule.source),
        "needs_clearance_for": _names(rule.to),
        "seen_by": [who for who, clearance in policy.observers.items() if rule.to.flows_to(clearance)],
        "bits": rule.bits,
        "uses": rule.uses
        if job is None
        else uses_of(policy, name, header=job.header, rows_class=job.rows_class),
        "phases": [phase for phase, each in policy.phases.items() if name in each.release],
    }


def _phase(policy: Policy, name: str, job: PublicJob | None) -> Facts:
    phase = policy.phases[name]
    ticks: int | str = phase.ticks
    if job is not None:
        ticks = phase_ticks(policy, name, header=job.header, rows_class=job.rows_class)
    return {
        "phase": name,
        "ticks": ticks,
        "next": phase.next,
        "fresh": phase.fresh,
        "charge": phase.charge,
        "exchange": phase.ticks == "slots",
        "calls": [call for call, rule in policy.calls.items() if name in rule.phases],
        "frames": [
            {
                "sink": sink,
                "bytes": policy.sinks[sink].capacity_bytes,
                "content_for": [
                    who
                    for who, clearance in policy.observers.items()
                    if policy.sinks[sink].label.flows_to(clearance)
                ],
            }
            for sink in phase.frames
        ],
        "releases": list(phase.release),
    }


def _names(label: Label) -> list[str]:
    return sorted(label.owners)
