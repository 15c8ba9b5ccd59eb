"""Images with their places in front: (height, width, rows, channels) where ONNX has (rows, channels, h, w).

What one place holds, rows by channels, lies together. A product along an image's axis is then one matrix
product without a transpose, a slice copies long runs, and a sum over all but channels reads straight on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape

SWAP = (2, 3, 0, 1)  # its own inverse; layout.py takes out the pairs
PREFIX = "planes."  # of what lies places first, for layout.py


def places_first(tape: Tape, image: str) -> str:
    """Put height and width in front."""
    return tape.op("Transpose", [image], name=f"{PREFIX}{len(tape.nodes)}", perm=SWAP)


def rows_first(tape: Tape, planes: str, *, name: str = "") -> str:
    """Put rows and channels in front again."""
    return tape.op("Transpose", [planes], name=name, perm=SWAP)


def beside(tape: Tape, vector: str, *, rows: int) -> str:
    """Repeat a vector over channels for each row: operators repeat few values at a time slowly."""
    return tape.op("Expand", [vector, tape.ints(rows, *tape.shapes[vector])])


def swapped(shape: Shape) -> Shape:
    """Return the shape in the other order."""
    return tuple(shape[axis] for axis in SWAP)


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over planes.

    Args:
        shape: of the image, rows first.
        out: height and width of what the window gives.
        kernel, strides, dilations: height and width.
        pads: top, left, bottom, right.
    """

    shape: Shape
    out: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape

    @classmethod
    def of(cls, tape: Tape, node: Node, kernel: Shape) -> Window:
        """Read a convolution's or a pool's."""
        dilations = node.integers("dilations")
        shape, out = tape.shapes[node.inputs[0]], tape.shapes[node.output][2:]
        strides, (top, left, *after) = node.integers("strides"), node.integers("pads")
        for axis, before in enumerate((top, left)):  # the last window may hang over what is padded
            end = (out[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
            after[axis] = max(after[axis], end - shape[2 + axis] - before)
        return cls(shape, out, kernel, strides, dilations, (top, left, *after))

    def places(self) -> list[tuple[int, int]]:
        """Return the window's places, row by row: how far each is from the window's corner."""
        high, wide = (range(0, self.kernel[i] * self.dilations[i], self.dilations[i]) for i in (0, 1))
        return list(product(high, wide))

    def padded(self, tape: Tape, planes: str, *, value: float) -> str:
        """Pad planes."""
        if not any(self.pads):
            return planes
        top, left, bottom, right = self.pads
        bounds = tape.ints(top, left, 0, 0, bottom, right, 0, 0)
        return tape.op("Pad", [planes, bounds, tape.scalar(value)])

    def seen(self, tape: Tape, planes: str, place: Shape) -> str:
        """Return what one place of the window sees of padded planes: (*out, rows, channels)."""
        if (*self.out, *self.strides, *self.pads) == (*self.shape[2:], 1, 1, 0, 0, 0, 0):
            return planes
        end = [place[i] + (self.out[i] - 1) * self.strides[i] + 1 for i in (0, 1)]
        bounds = [tape.ints(*place), tape.ints(*end), tape.ints(0, 1), tape.ints(*self.strides)]
        return tape.op("Slice", [planes, *bounds])

    def gathered(self, tape: Tape, planes: str, places: Sequence[Shape]) -> str:
        """Return what some places of the window see of padded planes: (places, out * rows, channels)."""
        width = self.shape[3] + self.pads[1] + self.pads[3]
        high, wide = (np.arange(self.out[i]) * self.strides[i] for i in (0, 1))
        corners = (high[:, None] * width + wide).ravel()
        seen = np.array([row * width + column for row, column in places])[:, None] + corners
        flat = tape.reshape(planes, (-1, self.shape[0] * self.shape[1]))
        everything = tape.op("Gather", [flat, tape.indices(seen)], axis=0)
        return tape.reshape(everything, (len(seen), -1, self.shape[1]))

    def put_back(self, tape: Tape, shares: Sequence[str]) -> str:
        """Return planes of the image: what each place of the window (in their order) gives to what it saw.

        Places that lie equally far behind a stride are added on a grid of windows; the grids are interleaved.
        """
        rows, channels, *size = self.shape
        grid = self._grid()
        lines = []
        for row in range(self.strides[0]):
            cells = [self._cell(tape, shares, (row, column)) for column in range(self.strides[1])]
            line = [tape.reshape(cell, (grid[0], 1, grid[1], 1, rows * channels)) for cell in cells]
            lines.append(line[0] if len(line) == 1 else tape.op("Concat", line, axis=3))
        whole = lines[0] if len(lines) == 1 else tape.op("Concat", lines, axis=1)
        full = [grid[i] * self.strides[i] for i in (0, 1)]
        whole = tape.reshape(whole, (*full, rows, channels))
        if full == size:
            return whole
        start, end = self.pads[:2], [self.pads[i] + size[i] for i in (0, 1)]
        return tape.op("Slice", [whole, tape.ints(*start), tape.ints(*end), tape.ints(0, 1)])

    def _grid(self) -> Shape:
        size = [self.shape[2 + i] + self.pads[i] + self.pads[2 + i] for i in (0, 1)]
        return tuple(-(-size[i] // self.strides[i]) for i in (0, 1))

    def _cell(self, tape: Tape, shares: Sequence[str], phase: Shape) -> str:
        """Add up the shares of places that lie this far behind a stride, each moved to where it belongs."""
        grid, parts = self._grid(), []
        for place, share in zip(self.places(), shares, strict=True):
            if any(place[i] % self.strides[i] != phase[i] for i in (0, 1)):
                continue
            before = [place[i] // self.strides[i] for i in (0, 1)]
            after = [grid[i] - self.out[i] - before[i] for i in (0, 1)]
            bounds = tape.ints(*before, 0, 0, *after, 0, 0)
            parts.append(tape.op("Pad", [share, bounds]) if any((*before, *after)) else share)
        if not parts:
            return tape.op("Expand", [tape.scalar(0.0), tape.ints(*grid, *self.shape[:2])])
        return parts[0] if len(parts) == 1 else tape.op("Sum", parts)
