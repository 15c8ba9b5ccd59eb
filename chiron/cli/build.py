"""`chiron build`: compiles an operator's project to a guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chiron.cli.output import add_command, add_policy
from chiron.guest_api.limits import compile_guest
from chiron.parties.build import build
from chiron.policy.loader import load_policy, spec_folder
from wasm_sandbox import is_component

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output

NEEDS_SWITCH = (
    "\nit is a component, which this policy refuses: agree on one with component_bytes above 0 in [limits],"
    "\nand name it with --policy FILE here, to up, reference, init and dry-run"
)


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
    add_policy(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Compile, and check the result as the lead will."""
    policy = load_policy(chosen.policy)
    with output.progress() as progress:
        progress.add_task("compiling the guest", total=None)
        path = build(chosen.project, output=chosen.output, sdk=spec_folder() / "sdk" / "c")
        guest = path.read_bytes()
        switched_off = is_component(guest) and not policy.limits.component_bytes
        if not switched_off:
            compile_guest(policy, guest)
    value = {"guest": str(path), "bytes": len(guest), "runs_under_policy": not switched_off}
    output.result(value, f"{path}  {len(guest)} bytes" + (NEEDS_SWITCH if switched_off else ""))
