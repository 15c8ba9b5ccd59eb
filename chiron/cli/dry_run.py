"""`chiron dry-run`: runs a guest on the operator's own data with everything visible."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from chiron.cli.output import add_command, add_policy
from chiron.cli.reading import add_data, opened_data
from chiron.parties.dry_run import dry_run
from chiron.parties.errors import PartyError
from chiron.parties.lines import for_dry_run, with_lines
from chiron.policy.loader import parse_policy, policy_bytes

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output
    from chiron.parties.dry_run import DryRun

STEPS = 50


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "dry-run",
        help_text="run a guest on your own data, with everything visible and nothing secret",
        example="chiron dry-run examples/mlp-c/build/guest.wasm --data examples/data/digits.npz",
    )
    parser.add_argument("guest", type=Path, metavar="GUEST", help="WebAssembly from `chiron build`")
    add_data(parser)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps to try (default: %(default)s)"
    )
    add_policy(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Run configure, create and some steps."""
    policy = policy_bytes(chosen.policy)
    guest = for_dry_run(chosen.guest, most_bytes=parse_policy(policy).limits.module_bytes)
    with output.progress() as progress:
        progress.add_task("running the guest", total=None)
        with opened_data(chosen) as opened:
            data = opened.load()
        try:
            outcome = dry_run(guest, data, policy_bytes=policy, seed=chosen.seed, steps=chosen.steps)
        except PartyError as error:
            raise PartyError(with_lines(str(error), chosen.guest)) from error
    output.result(asdict(outcome), describe(outcome))


def describe(outcome: DryRun) -> str:
    """Return a dry run in words."""
    header, plan = (asdict(part) for part in (outcome.header, outcome.plan))
    losses = outcome.losses or (float("nan"),)
    rows = [
        "configure  " + "  ".join(f"{name} {value}" for name, value in header.items()),
        f"           fuel {outcome.configure_fuel}  log: {outcome.log.strip() or '(none)'}",
        "create     " + "  ".join(f"{name} {value}" for name, value in plan.items()),
        f"           fuel {outcome.create_fuel}  {outcome.create_ms:.0f} of {header['create_ms'] // 2} ms",
        f"network    {outcome.parameters} parameters of a size class of {header['parameters']}",
        f"steps      {len(outcome.losses)} tried, {outcome.step_ms:.1f} ms each",
        f"           loss {losses[0]:.3f} to {losses[-1]:.3f}",
    ]
    if outcome.step_ms > header["slot_ms"] / 2:
        rows.append(
            "warning    a step takes over half of slot_ms: declare longer slots, or training may not finish"
        )
    return escape("\n".join(rows))
