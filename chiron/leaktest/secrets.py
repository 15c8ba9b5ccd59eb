"""What is secret in a run, in few numbers: so that a pair that shows a leak can be made small and read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.dataset import Dataset, Schema, make_dataset
from chiron.policy.header import size_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = Schema(shape=(8,), classes=3, dtype="float32", rows_class=60, held_out_class=12)
# Tried in this order until `configure` declares a header: vectors and images that guests are written for.
SCHEMAS = (
    SMALL,
    Schema((1, 8, 8), 10, "uint8", 60, 12),
    Schema((1, 28, 28), 10, "uint8", 60, 12),
    Schema((3, 32, 32), 10, "uint8", 60, 12),
)


@dataclass(frozen=True, slots=True)
class DataSecret:
    """A user's data set, made from a few numbers. Beside them the schema, which is public, says its shape.

    Args:
        rows: exact number of training rows, 1 to the schema's class; fewer than fit are rounded up.
        held_out: exact number of held-out rows, likewise.
        first: the first value of the first row.
        level: what all other values have in common.
        spread: how far they lie apart; 0 for none.
        favoured: in so many of 8 rows the target is 0; the others go in turn.
        seed: of the values.
    """

    rows: int
    held_out: int
    first: float = 0.0
    level: float = 0.0
    spread: float = 0.0
    favoured: int = 0
    seed: int = 0

    def dataset(self, schema: Schema) -> Dataset:
        """Return the data set; the same numbers and schema give the same."""
        random = np.random.default_rng(self.seed)
        parts = [self._part(random, count, schema) for count in self._counts(schema)]
        values, targets = parts[0]
        values.reshape(-1)[0] = self._stored(np.float32(self.first), schema)
        return make_dataset(values, targets, held_out=parts[1], classes=schema.classes)

    def shown(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)

    def _counts(self, schema: Schema) -> tuple[int, int]:
        return (
            _of_class(self.rows, schema.rows_class),
            _of_class(self.held_out, schema.held_out_class),
        )

    def _part(
        self, random: np.random.Generator, count: int, schema: Schema
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        values = self.level + self.spread * random.standard_normal((count, *schema.shape))
        places = np.arange(count)
        targets = np.where(places % 8 < self.favoured, 0, places % schema.classes)
        return self._stored(values, schema), targets

    @staticmethod
    def _stored(values: Any, schema: Schema) -> Any:  # noqa: ANN401  an array or one number
        if schema.dtype == "uint8":
            return np.clip(np.round(values), 0, 255).astype(np.uint8)
        return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class GuestSecret:
    """Another guest in the tested one's place, which declares the same header: the operator's secret.

    Args:
        ends_at: it ends at this host call of `create`, and of each transform; 0 for nowhere.
        other: what it writes differs in this: the exclusive or of each byte.
        shorter: it writes so many bytes less at each call that writes more than these.
    """

    ends_at: int = 0
    other: int = 0
    shorter: int = 0

    def altered(self, payload: bytes) -> bytes:
        """Return what this guest writes in place of `payload`."""
        kept = payload[: len(payload) - self.shorter] if len(payload) > self.shorter else payload
        return bytes(byte ^ self.other for byte in kept) if self.other else kept

    def shown(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def _of_class(count: int, size: int) -> int:
    """Return the nearest count whose size class is this one."""
    low = size
    while low > 1 and size_class(low - 1) == size:
        low -= 1
    return min(max(count, low), size)


def lowest(size: int) -> int:
    """Return the smallest count of a size class."""
    return _of_class(0, size)
