"""The matrices of minimal filtering: F(4, 3) and F(4, 5), four outputs from six or eight products.

A tile's transform is y = A'[(Gg)(B'd)]; Toom and Cook's construction makes the matrices from points at which
polynomials are evaluated. Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR
2016, section 4; Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", ACM
TOMS 46 (4), 2020, on points. Which ones lose least to rounding here is in spec/adr/0014.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Array64 = np.ndarray[Any, np.dtype[np.float64]]
IndexArray = np.ndarray[Any, np.dtype[np.int64]]

STEP = 4  # a tile's outputs along an axis
_SQRT2 = 2**0.5
POINTS: Mapping[int, tuple[float, ...]] = {  # of a kernel of so many places; infinity is one more
    3: (0.0, _SQRT2, -_SQRT2, 1 / _SQRT2, -1 / _SQRT2),
    5: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
}


def covered(taps: int, out: int) -> int:
    """Return the places of all tiles along an axis of so many outputs."""
    return (len(POINTS[taps]) + 1) * -(-out // STEP)


@cache
def filtering(taps: int) -> tuple[Array64, Array64, Array64]:
    """Return B' (places, places), G (places, taps) and A' (STEP, places) for a kernel of so many places."""
    points = POINTS[taps]
    inner: Array64 = np.asarray(np.linalg.inv(_powers(points, len(points) + 1)).T, dtype=np.float64)
    return inner, _powers(points, taps), _powers(points, STEP).T


@cache
def turned(taps: int) -> tuple[Array64, Array64]:
    """Return B' and A' that filter with the kernel turned by half, given the G of the kernel as it stands.

    Turning reverses a polynomial's coefficients: its value at p is p^(taps - 1) times the old one at 1/p, and
    with every point here stands its inverse, as infinity does with 0.
    """
    inner, _, gather = filtering(taps)
    points = POINTS[taps]
    inverse = [_place(points, 1 / point) if point else len(points) for point in points]
    inverse.append(_place(points, 0.0))  # infinity's
    factors = np.array([point ** (taps - 1) if point else 1.0 for point in points] + [1.0])
    return (factors[:, None] * inner)[inverse], gather[:, inverse]


def _place(points: tuple[float, ...], value: float) -> int:
    return int(np.argmin(np.abs(np.array(points) - value)))


def _powers(points: tuple[float, ...], count: int) -> Array64:
    """Return each point's powers 0 to count - 1, a row each; infinity's is the highest power alone."""
    rows = np.vander(np.array(points), count, increasing=True)
    return np.vstack([rows, np.eye(count)[-1]])


def windows(tiles: int, places: int) -> IndexArray:
    """Return where each tile reads along an axis, int64 (places, tiles): tiles are STEP apart and overlap."""
    return np.arange(places)[:, None] + STEP * np.arange(tiles)
