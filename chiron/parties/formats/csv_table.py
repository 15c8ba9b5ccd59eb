"""CSV: a head that names the columns, one of them `target`; the others are a row's values."""

from __future__ import annotations

import csv
from itertools import islice
from typing import IO, TYPE_CHECKING

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.parties.formats.blocks import (
    Block,
    Parts,
    rows_a_block,
    split_columns,
    table_block,
    whole_targets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE = 1 << 25  # characters: 32 for each of the most values that a row may have
FIELD_BYTES = 64  # about what Python needs for one field of a block


def read_csv(train: Path, held_out: Path | None) -> Parts:
    """Return the parts of one or two CSV files."""
    return Parts(_part(train), None if held_out is None else _part(held_out))


def _part(path: Path) -> Iterator[Block]:
    with path.open(encoding="utf-8-sig", newline="") as source:
        lines = csv.reader(_lines(source, path.name), strict=True)
        try:
            names = next(lines, [])
            target, columns = split_columns(names, file=path.name)
            while block := list(islice(lines, rows_a_block(FIELD_BYTES * len(names)))):
                yield _block(block, target, columns, name=path.name)
        except csv.Error as error:
            raise DatasetError(
                f"{path.name}: a field is over {csv.field_size_limit()} characters or badly quoted: mend it"
            ) from error


def _block(lines: list[list[str]], target: int, columns: int, *, name: str) -> Block:
    if any(len(line) != columns + 1 for line in lines):
        raise DatasetError(f"{name}: a line has not the head's {columns + 1} columns: write it again")
    values = table_block(columns + 1, lambda: np.array(lines, dtype=np.float64), name=name)
    targets = whole_targets(values[:, target], name=name)
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is refused later
        return Block(np.delete(values, target, axis=1).astype(np.float32), targets)


def _lines(source: IO[str], name: str) -> Iterator[str]:
    """Yield lines; one without an end is refused before it fills the memory."""
    while line := source.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise DatasetError(f"{name}: a line is over {MAX_LINE} characters: make rows smaller")
        yield line
