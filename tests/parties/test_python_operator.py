"""The way of an operator who writes Python, with real commands and processes: `new` to a sealed model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployments import WITH_COMPONENTS_BYTES
from realjob import CHECKOUT, chiron, expect_done, make_parties, platform, run_job

if TYPE_CHECKING:
    from pathlib import Path

DIGITS = CHECKOUT / "examples" / "data" / "digits.npz"
pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.alone]  # slots of 20 ms


def test_a_python_guest_goes_from_a_template_to_a_sealed_model(tmp_path: Path) -> None:
    policy, project = tmp_path / "policy.toml", tmp_path / "mine"
    policy.write_bytes(WITH_COMPONENTS_BYTES)
    expect_done(chiron("new", str(project), "--language", "python"))
    built = expect_done(chiron("build", str(project), "--policy", str(policy))).lines[-1]
    assert built["runs_under_policy"] is True
    guest = project / "build" / "guest.wasm"
    data = ("--data", str(DIGITS), "--policy", str(policy))
    tried = expect_done(chiron("dry-run", str(guest), *data, "--steps", "20")).lines[-1]
    assert tried["losses"][-1] < tried["losses"][0]
    home = tmp_path / "platform"
    with platform(home, policy=policy) as running:
        parties = make_parties(tmp_path, home, running.url, policy=policy)
        job = run_job(parties, running, guest, DIGITS)
        metrics = expect_done(parties.run("operator", "metrics", job)).lines[-1]
    assert metrics["accuracy"] >= 0.9


def test_under_the_installed_policy_the_same_guest_is_refused_before_it_leaves(tmp_path: Path) -> None:
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(b"\0asm\x0d\0\x01\0")
    done = chiron("dry-run", str(guest), "--data", str(DIGITS))
    assert done.code == 1
    assert "agree on a policy that switches components on" in done.error
