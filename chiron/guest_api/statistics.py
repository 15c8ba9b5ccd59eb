"""Statistics of training rows, taken chunk by chunk in one pass: what `statistics` answers a guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset, Float32Array, Schema

ALL_VALUES, ONE_COLUMN, ROWS_PER_TARGET, ROW_COUNTS, ROWS_TO_READ = range(5)
BLOCK_VALUES = 1 << 20
_ARRAYS = ("mean", "squares", "least", "most", "targets")


@dataclass(slots=True)
class Statistics:
    """Of each column of the flattened rows, in stored units: float64, shape (row values,).

    `squares` are summed squares of deviations from the mean; `targets` int64, shape (classes,), counts rows
    of each target; `seen` is the rows so far, `held_out` the exact count of the other part.
    """

    schema: Schema
    seen: int
    held_out: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    targets: NDArray[np.int64]

    @classmethod
    def empty(cls, schema: Schema) -> Self:
        """Return the statistics of no rows."""
        zero = np.zeros(schema.row_values)
        infinite = np.full(schema.row_values, np.inf)
        targets = np.zeros(schema.classes, np.int64)
        return cls(schema, 0, 0, zero, zero.copy(), infinite, -infinite, targets)

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Return those of a data set in memory."""
        made = cls.empty(dataset.schema)
        made.add(dataset.rows, dataset.targets)
        made.held_out = len(dataset.held_out_rows)
        return made

    def add(self, rows: NDArray[Any], targets: NDArray[Any]) -> None:
        """Take more rows in, in constant memory.

        Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American
        Statistician 37(3), 1983, equation 2.1 (merging two samples).
        """
        self.targets = self.targets + np.bincount(targets, minlength=len(self.targets))
        flat = rows.reshape(len(rows), -1)
        at_once = max(1, BLOCK_VALUES // self.mean.size)
        for first in range(0, len(flat), at_once):
            self._merge(flat[first : first + at_once])

    def _merge(self, flat: NDArray[Any]) -> None:
        count = len(flat)
        mean = flat.mean(axis=0, dtype=np.float64)
        squares = np.square(flat - mean).sum(axis=0)
        apart, total = mean - self.mean, self.seen + count
        self.squares = self.squares + squares + apart**2 * (self.seen * count / total)
        self.mean = self.mean + apart * (count / total)
        self.least = np.minimum(self.least, flat.min(axis=0))
        self.most = np.maximum(self.most, flat.max(axis=0))
        self.seen = total

    def answer(self, kind: int, index: int) -> Float32Array | None:
        """Return float32 statistics, or None for a question that does not exist."""
        if kind == ALL_VALUES:
            mean = self.mean.mean()
            squares = self.squares.sum() + self.seen * np.square(self.mean - mean).sum()
            return self._summary(mean, squares / self.mean.size, self.least.min(), most=self.most.max())
        if kind == ONE_COLUMN and index < self.mean.size:
            return self._summary(
                self.mean[index], self.squares[index], self.least[index], most=self.most[index]
            )
        if kind == ROWS_PER_TARGET:
            return self.targets.astype("<f4")
        if kind == ROW_COUNTS:
            return np.array([self.seen, self.held_out], dtype="<f4")
        return None

    def _summary(self, mean: float, squares: float, least: float, *, most: float) -> Float32Array:
        scale = 1 / 255 if self.schema.dtype == "uint8" else 1.0
        found = np.array([mean, np.sqrt(squares / self.seen), least, most], dtype=np.float64) * scale
        return found.astype("<f4")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for the pipe to a guest's process."""
        arrays = {name: getattr(self, name).tobytes() for name in _ARRAYS}
        return arrays | {"seen": self.seen, "held_out": self.held_out}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], schema: Schema) -> Self:
        """Rebuild what `as_dict` wrote, by the process's own enclave."""
        arrays = {name: np.frombuffer(fields[name], np.float64) for name in _ARRAYS[:-1]}
        targets = np.frombuffer(fields["targets"], np.int64)
        return cls(schema, fields["seen"], fields["held_out"], targets=targets, **arrays)
