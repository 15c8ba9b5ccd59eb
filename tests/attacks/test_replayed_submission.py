"""Attack: the platform stores one party's submission again, under another job or another operator's guest.

Replay: a user's data must not be trained on by a guest that the user did not approve, however often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployments import POLICY, Deployment, deployment
from jobs import GOOD, Job, submitted

from chiron.parties import approval
from chiron.parties.errors import PartyError
from chiron.parties.submit import new_job_id, submit_guest
from chiron.training.agreement import sign_approval
from chiron.training.submission import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path) as deployed:
        yield deployed


def test_data_of_one_job_do_not_open_in_another(running: Deployment) -> None:
    job, other = submitted(running, GOOD), submitted(running, GOOD)
    running.path(other.id, Kind.DATASET).write_bytes(running.path(job.id, Kind.DATASET).read_bytes())
    other.attach()
    assert running.events.wait_for_end(other.id)["reason"] == "SUBMISSION_REFUSED"


def test_an_approval_of_one_job_is_none_of_another_guest_on_the_same_data(running: Deployment) -> None:
    """A second operator sends a guest, and the platform puts the first job's data beside it."""
    job = submitted(running, GOOD)
    approved = job_offer_signature(job)
    stranger, second = running.home(), new_job_id()
    submit_guest(running.platform(), stranger, policy=POLICY, guest=GOOD, job=second, seed=8)
    running.path(second, Kind.DATASET).write_bytes(running.path(job.id, Kind.DATASET).read_bytes())
    running.attach(second)
    assert running.events.wait_for_end(second)["reason"] == "SUBMISSION_REFUSED"
    with pytest.raises(PartyError, match="not-a-party"):
        Job(running, second, stranger, job.user, job.dataset).ask(job.user, "approve", approval=approved)


def job_offer_signature(job: Job) -> bytes:
    job.attach()
    job.running.events.wait_for(event="phase", job=job.id, phase="Approve")
    offer = approval.fetch_offer(job.running.platform(), job.user, job.id, policy=POLICY)
    signature = sign_approval(job.user.signer, offer)
    approval.refuse(job.running.platform(), job.operator, job.id)
    return signature


def test_an_approval_is_of_this_offer_alone(running: Deployment) -> None:
    """The same parties, the same files but one seed: the old approval does not fit the new offer."""
    first = submitted(running, GOOD)
    signature = job_offer_signature(first)
    again = submitted(running, GOOD)
    again.attach()
    running.events.wait_for(event="phase", job=again.id, phase="Approve")
    with pytest.raises(PartyError, match="stale-offer"):
        again.ask(again.user, "approve", approval=signature)
    approval.refuse(running.platform(), again.user, again.id)
