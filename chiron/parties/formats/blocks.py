"""What every reader gives: the parts of a data set as blocks of rows, read when they are asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.dataset import MAX_ROW_VALUES
from chiron.guest_api.errors import DatasetError
from chiron.parties.errors import PartyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

BLOCK_BYTES = 4 << 20
EXTRA = "data"
TARGET = "target"  # the column of a table that holds the targets


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows, (n, *shape), of numbers, and their targets, (n,), whole numbers. Secret."""

    rows: NDArray[Any]
    targets: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """A data set as its files have it: each part can be read once, block by block.

    `held_out` is None where the files hold nothing out, `classes` where they do not say how many targets
    there are.
    """

    train: Iterator[Block]
    held_out: Iterator[Block] | None = None
    classes: int | None = None


def rows_a_block(row_bytes: int) -> int:
    """Return how many rows of this size a block has: BLOCK_BYTES of them, at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def check_row_values(count: int, *, name: str) -> None:
    """Refuse rows that no schema holds before one is read.

    Raises:
        DatasetError: names the file and the limit.
    """
    if not 1 <= count <= MAX_ROW_VALUES:
        raise DatasetError(
            f"{name}: a row has {count} values, the limit is 1 to {MAX_ROW_VALUES}: make rows smaller"
        )


def table_block(columns: int, values: Callable[[], NDArray[Any]], *, name: str) -> NDArray[Any]:
    """Return what `values` gives for a block of a table, as float32 (n, columns).

    Raises:
        DatasetError: a field is no number; names the file, never the field.
    """
    try:
        with np.errstate(over="ignore"):
            found = values()
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name}: a field is no number: give numbers alone") from error
    if found.ndim != 2 or found.shape[1] != columns:  # noqa: PLR2004  rows and columns
        raise DatasetError(f"{name}: a line has not the head's {columns} columns: write it again")
    return found


def whole_targets(values: NDArray[Any], *, name: str) -> NDArray[np.int64]:
    """Return targets as int64.

    Raises:
        DatasetError: one is no whole number; names the file.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise DatasetError(f"{name}: the column {TARGET!r} holds no whole numbers: number them from 0")
    return whole


def split_columns(names: list[str], *, file: str) -> tuple[int, int]:
    """Return the place of the targets' column and how many others there are.

    Raises:
        DatasetError: there is no such column, or another one twice.
    """
    if names.count(TARGET) != 1:
        raise DatasetError(f"{file}: one column is named {TARGET!r}, the others are a row's values")
    check_row_values(len(names) - 1, name=file)
    return names.index(TARGET), len(names) - 1


def needs(module: str, *, form: str) -> Any:  # noqa: ANN401  a module without types
    """Import a module of the optional extra.

    Raises:
        PartyError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PartyError(
            f"{form} needs the optional extra {EXTRA!r}: pip install 'chiron-mlaas[{EXTRA}]'"
        ) from error
