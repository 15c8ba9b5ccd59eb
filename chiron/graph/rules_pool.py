"""Gradients of pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import pool_max

if TYPE_CHECKING:
    from chiron.graph.admitted import Float32Array, Node, Shape
    from chiron.graph.tape import Tape


def write_max_pool(tape: Tape, node: Node) -> None:
    """Write max pooling: on planes in training, where it will have a gradient, and in blocks of rows."""
    if tape.phrased and tape.wants(node.output):
        pool_max.forward(tape, node)
    else:
        tape.node(node.operator, node.inputs, node.attributes, name=node.output)


def max_pool(tape: Tape, node: Node, gradient: str) -> None:
    """Send each gradient to the place of its maximum; the first one wins a tie, as in the forward pass."""
    pool_max.backward(tape, node, gradient)


def average_pool(tape: Tape, node: Node, gradient: str) -> None:
    """Spread each gradient evenly over the places its window counted."""
    shape, kernel = tape.shapes[node.inputs[0]], node.integers("kernel_shape")
    if kernel == node.integers("strides") and not any(node.integers("pads")):
        share = tape.op("Mul", [gradient, tape.scalar(1.0 / math.prod(kernel))])
        tape.give(node.inputs[0], _spread_apart(tape, share, kernel=kernel, shape=shape))
        return
    counts = tape.floats(_inverse_counts(node, shape, tape.shapes[node.output]))
    share = tape.op("Mul", [gradient, counts])
    tape.give(node.inputs[0], _spread_overlapping(tape, share, node=node, shape=shape))


def _spread_apart(tape: Tape, share: str, *, kernel: Shape, shape: Shape) -> str:
    """Repeat over windows that do not meet; what they leave out at the far edges gets nothing."""
    rows, channels, height, width = shape
    planes, high, wide = rows * channels, height // kernel[0], width // kernel[1]
    apart = tape.reshape(share, (planes, high, 1, wide, 1))
    spread = tape.op("Expand", [apart, tape.ints(planes, high, kernel[0], wide, kernel[1])])
    covered = tape.reshape(spread, (rows, channels, high * kernel[0], wide * kernel[1]))
    left = (height - high * kernel[0], width - wide * kernel[1])
    return tape.op("Pad", [covered, tape.ints(0, 0, 0, 0, 0, 0, *left)]) if any(left) else covered


def _spread_overlapping(tape: Tape, share: str, *, node: Node, shape: Shape) -> str:
    """Add up windows that meet: a transposed convolution with ones, each channel on its own."""
    rows, channels, height, width = shape
    kernel, strides, pads = (node.integers(name) for name in ("kernel_shape", "strides", "pads"))
    high, wide = (
        (size + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, size in enumerate((height, width))
    )
    ones = tape.floats(np.ones((1, 1, *kernel), dtype=np.float32))
    planes = tape.reshape(share, (rows * channels, 1, high, wide))
    extra = tuple(
        size - ((out - 1) * strides[i] + kernel[i] - pads[i] - pads[i + 2])
        for i, (size, out) in enumerate(((height, high), (width, wide)))
    )
    spread = tape.op(
        "ConvTranspose",
        [planes, ones],
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        output_padding=extra,
    )
    return tape.reshape(spread, shape)


def _inverse_counts(node: Node, shape: Shape, result: Shape) -> Float32Array:
    """Return 1 over the places that each window counts, float32 (height, width) of the output."""
    kernel, strides, pads = (node.integers(name) for name in ("kernel_shape", "strides", "pads"))
    counts = []
    for axis in (0, 1):
        first = np.arange(result[2 + axis]) * strides[axis] - pads[axis]
        seen = np.minimum(first + kernel[axis], shape[2 + axis]) - np.maximum(first, 0)
        counts.append(np.full_like(seen, kernel[axis]) if node.integer("count_include_pad") else seen)
    inverse: Float32Array = (1.0 / np.outer(counts[0], counts[1])).astype(np.float32)
    return inverse
