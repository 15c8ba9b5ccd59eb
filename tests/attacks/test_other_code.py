"""Attack: the platform runs a lead whose code it changed, on the very processor that the user trusts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from deployments import Deployment, deployment, small_dataset

from chiron.parties.errors import PartyError
from chiron.parties.submit import new_job_id, submit_dataset
from chiron.training.node import Role
from chiron.training.submission import Kind
from enclave import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chiron.parties.home import Home


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, workers=1) as deployed:
        yield deployed


def refused(running: Deployment, home: Home) -> str:
    job = new_job_id()
    with pytest.raises(PartyError) as error:
        submit_dataset(running.platform(), home, dataset=small_dataset(), job=job)
    assert not running.path(job, Kind.DATASET).exists(), "not a byte of the data has left, encrypted or not"
    return str(error.value)


def test_another_measurement_gets_no_data(running: Deployment) -> None:
    honest = running.home()
    home = replace(honest, reference=replace(honest.reference, measurement=Measurement("cd" * 32)))
    assert "runs other code than you expect" in refused(running, home)


def test_another_policy_gets_no_data(running: Deployment) -> None:
    honest = running.home()
    required = {**honest.reference.require, "policy": bytes(32)}
    home = replace(honest, reference=replace(honest.reference, require=required))
    assert "does not state the required 'policy'" in refused(running, home)


def test_a_worker_that_poses_as_the_lead_gets_no_data(running: Deployment) -> None:
    """The platform may tell any address: each enclave says itself which part it plays."""
    running.addresses[Role.LEAD] = running.addresses[Role.QUERY]
    assert "is not trusted" in refused(running, running.home())


def test_the_honest_lead_gets_them(running: Deployment) -> None:
    job = new_job_id()
    submit_dataset(running.platform(), running.home(), dataset=small_dataset(), job=job)
    assert running.path(job, Kind.DATASET).exists()
