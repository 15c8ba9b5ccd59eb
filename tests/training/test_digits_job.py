"""The main job on the handwritten digits, with the real processes: its accuracy, and the same bits twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from engines import needs_ort_training
from realjob import CHECKOUT, expect_done, make_parties, platform, run_job

from chiron.parties.build import build
from chiron.policy.header import Header
from chiron.training.sealed import unseal_model
from enclave import Measurement, SimulatedAttester

if TYPE_CHECKING:
    from pathlib import Path

    from chiron.training.sealed import Model

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.alone]
DIGITS = CHECKOUT / "examples" / "data" / "digits.npz"


def trained(folder: Path, *, runs: int) -> list[tuple[Model, dict[str, Any]]]:
    """Run the job as often as is asked; return each run's model and metrics."""
    project, sdk = CHECKOUT / "examples" / "mlp-c", CHECKOUT / "spec" / "sdk" / "c"
    guest = build(project, output=folder / "guest.wasm", sdk=sdk)
    home = folder / "platform"
    results = []
    with platform(home) as running:
        parties = make_parties(folder, home, running.url)
        measured = json.loads((folder / "reference.json").read_bytes())["measurement"]
        attester = SimulatedAttester(home / "simulated-cpu", Measurement(measured))
        for _ in range(runs):
            job = run_job(parties, running, guest, DIGITS)
            metrics = expect_done(parties.run("operator", "metrics", job)).lines[-1]
            offer = running.wait_for(event="phase", job=job, phase="Approve")["offer"]
            blob = (home / "blobs" / f"{job}.model").read_bytes()
            key = attester.sealing_key(f"model {job}")
            results.append((unseal_model(blob, key=key, job=job, header=Header(**offer["header"])), metrics))
    return results


def test_two_runs_with_one_seed_reach_97_percent_and_give_the_same_bits(tmp_path: Path) -> None:
    (one, first), (other, second) = trained(tmp_path, runs=2)
    assert first["accuracy"] >= 0.97
    assert first == second
    assert one.graph == other.graph
    assert one.parameters.tobytes() == other.parameters.tobytes()


@needs_ort_training
def test_the_second_engine_reaches_97_percent_too(tmp_path: Path) -> None:
    ((_, metrics),) = trained(tmp_path, runs=1)
    assert metrics["accuracy"] >= 0.97
