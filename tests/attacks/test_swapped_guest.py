"""Attack: platform and operator put another guest in the place of the one that the user approved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments import POLICY, deployment
from guests import TRAP, guest
from jobs import GOOD, GRAPH, HEADER, submitted

from chiron.parties.submit import submit_guest
from chiron.training.submission import Kind

if TYPE_CHECKING:
    from pathlib import Path

OTHER = guest(graph=GRAPH, header=HEADER, create=TRAP)


def test_files_that_change_after_the_approval_change_nothing(tmp_path: Path) -> None:
    """The lead reads a submission once; what the disk holds later is not looked at again."""
    with deployment(tmp_path) as running:
        job = submitted(running, GOOD)
        job.attach()
        running.events.wait_for(event="phase", job=job.id, phase="Approve")
        submit_guest(running.platform(), job.operator, policy=POLICY, guest=OTHER, job=job.id, seed=7)
        job.approve()
        assert running.events.wait_for_end(job.id)["outcome"] == "sealed"


def test_data_that_change_after_the_approval_stop_the_job(tmp_path: Path) -> None:
    """Workers read the data set again: from another envelope than the approved one they do not train."""
    with deployment(tmp_path) as running:
        job, other = submitted(running, GOOD), submitted(running, GOOD)
        job.attach()
        running.events.wait_for(event="phase", job=job.id, phase="Approve")
        raw = running.path(other.id, Kind.DATASET).read_bytes()
        running.path(job.id, Kind.DATASET).write_bytes(raw)
        job.approve()
        assert running.events.wait_for_end(job.id)["reason"] == "PLATFORM_FAULT"
