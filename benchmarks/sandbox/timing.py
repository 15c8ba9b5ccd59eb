"""Times things that are compared in turns, so that both meet the same noise."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `figure` is compared with `target`, both in `unit`."""

    what: str
    figure: float
    unit: str
    target: float | None
    detail: str

    @property
    def verdict(self) -> str:
        """Say whether the target is reached, and by how much it is missed."""
        if self.target is None:
            return ""
        if self.figure <= self.target:
            return "reached"
        return f"missed by {self.figure / self.target - 1:.0%}"

    def as_dict(self) -> dict[str, Any]:
        """Return the row with its verdict as plain values."""
        return asdict(self) | {"verdict": self.verdict}


def in_turns(
    works: Sequence[Callable[[], object]],
    *,
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time each work once a round, in turns; return one list of seconds for each."""
    for _ in range(warm_up):
        for work in works:
            work()
    taken = [[seconds(work, clock) for work in works] for _ in range(rounds)]
    return [list(column) for column in zip(*taken, strict=True)]


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time one call."""
    begin = clock()
    work()
    return clock() - begin


def median_ratio(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the median of the ratios of pairs from the same rounds."""
    return statistics.median(a / b for a, b in zip(left, right, strict=True))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
