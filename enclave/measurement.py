"""Measures code: one digest over the names and contents of everything that runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from enclave.errors import EnclaveError
from enclave.evidence import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SKIPPED_FOLDERS = frozenset({"__pycache__"})


def measure(roots: Sequence[Path], *, extra: Mapping[str, str]) -> Measurement:
    """Return SHA-256 over sorted relative names and contents of all files below `roots`, and `extra`.

    Time stamps, owners and the place of the roots do not count; compiled Python does not either.

    Raises:
        EnclaveError: a root is no folder, or a folder below it is a link: Python would import what lies
            behind it, and nobody would have measured that.
    """
    total = hashlib.sha256()
    for root in roots:
        if not root.is_dir():
            raise EnclaveError(f"{root} cannot be measured: it is no folder")
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                _refuse_link(path)
                continue
            relative = path.relative_to(root.parent)
            if path.is_file() and not SKIPPED_FOLDERS.intersection(relative.parts):
                _add(total, relative.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
    for name, value in sorted(extra.items()):
        _add(total, name, value)
    return Measurement(total.hexdigest())


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise EnclaveError(f"{folder} is a link and cannot be measured: put the folder itself there")


def _add(total: hashlib._Hash, name: str, value: str) -> None:
    for part in (name.encode(), value.encode()):
        total.update(len(part).to_bytes(8, "little") + part)
