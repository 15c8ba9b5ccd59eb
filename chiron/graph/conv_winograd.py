"""Convolution by minimal filtering: transformed tiles, one matrix product a place, gathered again.

For a kernel of 3 by 3, 36 products stand where a tile of 16 outputs has 144; for 5 by 5, 64 for 400. Tiles
lie (place, place, tile, tile, row, channel): each transform is one small matrix against long rows, and each
product has all tiles of all rows. The backward pass is such a convolution of the gradient with the kernel
turned by half; the weights' gradient takes the transpose of each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.planes import beside, places_first, rows_first
from chiron.graph.winograd import POINTS, STEP, covered, filtering, turned, windows

if TYPE_CHECKING:
    from chiron.graph.admitted import Float32Array, Node, Shape
    from chiron.graph.tape import Tape
    from chiron.graph.winograd import Array64


def forward(tape: Tape, node: Node) -> None:
    """Write the convolution; its tiles keep a name that the backward pass knows."""
    image, weights = node.inputs[:2]
    outs, ins, *taps = tape.shapes[weights]
    top, left, *_ = node.integers("pads")
    filters = _Filters(tuple(taps), tape.shapes[node.output][2:], (top, left))
    tiles = filters.spread(tape, places_first(tape, image), size=tape.shapes[image][2:])
    tiles = tape.op("Reshape", [tiles, tape.ints(filters.products, -1, ins)], name=_tiles(node))
    flat = tape.reshape(weights, (outs * ins, math.prod(taps)))
    kernels = tape.op("Gemm", [_constant(tape, filters.kernel), flat], transB=1)
    kernels = tape.op("Reshape", [kernels, tape.ints(filters.products, outs, ins)], name=_kernels(node))
    products = tape.op("MatMul", [tiles, tape.op("Transpose", [kernels], perm=(0, 2, 1))])
    result = filters.gather(tape, products, channels=outs)
    for bias in node.inputs[2:]:
        result = tape.op("Add", [result, beside(tape, bias, rows=tape.shapes[image][0])])
    rows_first(tape, result, name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias their gradients."""
    image, weights = node.inputs[:2]
    outs, ins, *taps = tape.shapes[weights]
    size, out = tape.shapes[image][2:], tape.shapes[node.output][2:]
    planes = places_first(tape, gradient)
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [planes, tape.ints(0, 1, 2)], keepdims=0))
    if tape.wants(weights):
        tape.give(weights, _weight_gradient(tape, node, planes))
    if tape.wants(image):
        before = tuple(taps[i] - 1 - node.integers("pads")[i] for i in (0, 1))
        filters = _Filters(tuple(taps), size, before, turned=True)
        tiles = tape.reshape(filters.spread(tape, planes, size=out), (filters.products, -1, outs))
        products = tape.op("MatMul", [tiles, _kernels(node)])
        tape.give(image, rows_first(tape, filters.gather(tape, products, channels=ins)))


def workspace(image: Shape, weights: Shape, result: Shape) -> int:
    """Return how many values a row takes besides image and result: around transforms, and products.

    It is 0 for a kernel that this does not do.

    Args:
        image: (in, height, width).
        weights: (out, in, height, width).
        result: (out, height, width).
    """
    return 2 * (tiles(image, weights, result) + tiles(result, weights, image))


def tiles(image: Shape, weights: Shape, result: Shape) -> int:
    """Return how many values a row's transformed tiles have; 0 for a kernel that this does not do."""
    if not all(size in POINTS for size in weights[2:]):
        return 0
    return image[0] * math.prod(covered(weights[2 + i], max(image[1 + i], result[1 + i])) for i in (0, 1))


def transformed(weights: Shape) -> int:
    """Return how many values the transformed weights and their gradient take, whatever the batch."""
    if not all(size in POINTS for size in weights[2:]):
        return 0
    return 3 * math.prod(len(POINTS[size]) + 1 for size in weights[2:]) * math.prod(weights[:2])


def _weight_gradient(tape: Tape, node: Node, planes: str) -> str:
    """Multiply, for each place, (out, tiles) by (tiles, in), and take the sums back to the kernel."""
    outs, ins, *taps = tape.shapes[node.inputs[1]]
    filters = _Filters(tuple(taps), tape.shapes[node.output][2:], (0, 0))
    spread = tape.reshape(filters.gather_back(tape, planes), (filters.products, -1, outs))
    each = tape.op("MatMul", [tape.op("Transpose", [spread], perm=(0, 2, 1)), _tiles(node)])
    flat = tape.reshape(each, (filters.products, outs * ins))
    summed = tape.op("Gemm", [flat, _constant(tape, filters.kernel)], transA=1)
    return tape.reshape(summed, (outs, ins, *taps))


@dataclass(frozen=True, slots=True)
class _Filters:
    """The transforms for both axes.

    Args:
        taps: the kernel's height and width.
        out: the outputs' height and width.
        before: zeros in front of the image, along height and width.
        turned: whether the kernel is turned by half.
    """

    taps: Shape
    out: Shape
    before: Shape
    turned: bool = False

    @property
    def tiles(self) -> Shape:
        return tuple(-(-size // STEP) for size in self.out)

    @property
    def places(self) -> Shape:
        return tuple(len(POINTS[taps]) + 1 for taps in self.taps)

    @property
    def products(self) -> int:
        return math.prod(self.places)

    @property
    def kernel(self) -> Array64:
        """G for both axes at once: float64 (places, taps) of the plane."""
        (_, high, _), (_, wide, _) = map(filtering, self.taps)
        return np.asarray(np.kron(high, wide), dtype=np.float64)

    @property
    def inner(self) -> tuple[Array64, Array64]:
        """B' along height and width: float64 (places, places) each."""
        high, wide = ((turned if self.turned else filtering)(taps)[0] for taps in self.taps)
        return high, wide

    @property
    def outer(self) -> tuple[Array64, Array64]:
        """A' along height and width: float64 (STEP, places) each."""
        high, wide = ((turned if self.turned else filtering)(taps)[-1] for taps in self.taps)
        return high, wide

    def spread(self, tape: Tape, planes: str, *, size: Shape) -> str:
        """Return the transformed tiles of planes of this size: (place, place, all that lies there)."""
        high, wide = (STEP * self.tiles[i] + self.taps[i] - 1 for i in (0, 1))
        after = [high - size[0] - self.before[0], wide - size[1] - self.before[1]]
        if any((*self.before, *after)):
            bounds = tape.ints(*self.before, 0, 0, *after, 0, 0)
            planes = tape.op("Pad", [planes, bounds, tape.scalar(0.0)])
        rows, columns = (windows(self.tiles[i], self.places[i]) for i in (0, 1))
        places = rows[:, None, :, None] * wide + columns[None, :, None, :]
        flat = tape.reshape(planes, (high * wide, -1))
        seen = tape.op("Gather", [flat, tape.indices(places)], axis=0)
        return self._both(tape, seen, *self.inner)

    def gather(self, tape: Tape, products: str, *, channels: int) -> str:
        """Return planes of the outputs, channels last."""
        tiles = self._both(tape, products, *self.outer)
        apart = tape.reshape(tiles, (STEP, STEP, *self.tiles, -1))
        joined = tape.op("Transpose", [apart], perm=(2, 0, 3, 1, 4))
        full = [STEP * count for count in self.tiles]
        planes = tape.reshape(joined, (*full, -1, channels))
        if full == list(self.out):
            return planes
        return tape.op("Slice", [planes, tape.ints(0, 0), tape.ints(*self.out), tape.ints(0, 1)])

    def gather_back(self, tape: Tape, planes: str) -> str:
        """Return what `gather` would hand back from planes: (place, place, all that lies there)."""
        missing = [STEP * self.tiles[i] - self.out[i] for i in (0, 1)]
        if any(missing):
            planes = tape.op("Pad", [planes, tape.ints(0, 0, 0, 0, *missing, 0, 0), tape.scalar(0.0)])
        apart = tape.reshape(planes, (self.tiles[0], STEP, self.tiles[1], STEP, -1))
        joined = tape.op("Transpose", [apart], perm=(1, 3, 0, 2, 4))
        first, second = self.outer
        return self._both(tape, joined, first.T, second.T)

    @staticmethod
    def _both(tape: Tape, values: str, first: Array64, second: Array64) -> str:
        """Multiply the first two axes."""
        tall = tape.op("MatMul", [_constant(tape, first), tape.reshape(values, (first.shape[1], -1))])
        broad = tape.reshape(tall, (first.shape[0], second.shape[1], -1))
        return tape.op("MatMul", [_constant(tape, second), broad])


def _constant(tape: Tape, values: Array64) -> str:
    single: Float32Array = np.ascontiguousarray(values, dtype=np.float32)
    return tape.floats(single)


def _tiles(node: Node) -> str:
    return f"{node.output}.tiles"


def _kernels(node: Node) -> str:
    return f"{node.output}.kernels"
