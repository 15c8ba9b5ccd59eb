"""`chiron operator`: what the owner of model-creation code runs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from chiron.cli import party
from chiron.cli.output import add_command, add_group
from chiron.parties.platform import ask_lead
from chiron.parties.submit import new_job_id, submit_guest

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output

WHO = "operator"


def register(commands: Commands) -> None:
    """Add the command and its parts."""
    group = add_group(commands, WHO, help_text="submit secret model-creation code, approve, read metrics")
    party.register_shared(group, WHO)
    submit = add_command(
        group,
        "submit",
        help_text="encrypt a guest to the appraised lead and start a job with it",
        example="chiron operator submit build/guest.wasm --seed 7",
    )
    party.add_platform(submit, WHO)
    submit.add_argument(
        "guest", metavar="GUEST", type=Path, help="core WebAssembly module from `chiron build`"
    )
    submit.add_argument("--seed", type=int, help="public seed of weights and batches (default: random)")
    submit.set_defaults(run=run_submit)
    metrics = add_command(
        group,
        "metrics",
        help_text="read a finished job's released metrics",
        example="chiron operator metrics JOB",
    )
    party.add_job(metrics, WHO)
    metrics.set_defaults(run=run_metrics)
    log = add_command(
        group,
        "log",
        help_text="read what the guest logged before it saw data",
        example="chiron operator log JOB",
    )
    party.add_job(log, WHO)
    log.set_defaults(run=run_log)


def run_submit(chosen: argparse.Namespace, output: Output) -> None:
    """Submit a guest under a new job id."""
    platform, home = party.connection(chosen, output)
    job = new_job_id()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    guest = chosen.guest.read_bytes()
    manifest = submit_guest(platform, home, policy=home.policy, guest=guest, job=job, seed=seed)
    value = {"job": job, "guest": manifest.envelope, "seed": seed}
    output.result(value, f"job {job}\nnow the user runs: chiron user submit {job} --data FILE")


def run_metrics(chosen: argparse.Namespace, output: Output) -> None:
    """Show loss per epoch and accuracy as far as the policy releases them."""
    platform, home = party.connection(chosen, output)
    metrics = ask_lead(platform, home, {"ask": "metrics", "job": party.job_of(chosen)})
    losses = "  ".join(f"{loss:.2f}" for loss in metrics["losses"])
    text = f"held-out accuracy {metrics['accuracy']:.1%}\nloss per epoch    {losses}"
    output.result(metrics, text if metrics["succeeded"] else "training was not finished")


def run_log(chosen: argparse.Namespace, output: Output) -> None:
    """Show the guest's log, and why it was refused if it was."""
    platform, home = party.connection(chosen, output)
    text = ask_lead(platform, home, {"ask": "log", "job": party.job_of(chosen)})
    output.result({"log": text}, escape(text) or "(empty)")
