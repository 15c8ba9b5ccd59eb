"""The lead answers a party what is its own, all else with a code, and reports the end of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cbor2
import pytest
from agreed import JOB, SIGNER
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import Events, node_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedChannel

from chiron.policy import kernel
from chiron.training.agreement import sign_request
from chiron.training.errors import REMEDIES, Code
from chiron.training.exchange import Cell
from chiron.training.job import JobRun
from chiron.training.lead import Lead
from chiron.training.node import Node, Role
from chiron.training.submission import PartyKey
from chiron.training.wire import canonical

if TYPE_CHECKING:
    from pathlib import Path

PARTY = PartyKey(SIGNER.public_key().public_bytes_raw())


@pytest.fixture
def lead(folder: Path) -> Lead:
    cell = Cell((), ("127.0.0.1", 1), ("127.0.0.1", 1), folder)
    lead = Lead(node_of(Role.LEAD, folder), cell)
    lead.jobs[JOB] = JobRun(lead.node, cell, JOB, lead.ledgers, parties=(PARTY, PARTY))
    return lead


def asked(lead: Lead, *requests: bytes | dict[str, object]) -> list[dict[str, object]]:
    channel = ScriptedChannel(None, *requests)
    lead.handle(channel.as_channel)
    return list(channel.messages())


def signed(body: object, *, exporter: bytes = b"e" * 32) -> dict[str, object]:
    return {"party": PARTY, "body": body, "signature": sign_request(SIGNER, exporter, canonical(body))}


def test_a_party_is_answered_what_is_its_own_and_no_more(lead: Lead) -> None:
    other = PartyKey(bytes(32))
    for question in ("log", "metrics"):
        lead.jobs[JOB].parties = (PARTY, other)
        assert asked(lead, signed({"ask": question, "job": JOB}))[0].get("error") != Code.BAD_REQUEST.value
        lead.jobs[JOB].parties = (other, PARTY)
        (answer,) = asked(lead, signed({"ask": question, "job": JOB}))
        assert answer["error"] == Code.BAD_REQUEST.value


def test_a_request_signed_for_another_connection_is_refused(lead: Lead) -> None:
    body = {"ask": "offer", "job": JOB}
    assert asked(lead, signed(body, exporter=b"f" * 32)) == [{"error": Code.NOT_A_PARTY.value}]
    assert asked(lead, signed(body)) == [{"error": Code.TOO_EARLY.value}]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"party": PARTY, "body": {}},
        {"party": PARTY, "body": {}, "signature": b""},
        {"party": 5, "body": {}, "signature": b""},
        signed({}),
        signed([]),
        signed("text"),
        signed({"job": [JOB], "ask": "offer"}),
        signed({"job": JOB}),
        signed({"job": JOB, "ask": ["offer"]}),
        signed({"job": JOB, "ask": "surprise"}),
    ],
)
def test_a_request_of_another_form_is_answered_with_a_code(lead: Lead, request_: dict[str, object]) -> None:
    (answer,) = asked(lead, request_)
    assert answer["error"] in {Code.BAD_REQUEST.value, Code.NOT_A_PARTY.value}


def test_a_body_that_refers_to_itself_is_answered_with_a_code(lead: Lead) -> None:
    body: dict[str, object] = {"job": JOB}
    body["self"] = body
    raw = cbor2.dumps({"party": PARTY, "body": body, "signature": b""}, value_sharing=True)
    assert [answer.keys() for answer in asked(lead, raw)] == [{"error"}]


_NODE: dict[str, Node] = {}


@given(raw=st.binary(max_size=60))
@settings(deadline=None, max_examples=50)
def test_any_bytes_end_the_connection_or_get_a_code(raw: bytes, folder: Path) -> None:
    lead = Lead(_NODE.setdefault("lead", node_of(Role.LEAD, folder)), Cell((), ("", 1), ("", 1), folder))
    assert all(set(answer) == {"error"} for answer in asked(lead, raw))


def test_every_code_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Code)


def test_a_job_goes_on_once_both_parties_approved(lead: Lead) -> None:
    other = PartyKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    run = JobRun(lead.node, lead.cell, JOB, lead.ledgers, parties=(PARTY, other))
    run.approve(PARTY, b"1")
    run.approve(PARTY, b"2")
    assert not run.decided.is_set()
    run.approve(other, b"3")
    assert run.decided.is_set()
    assert not run.refused


def test_an_unexpected_end_of_a_job_is_the_platforms_fault(folder: Path) -> None:
    events = Events()
    node = node_of(Role.LEAD, folder, events)
    lead = Lead(node, Cell((), ("127.0.0.1", 1), ("127.0.0.1", 1), folder))
    lead.attach(JOB, guest=str(folder / "nothing"), dataset=str(folder / "nothing"))
    assert events.wait_for_end(JOB)["reason"] == kernel.StopReason.PLATFORM_FAULT.name
