"""`chiron build`: compiles an operator's project to a guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chiron.cli.output import add_command
from chiron.guest_api.limits import inspect_guest
from chiron.parties.build import build
from chiron.policy.loader import load_policy, spec_folder

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "build",
        help_text="compile a guest project to WebAssembly",
        example="chiron build examples/mlp-c",
    )
    parser.add_argument("project", type=Path, metavar="DIR", help="folder with guest.toml")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: DIR/build/guest.wasm")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Compile, and check the result as the lead will."""
    path = build(chosen.project, output=chosen.output, sdk=spec_folder() / "sdk" / "c")
    guest = path.read_bytes()
    inspect_guest(load_policy(), guest)
    output.result({"guest": str(path), "bytes": len(guest)}, f"{path}  {len(guest)} bytes")
