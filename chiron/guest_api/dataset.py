"""The data set: its public schema, its arrays, and what they may hold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.errors import DatasetError
from chiron.policy.header import size_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Float32Array = np.ndarray[Any, np.dtype[np.float32]]
MAX_RANK = 3
MIN_CLASSES, MAX_CLASSES = 2, 256  # an answer's class fits one byte
MAX_ROW_VALUES = 1 << 20
MAX_ROWS = 1 << 32
DTYPES: Mapping[str, np.dtype[Any]] = {"uint8": np.dtype("uint8"), "float32": np.dtype("<f4")}


@dataclass(frozen=True, slots=True)
class Schema:
    """What is public of a data set, by its owner's choice.

    `shape` is one row's shape (rank 1 to 3), `classes` the number of targets, `dtype` how values are stored
    (uint8 values count as value / 255), `rows_class` and `held_out_class` the row counts rounded up.
    """

    shape: tuple[int, ...]
    classes: int
    dtype: str
    rows_class: int
    held_out_class: int

    def __post_init__(self) -> None:
        """Check the ranges (DatasetError names the rule)."""
        if not 1 <= len(self.shape) <= MAX_RANK or min(self.shape) < 1 or self.row_values > MAX_ROW_VALUES:
            raise DatasetError(
                f"a row has rank 1 to {MAX_RANK} and at most {MAX_ROW_VALUES} values: reshape it"
            )
        if not MIN_CLASSES <= self.classes <= MAX_CLASSES:
            raise DatasetError(
                f"{self.classes} targets: Chiron trains with {MIN_CLASSES} to {MAX_CLASSES}, numbered from 0"
            )
        if self.dtype not in DTYPES:
            raise DatasetError(f"rows are stored as {sorted(DTYPES)}: convert them")
        for count in (self.rows_class, self.held_out_class):
            if not 1 <= count <= MAX_ROWS or size_class(count) != count:
                raise DatasetError(f"a row count of {count} is not a size class: round it with size_class()")

    @property
    def row_values(self) -> int:
        """Values in one row."""
        return math.prod(self.shape)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for signing and for the wire."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Schema:
        """Parse what `as_dict` wrote.

        Raises:
            DatasetError: a key is unknown or missing, or a value is out of its range.
        """
        if set(fields) != set(cls.__dataclass_fields__):
            raise DatasetError(f"a schema has exactly the keys {sorted(cls.__dataclass_fields__)}")
        counts = [fields[name] for name in ("classes", "rows_class", "held_out_class")]
        shape = fields["shape"]
        whole = isinstance(shape, list) and all(type(value) is int for value in [*shape, *counts])
        if not whole or not isinstance(fields["dtype"], str):
            raise DatasetError("a schema's shape and counts are whole numbers and its dtype is a name")
        return cls(tuple(shape), counts[0], fields["dtype"], counts[1], counts[2])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A user's rows and targets. Secret: never log, print or put a part of it in an error.

    rows: (n, *shape) uint8 or float32; targets: (n,) uint16; the held-out part likewise.
    """

    schema: Schema
    rows: NDArray[Any]
    targets: NDArray[np.uint16]
    held_out_rows: NDArray[Any]
    held_out_targets: NDArray[np.uint16]


def make_dataset(
    rows: NDArray[Any], targets: NDArray[Any], *, held_out: tuple[NDArray[Any], NDArray[Any]], classes: int
) -> Dataset:
    """Check arrays and give them a schema.

    Args:
        rows: (n, *shape), uint8 or floating.
        targets: (n,), whole numbers from 0 to classes - 1.
        held_out: rows and targets that are kept from training and measure accuracy.
        classes: how many targets there are.

    Raises:
        DatasetError: counts differ, a value is not finite, a target is out of range; names counts only.
    """
    parts = [(checked_rows(r), checked_targets(t, classes)) for r, t in ((rows, targets), held_out)]
    (train, train_targets), (test, test_targets) = parts
    for part, part_targets in parts:
        if len(part) != len(part_targets):
            raise DatasetError(f"{len(part)} rows but {len(part_targets)} targets: give each row one target")
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DatasetError(
            f"training rows are {train.dtype} {train.shape[1:]}, held-out rows {test.dtype} {test.shape[1:]}:"
            " make them alike"
        )
    schema = Schema(
        tuple(train.shape[1:]), classes, train.dtype.name, size_class(len(train)), size_class(len(test))
    )
    return Dataset(schema, train, train_targets, test, test_targets)


def checked_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows as they are stored: uint8, or float32 where they are other numbers.

    Raises:
        DatasetError: there are none, they are no numbers, or a value is not finite; names counts only.
    """
    if rows.ndim < 2 or len(rows) == 0:  # noqa: PLR2004  rows and at least one dimension
        raise DatasetError(f"rows have shape {rows.shape}: at least one row of at least one value is needed")
    if rows.dtype == np.uint8:
        return np.ascontiguousarray(rows)
    if rows.dtype.kind not in "fiu":
        raise DatasetError(f"rows have type {rows.dtype}: give numbers (uint8 or float32)")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused
        converted = np.ascontiguousarray(rows, dtype="<f4")
    bad = int(np.size(converted) - np.count_nonzero(np.isfinite(converted)))
    if bad:  # ERR-4: the count, never a value
        raise DatasetError(f"{bad} values are NaN or infinite: fill or drop them before you submit")
    return converted


def checked_targets(targets: NDArray[Any], classes: int) -> NDArray[np.uint16]:
    """Return targets as they are stored.

    Raises:
        DatasetError: they are no whole numbers from 0 to `classes - 1`.
    """
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise DatasetError(
            f"targets are {targets.dtype} of shape {targets.shape}: one whole number a row is needed"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise DatasetError(out_of_range(classes))
    return targets.astype(np.uint16)


def out_of_range(classes: int) -> str:
    """Return what is said of targets beyond the last one."""
    return f"targets must lie from 0 to {classes - 1}: renumber them or declare more classes"


def as_float(rows: NDArray[Any]) -> Float32Array:
    """Return rows as float32: uint8 values scaled by 1/255, others as they are."""
    if rows.dtype == np.uint8:
        scaled: Float32Array = np.multiply(rows, np.float32(1 / 255), dtype=np.float32)
        return scaled
    return np.asarray(rows, dtype=np.float32)
