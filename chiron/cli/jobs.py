"""`chiron jobs`: what is public of a platform's jobs; follows one with a progress bar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from chiron.cli.output import add_command
from chiron.cli.party import DEFAULT_PLATFORM
from chiron.parties.errors import PartyError
from chiron.parties.platform import Platform
from chiron.training.submission import parse_job_id

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output
    from chiron.training.submission import JobId

POLL_S = 0.2
GOOD, BAD = frozenset({"sealed"}), frozenset({"failed", "refused"})


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "jobs",
        help_text="list a platform's jobs, or follow one until it ends",
        example="chiron jobs JOB --wait",
    )
    parser.add_argument("--platform", default=DEFAULT_PLATFORM, metavar="URL", help="default: %(default)s")
    parser.add_argument("job", metavar="JOB", nargs="?", help="job id")
    parser.add_argument("--wait", action="store_true", help="wait until the job has ended")
    parser.add_argument(
        "--until", metavar="PHASE", help="wait until the job reaches a phase, such as Approve"
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Show one or all jobs."""
    job_id = None if chosen.job is None else parse_job_id(chosen.job)
    platform = Platform(chosen.platform)
    output.simulated = platform.describe()["simulated"]
    if job_id is None:
        for job in platform.jobs():
            output.result(job, _line(job))
        return
    if chosen.wait or chosen.until:
        follow(platform, job_id, output, until=chosen.until)
    job = platform.job(job_id)
    output.result(job, _line(job))
    if chosen.wait and job["state"] in BAD:
        raise PartyError(why_not(job))


def follow(platform: Platform, job_id: JobId, output: Output, *, until: str | None = None) -> dict[str, Any]:
    """Show a bar for each phase until the job ends or reaches a phase; return its public state.

    The bars follow the public schedule: they say how far the clock is, and nothing of the training.
    """
    with output.progress() as progress:
        bars: dict[str, Any] = {}
        while True:
            job = platform.job(job_id)
            phase, ended = job["phase"], job["state"] in GOOD | BAD
            if phase and phase not in bars:
                for bar in bars.values():
                    progress.update(bar, completed=1.0)
                bars[phase] = progress.add_task(phase, total=1.0)
            if phase:
                share = job["elapsed_ms"] / job["planned_ms"] if job["planned_ms"] else 1.0
                progress.update(bars[phase], completed=min(share, 0.99))
            if ended or (until is not None and phase == until):
                for bar in bars.values():
                    progress.update(bar, completed=1.0)
                return job
            time.sleep(POLL_S)


def why_not(job: dict[str, Any]) -> str:
    """Say in a sentence why a job gave no model."""
    return f"job {job['id']} {'failed' if job['state'] == 'failed' else 'was refused'}: {job['reason']}"


def _line(job: dict[str, Any]) -> str:
    reason = f"  {job['reason']}" if job["reason"] else ""
    return f"{job['id']}  {job['state']:<8} {job['phase']}{reason}"
