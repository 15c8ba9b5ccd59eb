"""`chiron leaktest`: two runs with other secrets; can an observer tell them apart?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from chiron.cli.output import add_command, add_policy
from chiron.leaktest.check import subject_of
from chiron.leaktest.deployment import REPEATS, compare_deployment
from chiron.leaktest.report import describe, junit
from chiron.leaktest.search import EXAMPLES, as_dict, search
from chiron.leaktest.secrets import SMALL
from chiron.parties.data import schema_of
from chiron.parties.errors import PartyError
from chiron.parties.home import open_reference
from chiron.policy.loader import load_policy
from enclave import EvidenceFormat, write_atomically

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output
    from chiron.leaktest.search import Report

FOUND, INCONCLUSIVE = 1, 2


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "leaktest",
        help_text="run a guest twice with other secrets and look for a difference",
        example="chiron leaktest examples/mlp-c/build/guest.wasm --data examples/data/digits.npz",
    )
    parser.add_argument("guest", type=Path, metavar="GUEST", help="WebAssembly from `chiron build`")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, metavar="N", help="pairs of runs (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pairs (default: %(default)s)")
    parser.add_argument(
        "--observer", choices=("operator", "user", "platform"), default="operator",
        help="who looks; the secrets are those of the others (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE", help="take the schema of this data set")
    parser.add_argument(
        "--deployment", metavar="URL",
        help="run jobs on this platform, which is yours, and compare what crosses the network",
    )  # fmt: skip
    parser.add_argument(
        "--reference", type=Path, metavar="FILE", help="from `chiron reference`: what the platform must show"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the result for a CI system")
    add_policy(parser)
    parser.set_defaults(run=run, failed=INCONCLUSIVE)


def run(chosen: argparse.Namespace, output: Output) -> int:
    """Compare pairs of runs; 0: no difference found, 1: a leak, 2: inconclusive."""
    if chosen.deployment is not None:
        return run_deployment(chosen, output)
    where = {"observer": chosen.observer, "data": chosen.data, "policy": chosen.policy}
    with output.progress() as progress:
        task = progress.add_task("comparing two runs", total=chosen.examples)
        with subject_of(chosen.guest, **where) as subject:
            report = search(
                subject, examples=chosen.examples, seed_=chosen.seed, progress=lambda: progress.advance(task)
            )
    if chosen.junit is not None:
        write_atomically(chosen.junit, junit(report, chosen.guest.name))
    output.result(as_dict(report), escape(describe(report)))
    return exit_code(report)


def run_deployment(chosen: argparse.Namespace, output: Output) -> int:
    """Compare jobs on a running platform; 0: no difference found, 1: a leak."""
    if chosen.reference is None:
        raise PartyError("--deployment needs --reference FILE: write it with `chiron reference`")
    reference = open_reference(chosen.reference)
    output.simulated = reference.format is EvidenceFormat.SIMULATED
    schema = SMALL if chosen.data is None else schema_of(chosen.data)
    with output.progress() as progress:
        task = progress.add_task("running jobs", total=2 * REPEATS)
        found = compare_deployment(
            chosen.deployment,
            guest=chosen.guest.read_bytes(),
            schema=schema,
            reference=reference,
            policy=load_policy(chosen.policy),
            progress=lambda: progress.advance(task),
        )
    output.result(found.as_dict(), escape(found.describe()))
    return FOUND if found.differences else 0


def exit_code(report: Report) -> int:
    """Return what a CI system goes by."""
    if report.leak is not None:
        return FOUND
    return INCONCLUSIVE if report.inconclusive else 0
