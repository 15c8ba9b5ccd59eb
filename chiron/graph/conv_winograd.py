"""Convolution by minimal filtering: transformed tiles, one matrix product a place, gathered again.

For a kernel of 3 by 3, 36 products stand where a tile of 16 outputs has 144; for 5 by 5, 64 for 400. The
transforms work along height, then width, each one matrix product with a constant. The backward pass is the
transpose of every step: tiles of the image serve the weights' gradient again, tiles of the output's gradient
serve both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.planes import places_first, rows_first
from chiron.graph.winograd import POINTS, STEP, axis

if TYPE_CHECKING:
    from chiron.graph.admitted import Float32Array, Node, Shape
    from chiron.graph.tape import Tape
    from chiron.graph.winograd import Array64, Axis


def forward(tape: Tape, node: Node) -> None:
    """Write the convolution; its tiles and transformed weights keep names that the backward pass knows."""
    image, weights = node.inputs[:2]
    rows, ins, _, _ = tape.shapes[image]
    outs = tape.shapes[weights][0]
    high, wide = _axes(tape, node)
    planes = places_first(tape, image)
    tiles = _both(tape, planes, high.spread, wide.spread, columns=rows * ins)
    shape = tape.ints(*_batches(high, wide, rows), ins)
    tiles = tape.op("Reshape", [tiles, shape], name=_tiles(node))
    flat = tape.reshape(weights, (outs * ins, -1))
    kernels = tape.op("Gemm", [_constant(tape, _kron(high, wide)), flat], transB=1)
    shape = tape.ints(high.places, 1, wide.places, outs, ins)
    kernels = tape.op("Reshape", [kernels, shape], name=_kernels(node))
    turned = tape.op("Transpose", [kernels], perm=(0, 1, 2, 4, 3))
    products = tape.op("MatMul", [tiles, turned])
    result = _both(tape, products, high.gather, wide.gather, columns=rows * outs)
    result = _as_planes(tape, result, node.output)
    for bias in node.inputs[2:]:
        result = tape.op("Add", [result, bias])
    rows_first(tape, result, name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias their gradients."""
    image, weights = node.inputs[:2]
    rows, ins, _, _ = tape.shapes[image]
    outs = tape.shapes[weights][0]
    high, wide = _axes(tape, node)
    planes = places_first(tape, gradient)
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [planes, tape.ints(0, 1, 2)], keepdims=0))
    spread = _both(tape, planes, high.gather.T, wide.gather.T, columns=rows * outs)
    spread = tape.reshape(spread, (*_batches(high, wide, rows), outs))
    if tape.wants(weights):
        tape.give(weights, _weight_gradient(tape, node, spread, kernel=_kron(high, wide)))
    if tape.wants(image):
        products = tape.op("MatMul", [spread, _kernels(node)])
        result = _both(tape, products, high.spread.T, wide.spread.T, columns=rows * ins)
        tape.give(image, rows_first(tape, _as_planes(tape, result, image)))


def workspace(image: Shape, weights: Shape, result: Shape) -> int:
    """Return how many values a row takes besides image and result; 0 for a kernel that this does not do.

    Args:
        image: (in, height, width).
        weights: (out, in, height, width).
        result: (out, height, width).
    """
    if not all(size in POINTS for size in weights[2:]):
        return 0
    places = math.prod(_places(weights[2 + i], result[1 + i]) for i in (0, 1))
    return places * (2 * image[0] + 2 * result[0])  # tiles and products, each with its gradient


def transformed(weights: Shape, result: Shape) -> int:
    """Return how many values the transformed weights and their gradient take, whatever the batch."""
    if not all(size in POINTS for size in weights[2:]):
        return 0
    each = math.prod(len(POINTS[size]) + 1 for size in weights[2:]) * math.prod(weights[:2])
    return each * (2 + -(-result[1] // STEP))


def _places(taps: int, out: int) -> int:
    return (len(POINTS[taps]) + 1) * -(-out // STEP)


def _weight_gradient(tape: Tape, node: Node, spread: str, *, kernel: Array64) -> str:
    shape = tape.shapes[node.inputs[1]]
    turned = tape.op("Transpose", [spread], perm=(0, 1, 2, 4, 3))
    each = tape.op("MatMul", [turned, _tiles(node)])  # for each place and each row of tiles
    summed = tape.op("ReduceSum", [each, tape.ints(1)], keepdims=0)
    flat = tape.reshape(summed, (len(kernel), shape[0] * shape[1]))
    return tape.reshape(tape.op("Gemm", [flat, _constant(tape, kernel)], transA=1), shape)


def _axes(tape: Tape, node: Node) -> tuple[Axis, Axis]:
    size, out, taps = (tape.shapes[name][2:] for name in (node.inputs[0], node.output, node.inputs[1]))
    pads = node.integers("pads")
    high, wide = (axis(size[i], out[i], taps=taps[i], before=pads[i]) for i in (0, 1))
    return high, wide


def _batches(high: Axis, wide: Axis, rows: int) -> Shape:
    """Return the products' leading dimensions: place, row of tiles, place, and the rows of each product."""
    return high.places, high.tiles, wide.places, wide.tiles * rows


def _both(tape: Tape, planes: str, first: Array64, second: Array64, *, columns: int) -> str:
    """Multiply along height, then along width; `columns` values lie at each place."""
    tall = tape.reshape(planes, (first.shape[1], second.shape[1] * columns))
    tall = tape.op("MatMul", [_constant(tape, first), tall])
    broad = tape.reshape(tall, (first.shape[0], second.shape[1], columns))
    return tape.op("MatMul", [_constant(tape, second), broad])


def _as_planes(tape: Tape, values: str, image: str) -> str:
    rows, channels, height, width = tape.shapes[image]
    return tape.reshape(values, (height, width, rows, channels))


def _constant(tape: Tape, values: Array64) -> str:
    single: Float32Array = np.ascontiguousarray(values, dtype=np.float32)
    return tape.floats(single)


def _kron(high: Axis, wide: Axis) -> Array64:
    """Return G for both axes at once: float64 (places, taps) of the plane."""
    return np.asarray(np.kron(high.kernel, wide.kernel), dtype=np.float64)


def _tiles(node: Node) -> str:
    return f"{node.output}.tiles"


def _kernels(node: Node) -> str:
    return f"{node.output}.kernels"
