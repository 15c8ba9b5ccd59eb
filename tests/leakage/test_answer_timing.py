"""The time of an answer tells nothing of how long the network took; without the grid it would.

Few answers, so only a large difference is found here: 150 a class find 2 ms without the grid at |t| above 20,
where 4.5 is enough. `make leak-timing` takes 200,000.
"""

from __future__ import annotations

import numpy as np
import pytest
from timing import THRESHOLD, compare, welch_t

from benchmarks.answer_timing import measure
from chiron.policy.loader import load_policy

pytestmark = [pytest.mark.long, pytest.mark.alone]
ANSWERS = 150
GRID_MS = load_policy().serving.grid_ms


def test_two_milliseconds_more_do_not_show_through_the_grid() -> None:
    assert not compare(*measure(ANSWERS, grid_ms=GRID_MS).values()).told_apart


def test_without_the_grid_they_show() -> None:
    found = compare(*measure(ANSWERS, grid_ms=GRID_MS, leaky=True).values())
    assert found.told_apart
    assert found.t > 2 * THRESHOLD


def test_the_statistic_is_welchs() -> None:
    left, right = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0, 8.0])
    assert welch_t(left, right) == pytest.approx(-3 / np.sqrt(1 / 3 + (20 / 3) / 4))
    assert welch_t(left, left) == 0
    assert welch_t(np.ones(3), np.ones(3)) == 0
    assert welch_t(np.ones(3), np.zeros(3)) == np.inf


def test_a_difference_under_rare_slow_ones_is_found() -> None:
    random = np.random.default_rng(1)
    left, right = (random.normal(mean, 0.1, 2000) for mean in (10, 10.05))
    for values in (left, right):
        values[random.integers(0, 2000, 40)] += random.exponential(100, 40)
    found = compare(left, right)
    assert found.told_apart
    assert found.crop < 1


def test_equal_classes_are_rarely_told_apart() -> None:
    random = np.random.default_rng(2)
    assert not any(compare(*random.exponential(1, (2, 300))).told_apart for _ in range(200))
