"""The main job on the handwritten digits, with the real processes: its accuracy, and the same bits twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from realjob import CHECKOUT, expect_done, make_parties, platform, run_job

from chiron.parties.build import build
from chiron.policy.header import Header
from chiron.training.sealed import unseal_model
from enclave import Measurement, SimulatedAttester

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
DIGITS = CHECKOUT / "examples" / "data" / "digits.npz"


def test_two_runs_with_one_seed_reach_97_percent_and_give_the_same_bits(tmp_path: Path) -> None:
    project, sdk = CHECKOUT / "examples" / "mlp-c", CHECKOUT / "spec" / "sdk" / "c"
    guest = build(project, output=tmp_path / "guest.wasm", sdk=sdk)
    home = tmp_path / "platform"
    models, metrics = [], []
    with platform(home) as running:
        parties = make_parties(tmp_path, home, running.url)
        measured = json.loads((tmp_path / "reference.json").read_bytes())["measurement"]
        attester = SimulatedAttester(home / "simulated-cpu", Measurement(measured))
        for _ in range(2):
            job = run_job(parties, running, guest, DIGITS)
            metrics.append(expect_done(parties.run("operator", "metrics", job)).lines[-1])
            offer = running.wait_for(event="phase", job=job, phase="Approve")["offer"]
            blob = (home / "blobs" / f"{job}.model").read_bytes()
            key = attester.sealing_key(f"model {job}")
            models.append(unseal_model(blob, key=key, job=job, header=Header(**offer["header"])))
    assert metrics[0]["accuracy"] >= 0.97
    assert metrics[0] == metrics[1]
    assert models[0].graph == models[1].graph
    assert models[0].parameters.tobytes() == models[1].parameters.tobytes()
