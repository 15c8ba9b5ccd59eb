"""`chiron new`: writes a new operator project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from chiron.cli.output import add_command
from chiron.parties.new import new
from chiron.parties.toolchains import SUFFIXES
from chiron.policy.loader import spec_folder

if TYPE_CHECKING:
    import argparse

    from chiron.cli.output import Commands, Output


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "new",
        help_text="write a new guest project that works",
        example="chiron new my-model --language rust",
    )
    parser.add_argument("project", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--language", required=True, choices=tuple(SUFFIXES))
    parser.set_defaults(run=run)


def templates() -> dict[str, Path]:
    """Return the folder of each language's example: inside an installed package, or in the checkout."""
    installed = spec_folder() / "templates"
    folder = installed if installed.is_dir() else spec_folder().parent / "examples"
    return {language: folder / f"mlp-{language}" for language in SUFFIXES}


def run(chosen: argparse.Namespace, output: Output) -> None:
    """Write the project and say what to do next."""
    files = new(chosen.project, language=chosen.language, templates=templates())
    steps = f"{chosen.project}  {'  '.join(files)}\nnext: chiron build {chosen.project}"
    output.result({"project": str(chosen.project), "files": files}, escape(steps))
