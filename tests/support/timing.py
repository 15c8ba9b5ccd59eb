"""Tells two classes of timings apart, or says how large a difference would have been told.

Source: Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE 2017: Welch's t-test on all
timings and on those below several quantiles, because rare slow ones hide a difference in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Timings = NDArray[np.float64]

THRESHOLD: Final = 4.5  # of |t|: the paper's; by chance in fewer than one of 100,000 tests
CROPS: Final = (1.0, 0.99, 0.95, 0.9, 0.75, 0.5)
POWER: Final = 2.33  # standard deviations: a difference is found 99 times of 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """The largest |t| over all crops, and the smallest difference (ms) that all timings would have shown."""

    t: float
    crop: float
    difference_ms: float
    detectable_ms: float

    @property
    def told_apart(self) -> bool:
        """Tell whether the classes differ."""
        return self.t > THRESHOLD

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "t": round(self.t, 2),
            "crop": self.crop,
            "difference_ms": round(self.difference_ms, 4),
            "detectable_ms": round(self.detectable_ms, 4),
            "told_apart": self.told_apart,
        }


def compare(left: Timings, right: Timings) -> Comparison:
    """Compare two classes of timings in milliseconds, each of shape (n,) with n of at least 2."""
    cuts = [(crop, np.quantile(np.concatenate([left, right]), crop)) for crop in CROPS]
    found = [
        (abs(welch_t(one, two)), crop, float(one.mean() - two.mean()))
        for crop, cut in cuts
        if min(len(one := left[left <= cut]), len(two := right[right <= cut])) > 1
    ]
    t, crop, difference = max(found)
    noise = np.sqrt(left.var(ddof=1) / len(left) + right.var(ddof=1) / len(right))
    return Comparison(float(t), crop, difference, float((THRESHOLD + POWER) * noise))


def welch_t(left: Timings, right: Timings) -> float:
    """Return Welch's t; 0 where neither class varies and the means are equal."""
    difference = left.mean() - right.mean()
    noise = np.sqrt(left.var(ddof=1) / len(left) + right.var(ddof=1) / len(right))
    return float(difference / noise) if noise else float(np.sign(difference)) * np.inf if difference else 0.0
