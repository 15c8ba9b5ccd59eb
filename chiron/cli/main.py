"""Parses the command line and turns every expected error into one sentence and exit code 1."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import TYPE_CHECKING

from chiron import __version__
from chiron.cli.output import Output
from chiron.guest_api.errors import GuestApiError
from chiron.installation import InstallationError
from chiron.launch.errors import LaunchError
from chiron.parties.errors import PartyError
from chiron.policy.types import PolicyError
from chiron.serving.errors import ServingError
from chiron.training.errors import TrainingError
from enclave import EnclaveError
from wasm_sandbox import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "demo",
    "up",
    "operator",
    "user",
    "jobs",
    "new",
    "build",
    "dry-run",
    "leaktest",
    "explain",
    "reference",
)
EXPECTED = (
    PartyError,
    LaunchError,
    TrainingError,
    InstallationError,
    GuestApiError,
    PolicyError,
    ServingError,
    EnclaveError,
    SandboxError,
)
DONE, FAILED = 0, 1
EXAMPLE = "example:\n  chiron demo            the whole job on real data, on this machine, in a minute"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="chiron",
        description="Secret training code meets secret data; neither owner sees the other's.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chiron {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in [given[0]] if given and given[0] in COMMANDS else COMMANDS:  # the others need not be loaded
        importlib.import_module(f"chiron.cli.{name.replace('-', '_')}").register(commands)
    chosen = parser.parse_args(given)
    output = Output(as_json=chosen.json)
    try:
        code: int | None = chosen.run(chosen, output)
    except EXPECTED as error:
        text = str(error)
    except OSError as error:
        text = f"{error.filename or 'the system'}: {error.strerror}"
    except KeyboardInterrupt:
        text = "interrupted; nothing is half-written"
    else:
        return code or DONE
    print(json.dumps({"error": text}) if chosen.json else f"chiron: {text}", file=sys.stderr)
    return int(getattr(chosen, "failed", FAILED))
