"""A platform that kills processes: a clear message, nothing half-written, and `chiron up` again goes on."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
from graphs import linear
from guests import guest
from realjob import Parties, Running, chiron, make_parties, platform, run_job

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
VALUES, CLASSES = 8, 3
SUFFIXES = {"guest", "dataset", "ledger", "model", "record", "receipt", "budget"}


def inputs(folder: Path) -> tuple[Path, Path]:
    """Write a guest and a data set; the guest's training lasts some seconds."""
    (folder / "guest.wasm").write_bytes(guest(graph=linear(VALUES, CLASSES)))
    random = np.random.default_rng(2)
    targets = np.arange(90) % CLASSES
    rows = random.normal(size=(90, VALUES)).astype(np.float32)
    np.savez(folder / "rows.npz", rows=rows, targets=targets)
    return folder / "guest.wasm", folder / "rows.npz"


def train(parties: Parties, running: Running, guest_path: Path, data: Path) -> str:
    """Bring a job into its training phase."""
    job = parties.submit(guest_path, data)
    running.wait_for(event="phase", job=job, phase="Approve")
    parties.approve(job)
    running.wait_for(event="phase", job=job, phase="Train")
    return job


def assert_nothing_half_written(home: Path, job: str) -> None:
    files = {path.name if path.stem == job else path.suffix for path in (home / "blobs").iterdir()}
    assert files == {f"{job}.guest", f"{job}.dataset", ".ledger"}  # the charge stays


@pytest.mark.parametrize("victim", ["worker-0", "lead"])
def test_a_killed_enclave_ends_the_platform_with_a_message_and_a_new_start_refuses_the_job_and_runs_another(
    victim: str, tmp_path: Path
) -> None:
    home, files = tmp_path / "platform", inputs(tmp_path)
    with platform(home, workers=1) as running:
        parties = make_parties(tmp_path, home, running.url)
        job = train(parties, running, *files)
        running.kill(victim)
        assert running.process.wait(timeout=30) == 1
        error = json.loads(running.process.stderr.read().splitlines()[-1])["error"]  # type: ignore[union-attr]
    assert f"{victim} ended (killed by signal {signal.SIGKILL.value})" in error
    assert "run `chiron up` again" in error
    assert_nothing_half_written(home, job)
    with platform(home, workers=1) as again:
        there = Parties(tmp_path, again.url)
        refused = chiron("jobs", job, "--wait", "--platform", again.url)
        assert (refused.code, "submit it again" in refused.error) == (1, True)
        assert run_job(there, again, *files) != job


def test_a_sealed_model_answers_again_after_a_restart_and_is_refused_once_its_record_is_tampered_with(
    tmp_path: Path,
) -> None:
    home, files = tmp_path / "platform", inputs(tmp_path)
    np.save(tmp_path / "q.npy", np.load(files[1])["rows"][:5])
    with platform(home, workers=1) as running:
        parties = make_parties(tmp_path, home, running.url)
        job = run_job(parties, running, *files)
        first = parties.run("user", "query", job, "--input", str(tmp_path / "q.npy"))
        receipt = parties.run("user", "receipt", job)
    budget = (home / "blobs" / f"{job}.budget").read_bytes()
    with platform(home, workers=1) as again:
        again.wait_for(event="resumed", job=job)
        there = Parties(tmp_path, again.url)
        second = there.run("user", "query", job, "--input", str(tmp_path / "q.npy"))
        assert second.lines == first.lines
        assert there.run("operator", "receipt", job).lines == receipt.lines
    assert (home / "blobs" / f"{job}.budget").read_bytes() != budget
    assert {path.suffix[1:] for path in (home / "blobs").iterdir()} == SUFFIXES
    flip_last_bit(home / "blobs" / f"{job}.record")
    with platform(home, workers=1) as third:
        third.wait_for(event="unresumable", job=job)
        refused = chiron("jobs", job, "--wait", "--platform", third.url)
    assert (refused.code, "lost or changed" in refused.error) == (1, True)


def test_a_folder_in_use_is_refused_to_a_second_platform(tmp_path: Path) -> None:
    with platform(tmp_path / "platform", workers=1):
        second = chiron("up", "--home", str(tmp_path / "platform"), "--port", "0")
    assert (second.code, "in use by another" in second.error) == (1, True)


def test_no_process_outlives_a_platform_that_is_killed(tmp_path: Path) -> None:
    with platform(tmp_path / "platform", workers=1) as running:
        pids = list(running.pids.values())
        running.process.kill()
        running.process.wait(timeout=10)
        deadline = 200
        while deadline and any(alive(pid) for pid in pids):
            deadline -= 1
            signal.sigtimedwait([], 0.05)
        assert not any(alive(pid) for pid in pids)


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as status:  # noqa: PTH123  procfs
            return status.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
