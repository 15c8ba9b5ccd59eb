"""One job through all four roles, in this process, with real sockets and attested channels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import (
    CLASSES,
    POLICY,
    VALUES,
    Deployment,
    deployment,
    make_attester,
    new_node,
)
from guests import TRAP, guest
from jobs import GOOD, GRAPH, HEADER, Job, submitted

from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.parties.platform import ask_lead
from chiron.parties.query import QueryClient
from chiron.policy.loader import spec_folder
from chiron.training import closing
from chiron.training.agreement import sign_approval, sign_receipt
from chiron.training.errors import TrainingError
from chiron.training.lead import Lead
from chiron.training.node import POLICY as POLICY_STATEMENT
from chiron.training.node import Role
from chiron.training.sealed import unseal_model
from chiron.training.submission import Kind
from enclave import EnclaveError, Evidence, appraise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment")) as deployed:
        yield deployed


@pytest.fixture(scope="module")
def sealed(running: Deployment) -> Job:
    job = submitted(running, GOOD)
    assert job.run()["outcome"] == "sealed"
    return job


@pytest.fixture(scope="module")
def failed(running: Deployment, sealed: Job) -> Job:  # noqa: ARG001  one job after the other
    job = submitted(running, guest(graph=GRAPH, header=HEADER, create=TRAP))
    assert job.run()["outcome"] == "failed"
    return job


def test_the_model_answers_its_user(sealed: Job) -> None:
    rows = sealed.dataset.held_out_rows[:12]
    with QueryClient(sealed.running.platform(), sealed.user, sealed.id) as client:
        assert client.metadata()["inputs"][0]["shape"] == [-1, VALUES]
        answers = client.predict(rows)
    hits = [a.target == t for a, t in zip(answers, sealed.dataset.held_out_targets, strict=True)]
    assert np.mean(hits) > 0.8


def test_the_operator_reads_metrics_and_the_user_does_not(sealed: Job) -> None:
    metrics = sealed.ask(sealed.operator, "metrics")
    assert metrics["succeeded"]
    assert metrics["accuracy"] > 0.8
    assert len(metrics["losses"]) == HEADER[0]
    for question in ("metrics", "log"):
        with pytest.raises(PartyError, match="bad-request"):
            sealed.ask(sealed.user, question)


def test_nobody_reads_the_receipt_of_a_job_that_is_not_theirs(sealed: Job) -> None:
    with pytest.raises(PartyError, match="not-a-party"):
        sealed.ask(sealed.running.home(), "receipt")


def test_an_unknown_job_is_refused_by_its_code(sealed: Job) -> None:
    with pytest.raises(PartyError, match="unknown-job"):
        ask_lead(sealed.running.platform(), sealed.user, {"ask": "offer", "job": "00" * 16})


def test_the_receipt_states_the_offer_and_verifies_for_both_parties(sealed: Job) -> None:
    for home in (sealed.operator, sealed.user):
        _, stated = approval.fetch_receipt(sealed.running.platform(), home, sealed.id)
        assert stated["outcome"] == "sealed"
        assert stated["simulated"] is True
        assert stated["offer"]["job"] == sealed.id


def test_the_digest_of_the_policy_in_force_is_in_evidence_and_receipt_and_so_is_the_charge(
    sealed: Job,
) -> None:
    _, stated = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    digest = hashlib.sha256((spec_folder() / "policy.toml").read_bytes()).hexdigest()
    evidence = Evidence.from_bytes(stated["evidence"])
    claims = appraise(evidence, sealed.running.reference, nonce=None, now=stated["finished_at"])
    assert claims.statements[POLICY_STATEMENT].hex() == stated["offer"]["policy"] == digest
    losses = HEADER[0] * 8
    assert stated["charged"] == {"operator": 1 + 10 + losses, "user": 1 + 16000, "platform": 1}


def test_a_receipt_is_refused_under_other_reference_values(sealed: Job, tmp_path: Path) -> None:
    receipt, _ = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    stranger = replace(sealed.user, reference=make_attester(tmp_path).own_reference())
    with pytest.raises(PartyError, match="not trusted"):
        approval.verify_receipt(receipt, stranger)


@pytest.mark.parametrize("dropped", ["evidence", "finished_at", "offer", "approvals", "charged"])
def test_a_receipt_without_a_field_is_refused(sealed: Job, dropped: str) -> None:
    receipt, stated = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    del stated[dropped]
    forged = sign_receipt(sealed.running.lead.node.signer, stated)
    with pytest.raises(TrainingError, match="no Chiron receipt"):
        approval.verify_receipt(forged, sealed.user)
    assert approval.verify_receipt(receipt, sealed.user)


def test_a_receipt_that_another_key_signed_is_refused(sealed: Job) -> None:
    _, stated = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    with pytest.raises(TrainingError, match="the receipt does not carry a valid signature"):
        approval.verify_receipt(sign_receipt(sealed.user.signer, stated), sealed.user)


def test_a_receipt_signed_by_an_enclave_that_is_no_lead_is_refused(sealed: Job) -> None:
    _, stated = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    other = new_node(Role.WORKER, sealed.running.attester)
    forged = sign_receipt(other.signer, stated | {"evidence": other.identity.evidence.to_bytes()})
    with pytest.raises(PartyError, match="not a lead"):
        approval.verify_receipt(forged, sealed.user)


def test_a_receipt_whose_approvals_are_exchanged_is_refused(sealed: Job) -> None:
    _, stated = approval.fetch_receipt(sealed.running.platform(), sealed.user, sealed.id)
    first, second = stated["approvals"]
    stated["approvals"] = {first: stated["approvals"][second], second: stated["approvals"][first]}
    forged = sign_receipt(sealed.running.lead.node.signer, stated)
    with pytest.raises(TrainingError, match="an approval does not carry"):
        approval.verify_receipt(forged, sealed.user)


def test_a_failed_job_looks_like_a_good_one_until_its_outcome(sealed: Job, failed: Job) -> None:
    good, bad = sealed.public(), failed.public()
    assert [e.get("phase") for e in good] == ["Configure", "Approve", "Create", "Train", "Seal", None, None]
    assert good[:5] == bad[:5]
    assert (good[-1]["outcome"], bad[-1]["outcome"]) == ("sealed", "failed")


def test_each_planned_phase_takes_its_planned_time_in_both_jobs(sealed: Job, failed: Job) -> None:
    for job in (sealed, failed):
        seen = [(at, e) for at, e in job.running.events.of(job.id) if e["event"] != "serving"]
        for (began, event), (ended, _) in pairwise(seen):
            if event["phase"] in {"Create", "Train", "Seal"}:
                assert ended - began >= 0.99 * event["planned_ms"] / 1000, event["phase"]


def test_a_failed_job_has_a_receipt_and_no_model(failed: Job) -> None:
    _, stated = approval.fetch_receipt(failed.running.platform(), failed.user, failed.id)
    assert stated["outcome"] == "failed"
    assert not (failed.running.folder / f"{failed.id}.model").exists()
    assert failed.ask(failed.operator, "metrics") == {
        "succeeded": False,
        "accuracy": 0.0,
        "losses": [255 / 32] * HEADER[0],
    }
    with (
        QueryClient(failed.running.platform(), failed.user, failed.id) as client,
        pytest.raises(PartyError, match="403"),
    ):
        client.metadata()


def test_records_of_good_and_failed_jobs_reveal_nothing_more_by_their_size(sealed: Job, failed: Job) -> None:
    receipts = [(job.running.folder / f"{job.id}.receipt").stat().st_size for job in (sealed, failed)]
    assert receipts[0] == receipts[1]


def test_the_model_on_disk_opens_with_its_key_alone_and_has_the_size_of_its_header(sealed: Job) -> None:
    node, offer = sealed.running.lead.node, approval.fetch_offer(
        sealed.running.platform(), sealed.user, sealed.id, policy=POLICY
    )  # fmt: skip
    blob = (sealed.running.folder / f"{sealed.id}.model").read_bytes()
    model = unseal_model(blob, key=closing.model_key(node, sealed.id), job=sealed.id, header=offer.header)
    assert model.graph == GRAPH
    assert model.parameters.shape == (VALUES * CLASSES,)


def test_a_decided_job_takes_no_approval_and_no_refusal(sealed: Job) -> None:
    offer = approval.fetch_offer(sealed.running.platform(), sealed.user, sealed.id, policy=POLICY)
    with pytest.raises(PartyError, match="too-late"):
        approval.approve(sealed.running.platform(), sealed.user, offer)
    with pytest.raises(PartyError, match="too-late"):
        approval.refuse(sealed.running.platform(), sealed.user, sealed.id)


def test_a_new_lead_on_the_same_machine_serves_a_closed_job_again(sealed: Job) -> None:
    lead = Lead(new_node(Role.LEAD, sealed.running.attester), sealed.running.lead.cell)
    sealed.running.query.models.clear()
    lead.resume(sealed.id)
    with QueryClient(sealed.running.platform(), sealed.user, sealed.id) as client:
        assert len(client.predict(sealed.dataset.rows[:3])) == 3
    assert lead.jobs[sealed.id].closing is not None


def test_a_changed_record_is_not_resumed(sealed: Job) -> None:
    path = sealed.running.folder / f"{sealed.id}.record"
    good = path.read_bytes()
    lead = Lead(new_node(Role.LEAD, sealed.running.attester), sealed.running.lead.cell)
    try:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(EnclaveError):
            lead.resume(sealed.id)
    finally:
        path.write_bytes(good)


def test_a_record_of_another_job_is_not_resumed(sealed: Job, failed: Job) -> None:
    path = sealed.running.folder / f"{sealed.id}.record"
    good = path.read_bytes()
    lead = Lead(new_node(Role.LEAD, sealed.running.attester), sealed.running.lead.cell)
    try:
        path.write_bytes((sealed.running.folder / f"{failed.id}.record").read_bytes())
        with pytest.raises(EnclaveError):
            lead.resume(sealed.id)
    finally:
        path.write_bytes(good)


def test_a_model_whose_file_was_changed_is_not_served(sealed: Job) -> None:
    path = sealed.running.folder / f"{sealed.id}.model"
    good = path.read_bytes()
    lead = Lead(new_node(Role.LEAD, sealed.running.attester), sealed.running.lead.cell)
    try:
        path.write_bytes(good[:-1])
        with pytest.raises(TrainingError, match="cannot open the sealed model"):
            lead.resume(sealed.id)
    finally:
        path.write_bytes(good)


def test_an_unready_job_is_refused_by_its_code_and_a_refusal_ends_it(running: Deployment) -> None:
    job = submitted(running, GOOD)
    job.attach()
    running.events.wait_for(event="phase", job=job.id, phase="Configure")
    for home, question in ((job.user, "offer"), (job.operator, "metrics"), (job.user, "receipt")):
        with pytest.raises(PartyError, match="too-early"):
            job.ask(home, question)
    with pytest.raises(PartyError, match="too-early"):
        job.ask(job.user, "refuse")
    running.events.wait_for(event="phase", job=job.id, phase="Approve")
    offer = approval.fetch_offer(running.platform(), job.user, job.id, policy=POLICY)
    for signature in (sign_approval(job.operator.signer, offer), b"", bytes(64), "text", None):
        with pytest.raises(PartyError, match="stale-offer"):
            job.ask(job.user, "approve", approval=signature)
    with pytest.raises(PartyError, match="bad-request"):
        job.ask(job.user, "approve")
    with pytest.raises(PartyError, match="bad-request"):
        job.ask(job.user, "surprise")
    assert running.lead.jobs[job.id].approvals == {}
    approval.refuse(running.platform(), job.user, job.id)
    assert running.events.wait_for_end(job.id)["reason"] == "PARTY_REFUSED"


def test_a_guest_that_declares_no_header_ends_the_job_and_its_operator_reads_why(running: Deployment) -> None:
    job = submitted(running, guest(graph=GRAPH, header=(7, 7, 7, 7, 7, 7)))
    job.attach()
    assert running.events.wait_for_end(job.id)["outcome"] == "no-header"
    assert "declared no header" in job.ask(job.operator, "log")


def test_a_guest_that_traps_in_configure_ends_the_job_and_its_operator_reads_why(running: Deployment) -> None:
    job = submitted(running, guest(graph=GRAPH, configure=TRAP))
    job.attach()
    assert running.events.wait_for_end(job.id)["outcome"] == "no-header"
    assert "configure() ended: trapped" in job.ask(job.operator, "log")


def test_a_submission_for_another_lead_stops_the_job(running: Deployment) -> None:
    other = Lead(new_node(Role.LEAD, running.attester, running.events), running.lead.cell)
    job = submitted(running, GOOD)
    guest_path, data_path = (str(running.path(job.id, kind)) for kind in (Kind.GUEST, Kind.DATASET))
    other.attach(job.id, guest=guest_path, dataset=data_path)
    assert running.events.wait_for_end(job.id)["reason"] == "NOT_FOR_THIS_LEAD"


@pytest.mark.parametrize("position", [5, 200, -1])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_tampered_submission_stops_the_job(running: Deployment, kind: Kind, position: int) -> None:
    job = submitted(running, GOOD)
    raw = bytearray(running.path(job.id, kind).read_bytes())
    raw[position] ^= 1
    running.path(job.id, kind).write_bytes(raw)
    job.attach()
    assert running.events.wait_for_end(job.id)["reason"] == "SUBMISSION_REFUSED"


def test_two_guests_or_another_jobs_data_stop_the_job(running: Deployment) -> None:
    job, other = submitted(running, GOOD), submitted(running, GOOD)
    running.path(job.id, Kind.DATASET).write_bytes(running.path(other.id, Kind.DATASET).read_bytes())
    job.attach()
    assert running.events.wait_for_end(job.id)["reason"] == "SUBMISSION_REFUSED"
    third = submitted(running, GOOD)
    running.path(third.id, Kind.DATASET).write_bytes(running.path(third.id, Kind.GUEST).read_bytes())
    third.attach()
    assert running.events.wait_for_end(third.id)["reason"] == "SUBMISSION_REFUSED"


def test_a_lost_file_is_the_platforms_fault(running: Deployment) -> None:
    job = submitted(running, GOOD)
    running.path(job.id, Kind.DATASET).unlink()
    job.attach()
    assert running.events.wait_for_end(job.id)["reason"] == "PLATFORM_FAULT"


def test_too_few_workers_are_the_platforms_fault(tmp_path: Path) -> None:
    with deployment(tmp_path, workers=1) as small:
        job = submitted(small, GOOD)
        assert job.run()["reason"] == "PLATFORM_FAULT"
