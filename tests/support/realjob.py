"""Drives the real command line and processes: a platform, an operator and a user in three folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.installation import installed_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0
ENDED = {"sealed", "failed", "refused"}


@dataclass(frozen=True, slots=True)
class Done:
    """One finished command."""

    code: int
    lines: list[dict[str, Any]]
    error: str


def chiron(*arguments: str, tree: Path = CHECKOUT, as_json: bool = True, measured: bool = True) -> Done:
    """Run one `chiron` command of a source tree to its end."""
    full = [sys.executable, "-m", "chiron", *arguments, *(["--json"] if as_json else [])]
    done = subprocess.run(
        full,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=environment(tree, measured=measured),
        cwd="/",
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()] if as_json else [{"text": done.stdout}]
    return Done(done.returncode, lines, done.stderr)


def environment(tree: Path, *, measured: bool) -> dict[str, str]:
    """Return an environment in which Python imports this tree; `measured`: for coverage."""
    own = {name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")}
    return {**own, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(slots=True)
class Running:
    """A running `chiron up`."""

    process: subprocess.Popen[str]
    url: str
    pids: dict[str, int]
    events: list[dict[str, Any]] = field(default_factory=list)

    def kill(self, name: str) -> None:
        """Kill one enclave process, as a platform may."""
        os.kill(self.pids[name], signal.SIGKILL)

    def wait_for(self, **wanted: object) -> dict[str, Any]:
        """Return the first event that has these values, once it has come."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for event in list(self.events):
                if all(event.get(key) == value for key, value in wanted.items()):
                    return event
            time.sleep(0.02)
        raise TimeoutError(f"no event {wanted}; seen: {self.events}")

    def ended(self, job: str) -> dict[str, Any]:
        """Return the event that ended a job."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for event in list(self.events):
                if event.get("job") == job and event["event"] in {"ended", "stopped"}:
                    return event
            time.sleep(0.02)
        raise TimeoutError(f"job {job} did not end: {self.events}")


@contextmanager
def platform(
    home: Path,
    *,
    tree: Path = CHECKOUT,
    workers: int = 2,
    measured: bool = False,
    policy: Path | None = None,
) -> Iterator[Running]:
    """Run `chiron up` and end it, by its id."""
    arguments = ["up", "--home", str(home), "--port", "0", "--workers", str(workers), "--json"]
    arguments += ["--engine", installed_engine().value]
    arguments += named(policy)
    process = subprocess.Popen(
        [sys.executable, "-m", "chiron", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tree, measured=measured),
        cwd="/",
    )
    running = Running(process, "", {})
    reader = threading.Thread(target=_read, args=(running,), daemon=True)
    reader.start()
    try:
        ready = running.wait_for(event="ready")
        running.url, running.pids = ready["url"], ready["processes"]
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)
        reader.join(timeout=10)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def named(policy: Path | None) -> list[str]:
    """Return the option that names a policy, or nothing."""
    return [] if policy is None else ["--policy", str(policy)]


def _read(running: Running) -> None:
    if running.process.stdout is not None:
        for line in running.process.stdout:
            running.events.append(json.loads(line))


@dataclass(frozen=True, slots=True)
class Parties:
    """Operator and user with their key directories, and the commands they run."""

    folder: Path
    url: str
    tree: Path = CHECKOUT
    measured: bool = False  # their coverage, which makes each command take half as long again

    def run(self, who: str, command: str, *arguments: str) -> Done:
        """Run one of a party's commands on the platform."""
        common = ("--home", str(self.folder / who), "--platform", self.url)
        return chiron(who, command, *common, *arguments, tree=self.tree, measured=self.measured)

    def submit(self, guest: Path, data: Path, *, seed: int = 7) -> str:
        """Submit both halves of a job; return its id."""
        submitted = expect_done(self.run("operator", "submit", str(guest), "--seed", str(seed)))
        job = str(submitted.lines[-1]["job"])
        expect_done(self.run("user", "submit", job, "--data", str(data)))
        return job

    def approve(self, job: str) -> None:
        """Approve on both sides."""
        for who in ("operator", "user"):
            expect_done(self.run(who, "approve", job, "--yes"))


def expect_done(done: Done) -> Done:
    """Return a command that succeeded."""
    if done.code != 0:
        raise AssertionError(f"exit code {done.code}: {done.error}")
    return done


def make_parties(
    folder: Path,
    home: Path,
    url: str,
    *,
    tree: Path = CHECKOUT,
    measured: bool = False,
    policy: Path | None = None,
) -> Parties:
    """Write reference values for this tree's code and make both key directories."""
    reference = folder / "reference.json"
    root = home / "simulated-cpu" / "root.pub"
    arguments = ("--insecure-simulated-root", str(root), "--output", str(reference))
    expect_done(chiron("reference", *arguments, *named(policy), tree=tree, measured=measured))
    for who in ("operator", "user"):
        init = (who, "init", "--home", str(folder / who), "--reference", str(reference), *named(policy))
        expect_done(chiron(*init, tree=tree, measured=measured))
    return Parties(folder, url, tree, measured)


def run_job(parties: Parties, running: Running, guest: Path, data: Path) -> str:
    """Run a whole job; return its id once the model is sealed."""
    job = parties.submit(guest, data)
    running.wait_for(event="phase", job=job, phase="Approve")
    parties.approve(job)
    event = running.ended(job)
    if event.get("outcome") != "sealed":
        told = parties.run("operator", "metrics", job)
        raise AssertionError(f"job ended with {event}; the operator is told {told}; events: {running.events}")
    return job
