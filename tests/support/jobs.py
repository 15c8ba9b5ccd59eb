"""Jobs through all four roles, in a deployment whose roles are threads of this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployments import CLASSES, POLICY, VALUES, Deployment, small_dataset
from graphs import linear
from guests import guest

from chiron.parties import approval
from chiron.parties.platform import ask_lead
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Dataset
    from chiron.parties.home import Home
    from chiron.training.submission import JobId

GRAPH = linear(VALUES, CLASSES)
HEADER = (2, 16, 2, 4096, 20, 1000)  # epochs, batch, workers, parameters, slot_ms, create_ms
GOOD = guest(graph=GRAPH, header=HEADER)


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted job and its parties."""

    running: Deployment
    id: JobId
    operator: Home
    user: Home
    dataset: Dataset

    def attach(self) -> None:
        self.running.attach(self.id)

    def approve(self) -> None:
        self.running.events.wait_for(event="phase", job=self.id, phase="Approve")
        for home in (self.operator, self.user):
            offer = approval.fetch_offer(self.running.platform(), home, self.id, policy=POLICY)
            approval.approve(self.running.platform(), home, offer)

    def run(self) -> dict[str, Any]:
        self.attach()
        self.approve()
        return self.running.events.wait_for_end(self.id)

    def ask(self, home: Home, question: str, **more: object) -> Any:  # noqa: ANN401  a CBOR value
        return ask_lead(self.running.platform(), home, {"ask": question, "job": self.id, **more})

    def public(self) -> list[dict[str, Any]]:
        """What the platform saw of the job, without what is the job's own (id and digests)."""
        kept = ("event", "phase", "planned_ms", "outcome", "reason")
        return [
            {key: event[key] for key in kept if key in event} for _, event in self.running.events.of(self.id)
        ]


def submitted(running: Deployment, binary: bytes) -> Job:
    dataset, job = small_dataset(), new_job_id()
    operator, user = running.home(), running.home()
    submit_guest(running.platform(), operator, policy=POLICY, guest=binary, job=job, seed=7)
    submit_dataset(running.platform(), user, dataset=dataset, job=job)
    return Job(running, job, operator, user, dataset)
