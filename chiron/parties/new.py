"""Writes a new operator project: a small perceptron guest that works, in the language chosen."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.parties.errors import PartyError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MADE = ("build", "node_modules", "target", "*.wasm")  # by tools, not part of a project
_NAME_LINE = re.compile(r'^name = ".*"$', re.MULTILINE)


def project_name(folder: Path) -> str:
    """Return the name that `guest.toml` gives a project in this folder."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name[:64].rstrip("-") or "guest"


def new(folder: Path, *, language: str, templates: Mapping[str, Path]) -> list[str]:
    """Write a project; the folder appears whole or not at all.

    Args:
        folder: to be made; an empty one is replaced.
        language: a key of `templates`.
        templates: for each language the folder of an example project.

    Returns:
        The names of its files, sorted.

    Raises:
        PartyError: there is no such template, or the folder is not empty.
    """
    template = templates.get(language)
    if template is None or not (template / "guest.toml").is_file():
        raise PartyError(f"this Chiron has no {language} project: choose another or install it again")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PartyError(f"{folder} exists and is not an empty folder: name a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as place:
        made = Path(place) / "project"
        shutil.copytree(template, made, ignore=shutil.ignore_patterns(*_MADE))
        settings = made / "guest.toml"
        text = settings.read_text(encoding="utf-8")
        settings.write_text(_NAME_LINE.sub(f'name = "{project_name(folder)}"', text), encoding="utf-8")
        made.replace(folder)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
