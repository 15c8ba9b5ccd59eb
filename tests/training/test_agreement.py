"""Offers, approvals, requests and receipts: what a signature binds, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import POLICY, small_dataset
from hypothesis import given
from hypothesis import strategies as st

from chiron.guest_api.errors import DatasetError
from chiron.policy.header import Header, size_class, slots_for
from chiron.policy.types import PolicyDigest
from chiron.training.agreement import (
    Offer,
    Receipt,
    make_offer,
    sign_approval,
    sign_receipt,
    sign_request,
    verify_approval,
    verify_request,
)
from chiron.training.errors import TrainingError
from chiron.training.schedule import frame_format, schedule_of
from chiron.training.submission import JobId, Kind, Manifest, PartyKey, draft_manifest
from chiron.training.wire import canonical, parse_map

OPERATOR, USER, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(3))
JOB, OTHER_JOB = JobId("0" * 32), JobId("1" * 32)
HEADER = Header(2, 16, 1, 4096, 20, 1000)
SCHEMA = small_dataset().schema


def key(signer: Ed25519PrivateKey) -> PartyKey:
    return PartyKey(signer.public_key().public_bytes_raw())


def manifests() -> tuple[Manifest, Manifest]:
    guest = draft_manifest(Kind.GUEST, JOB, signer=OPERATOR, seed=7)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=USER, schema=SCHEMA)
    return replace(guest, envelope="a" * 64), replace(dataset, envelope="b" * 64)


def offer() -> Offer:
    guest, dataset = manifests()
    return make_offer(POLICY, guest, dataset=dataset, header=HEADER, spent={"user": 5})


OTHER_VALUES: dict[str, Any] = {
    "job": OTHER_JOB,
    "policy": PolicyDigest("f" * 64),
    "operator": key(STRANGER),
    "user": key(STRANGER),
    "schema": replace(SCHEMA, classes=4),
    "header": replace(HEADER, epochs=3),
    "seed": 8,
    "guest": "c" * 64,
    "dataset": "c" * 64,
    "bits": {"operator": 1},
    "ledger": {"spent": {}, "charge": {}, "left": {}},
}


def test_an_offer_names_both_parties_both_digests_and_the_bits_of_each_observer() -> None:
    made = offer()
    assert (made.operator, made.user, made.guest, made.dataset) == (
        key(OPERATOR),
        key(USER),
        "a" * 64,
        "b" * 64,
    )
    assert made.bits == {"operator": 1 + 10 + 2 * 8, "user": 15 + 1 + 16000, "platform": 16}
    charge = {"operator": 1 + 10 + 2 * 8, "user": 1 + 16000, "platform": 1}
    assert made.ledger == {
        "spent": {"operator": 0, "user": 5, "platform": 0},
        "charge": charge,
        "left": {"operator": 8110 - 27, "user": 160010 - 5 - 16001, "platform": 9},
    }
    assert made.as_dict()["slots"] == slots_for(HEADER, SCHEMA.rows_class)


def test_an_offer_survives_its_dictionary_and_the_wire() -> None:
    again = Offer.from_dict(parse_map(canonical(offer().as_dict())))
    assert again == offer()
    assert again.digest == offer().digest


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_an_approval_binds_each_field(name: str) -> None:
    signature = sign_approval(USER, offer())
    changed = replace(offer(), **{name: OTHER_VALUES[name]})
    verify_approval(key(USER), offer(), signature)
    with pytest.raises(TrainingError, match="an approval does not carry a valid signature"):
        verify_approval(key(USER), changed, signature)


def test_every_field_of_an_offer_has_another_value_to_try() -> None:
    assert set(OTHER_VALUES) == {each.name for each in fields(Offer)}


def test_an_approval_by_another_key_is_refused() -> None:
    with pytest.raises(TrainingError):
        verify_approval(key(USER), offer(), sign_approval(OPERATOR, offer()))


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"slots": 1}, {"header": {"epochs": 1}}, {"ledger": {"spent": {}}}]
)
def test_an_offer_with_other_keys_or_slots_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError):
        Offer.from_dict(offer().as_dict() | change)


@pytest.mark.parametrize("name", [*sorted(OTHER_VALUES), "slots"])
def test_an_offer_that_lacks_a_key_is_refused(name: str) -> None:
    given_fields = offer().as_dict()
    del given_fields[name]
    with pytest.raises(TrainingError, match="same version"):
        Offer.from_dict(given_fields)


def test_an_offer_with_a_schema_out_of_range_is_refused() -> None:
    bad = offer().as_dict()
    bad["schema"]["classes"] = 1000
    with pytest.raises(DatasetError):
        Offer.from_dict(bad)


def test_no_offer_is_made_of_two_jobs_or_of_two_submissions_of_one_kind() -> None:
    guest, dataset = manifests()
    for first, second in ((guest, replace(dataset, job=OTHER_JOB)), (guest, guest), (dataset, dataset)):
        with pytest.raises(TrainingError, match="name the same job id"):
            make_offer(POLICY, first, dataset=second, header=HEADER, spent={})


def test_a_request_is_valid_on_its_connection_by_its_party_alone() -> None:
    signature = sign_request(USER, b"e" * 32, b"request")
    verify_request(key(USER), b"e" * 32, b"request", signature=signature)
    for party, exporter, request in (
        (key(OPERATOR), b"e" * 32, b"request"),
        (key(USER), b"f" * 32, b"request"),
        (key(USER), b"e" * 32, b"another"),
    ):
        with pytest.raises(TrainingError, match="a request does not carry"):
            verify_request(party, exporter, request, signature=signature)


def test_signatures_of_one_domain_are_not_valid_in_another() -> None:
    request = sign_request(USER, b"", offer().digest)
    receipt = sign_receipt(USER, {}).signature
    for signature in (request, receipt):
        with pytest.raises(TrainingError):
            verify_approval(key(USER), offer(), signature)


STATED: dict[str, Any] = {
    "version": 2,
    "offer": {},
    "approvals": {},
    "charged": {},
    "outcome": "sealed",
    "simulated": True,
    "evidence": b"",
    "private_training": None,
    "finished_at": 0,
}


def test_a_receipt_survives_its_file_and_verifies() -> None:
    again = Receipt.from_bytes(sign_receipt(OPERATOR, STATED).to_bytes())
    again.verify(key(OPERATOR))
    assert again.stated() == STATED


def test_a_receipt_of_another_signer_or_content_is_refused() -> None:
    receipt = sign_receipt(OPERATOR, STATED)
    with pytest.raises(TrainingError, match="the receipt does not carry"):
        receipt.verify(key(USER))
    with pytest.raises(TrainingError, match="the receipt does not carry"):
        replace(receipt, body=canonical(STATED | {"outcome": "failed"})).verify(key(OPERATOR))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        canonical([1]),
        canonical({1: 2}),
        canonical({"body": b""}),
        canonical({"body": b"", "signature": b"", "more": 1}),
        canonical({"body": "text", "signature": b""}),
    ],
)
def test_a_file_that_is_no_receipt_is_refused(raw: bytes) -> None:
    with pytest.raises(TrainingError):
        Receipt.from_bytes(raw)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_receipt_or_refused(raw: bytes) -> None:
    try:
        receipt = Receipt.from_bytes(raw)
    except TrainingError:
        return
    with pytest.raises(TrainingError):
        receipt.verify(key(USER))


@pytest.mark.parametrize("change", [{"more": 1}, {"version": 1}])
def test_a_receipt_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="no Chiron receipt of version 2"):
        sign_receipt(OPERATOR, STATED | change).stated()


HEADERS = st.builds(Header, **{name: st.sampled_from(values) for name, values in POLICY.menus.fields})


@given(header=HEADERS, rows=st.integers(1, 1 << 20))
def test_the_exchange_has_the_slots_that_the_policy_counts(header: Header, rows: int) -> None:
    made = replace(offer(), header=header, schema=replace(SCHEMA, rows_class=size_class(rows)))
    schedule = schedule_of(made)
    assert schedule.slots == slots_for(header, size_class(rows)) == made.as_dict()["slots"]
    assert schedule.steps == header.epochs * schedule.steps_per_epoch
    assert schedule.steps_per_epoch * header.batch * header.workers >= rows
    assert frame_format(made).parameters == header.parameters
