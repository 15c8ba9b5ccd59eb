"""What commands show: text and progress for people, one JSON value a line for programs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chiron.installation import EngineName

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  argparse names no other

SIMULATED = "SIMULATED enclaves: no hardware protects this run. For trying out and testing only."


@dataclass(slots=True)
class Output:
    """Where a command's results go. Once `simulated` is set, every result says so."""

    as_json: bool
    simulated: bool = False
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def result(self, value: dict[str, Any], text: str) -> None:
        """Show one result: the JSON value, or the text."""
        if self.as_json:
            print(json.dumps(value | {"simulated": True} if self.simulated else value), flush=True)
        else:
            self.console.print(f"[yellow](simulated)[/] {text}" if self.simulated else text)

    def say(self, text: str) -> None:
        """Tell a person something that is no result."""
        if not self.as_json:
            self.console.print(text)

    def warn_simulated(self) -> None:
        """Say that nothing here is protected by hardware, now and with every result."""
        self.simulated = True
        if self.as_json:
            print(json.dumps({"warning": SIMULATED}), file=sys.stderr)
        else:
            self.console.print(f"[bold yellow]{SIMULATED}[/]")

    def progress(self) -> Progress:
        """Return a progress display; silent for programs."""
        return Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.as_json,
        )


def add_command(commands: Commands, name: str, *, help_text: str, example: str) -> argparse.ArgumentParser:
    """Add a command with --json and an example in its help."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON value a line instead of text")
    return parser


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add --policy: another policy than the one that is installed."""
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="a policy.toml (default: the one of this Chiron)"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --engine: which engine this installation is expected to train with."""
    parser.add_argument(
        "--engine",
        type=EngineName,
        choices=list(EngineName),
        default=EngineName.STOCK,
        metavar="{" + ",".join(EngineName) + "}",
        help="what workers train with; the environment must have it (default: %(default)s)",
    )


def add_group(commands: Commands, name: str, *, help_text: str) -> Commands:
    """Add a command that only holds others."""
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    return parser.add_subparsers(metavar="COMMAND", required=True)
