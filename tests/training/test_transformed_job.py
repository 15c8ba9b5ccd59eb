"""Whole jobs whose guest transforms rows: one that trains and serves, and one whose transform fails."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import CLASSES, POLICY, VALUES, Deployment, deployment, small_dataset
from graphs import linear
from guests import TRAP
from transforming import GIVE, NOTES, TAKE, each, scaled, transforming

from chiron.parties import approval
from chiron.parties.platform import ask_lead
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest
from chiron.training.submission import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.parties.home import Home
    from chiron.training.submission import JobId

HEADER = (2, 16, 2, 4096, 20, 1000)  # epochs, batch, workers, parameters, slot_ms, create_ms
FACTOR = 0.5
KEEP = (
    f"(i32.store (i32.const {NOTES}) (i32.const {struct.unpack('<i', struct.pack('<f', FACTOR))[0]}))"
    f"(drop (call $keep (i32.const {NOTES}) (i32.const 4)))"
)
BY_NOTES = (
    f"(drop (call $kept (i32.const {NOTES}) (i32.const 4)))"
    + TAKE
    + each(f"(f32.store (local.get $i) (f32.mul (f32.load (local.get $i)) (f32.load (i32.const {NOTES}))))")
    + GIVE
)
GOOD = {"transform_input": BY_NOTES, "augment": scaled(1), "transform_output": scaled(0.5)}


@dataclass(frozen=True, slots=True)
class Job:
    """A job and its parties, after its end."""

    running: Deployment
    id: JobId
    operator: Home
    user: Home

    def metrics(self) -> dict[str, Any]:
        return dict(ask_lead(self.running.platform(), self.operator, {"ask": "metrics", "job": self.id}))

    def public(self) -> list[dict[str, Any]]:
        kept = ("event", "phase", "planned_ms")
        events = [event for _, event in self.running.events.of(self.id)]
        return [{key: event[key] for key in kept if key in event} for event in events]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment")) as deployed:
        yield deployed
    for box in deployed.query.models.values():
        if box.transformer is not None:
            box.transformer.close()


def ended(running: Deployment, exports: dict[str, str]) -> tuple[Job, dict[str, Any]]:
    """Run a job to its end."""
    guest = transforming(exports, graph=linear(VALUES, CLASSES), header=HEADER, create=KEEP)
    job = Job(running, new_job_id(), running.home(), running.home())
    submit_guest(running.platform(), job.operator, policy=POLICY, guest=guest, job=job.id, seed=7)
    submit_dataset(running.platform(), job.user, dataset=small_dataset(), job=job.id)
    running.attach(job.id)
    running.events.wait_for(event="phase", job=job.id, phase="Approve")
    for home in (job.operator, job.user):
        offer = approval.fetch_offer(running.platform(), home, job.id, policy=POLICY)
        approval.approve(running.platform(), home, offer)
    return job, running.events.wait_for_end(job.id)


@pytest.fixture(scope="module")
def sealed(running: Deployment) -> Job:
    job, event = ended(running, GOOD)
    assert event["outcome"] == "sealed"
    return job


@pytest.fixture(scope="module")
def failed(running: Deployment, sealed: Job) -> Job:  # noqa: ARG001  one job after the other
    job, event = ended(running, GOOD | {"augment": TRAP})
    assert event["outcome"] == "failed"
    return job


def test_a_transformed_job_trains_and_is_measured_through_its_transforms(sealed: Job) -> None:
    metrics = sealed.metrics()
    assert metrics["succeeded"]
    assert metrics["losses"][-1] < metrics["losses"][0]


def test_the_user_is_answered_through_both_transforms(sealed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sealed.running.query.models[sealed.id]
    rows = small_dataset().held_out_rows[:2]
    assert model.transformer is not None
    model.transformer.wait()
    patient = replace(POLICY, serving=replace(POLICY.serving, transform_ms=1000))
    monkeypatch.setattr(model.monitor, "policy", patient)
    scores = model._predict(rows)
    plain = model.predictor.predict(np.multiply(rows, np.float32(FACTOR))) * np.float32(0.5)
    assert np.array_equal(scores, plain)


def test_a_transform_that_fails_shows_as_the_outcome_after_the_whole_schedule(
    sealed: Job, failed: Job
) -> None:
    assert failed.metrics()["succeeded"] is False
    without_serving = [event for event in sealed.public() if event["event"] != "serving"]
    assert failed.public() == without_serving


def test_guest_and_notes_are_nowhere_on_the_platforms_disk(sealed: Job) -> None:
    guest = transforming(GOOD, graph=linear(VALUES, CLASSES), header=HEADER, create=KEEP)
    for path in sealed.running.folder.glob(f"{sealed.id}.*"):
        assert guest[-200:] not in path.read_bytes(), path.name
    assert sealed.running.path(sealed.id, Kind.GUEST).exists()
