"""Convolution of few channels by products over windows: each window's values in a column, places first.

Where a window holds many values, products go by rows of the kernel, so that the columns stay small. The image
gets no gradient here: a network's input needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.graph.planes import places_first, rows_first

if TYPE_CHECKING:
    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape

AT_ONCE = 80  # of a window's values


def forward(tape: Tape, node: Node) -> None:
    """Write the convolution; columns that hold whole windows keep a name that the backward pass knows."""
    weights = node.inputs[1]
    outs, ins, *kernel = tape.shapes[weights]
    rows, _, height, width = tape.shapes[node.output]
    turned = tape.op("Transpose", [weights], perm=(2, 3, 1, 0))
    flat = tape.reshape(turned, (kernel[0] * kernel[1] * ins, outs))
    planes = _padded(tape, node)
    total = list(
        node.inputs[2:]
    )  # each product is added to what stands here: first the bias, if there is one
    for first, last in _parts(tape, node):
        columns = _columns(tape, node, planes, first, last)
        bounds = [tape.ints(kernel[1] * ins * place) for place in (first, last)]
        part = tape.op("Slice", [flat, *bounds, tape.ints(0)]) if len(_parts(tape, node)) > 1 else flat
        total = [tape.op("Gemm", [columns, part, *total], transA=1)]
    rows_first(tape, tape.reshape(total[0], (height, width, rows, outs)), name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Give weights and bias their gradients."""
    weights = node.inputs[1]
    outs, ins, *kernel = tape.shapes[weights]
    rows, _, height, width = tape.shapes[node.output]
    flat = tape.reshape(places_first(tape, gradient), (height * width * rows, outs))
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [flat, tape.ints(0)], keepdims=0))
    if not tape.wants(weights):
        return
    whole = len(_parts(tape, node)) == 1
    planes = "" if whole else _padded(tape, node)
    parts = []
    for first, last in _parts(tape, node):
        columns = _kept(node) if whole else _columns(tape, node, planes, first, last)
        parts.append(tape.op("Gemm", [columns, flat]))
    joined = parts[0] if whole else tape.op("Concat", parts, axis=0)
    turned = tape.op("Transpose", [tape.reshape(joined, (*kernel, ins, outs))], perm=(3, 2, 0, 1))
    tape.give(weights, turned)


def at_once(weights: Shape) -> int:
    """Return how many values of a window, at most, a product takes; weights are (out, in, height, width)."""
    return max(AT_ONCE, weights[1] * weights[3])  # at least a row of the kernel


def _parts(tape: Tape, node: Node) -> list[tuple[int, int]]:
    """Return the kernel's rows, first and last, that each product takes."""
    _, ins, high, wide = weights = tape.shapes[node.inputs[1]]
    step = at_once(weights) // (ins * wide)
    return [(first, min(first + step, high)) for first in range(0, high, step)]


def _padded(tape: Tape, node: Node) -> str:
    """Return the image as (in, height, width, rows), with its padding."""
    pads = node.integers("pads")
    planes = tape.op("Transpose", [node.inputs[0]], perm=(1, 2, 3, 0))
    if not any(pads):
        return planes
    return tape.op("Pad", [planes, tape.ints(0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0)])


def _columns(tape: Tape, node: Node, planes: str, first: int, last: int) -> str:
    """Return what these rows of the kernel see: (rows * width * in, places of the output)."""
    _, ins, high, wide = tape.shapes[node.inputs[1]]
    rows, _, height, width = tape.shapes[node.output]
    strides, dilations = node.integers("strides"), node.integers("dilations")
    seen = []
    for row in range(first, last):
        for column in range(wide):
            start = (row * dilations[0], column * dilations[1])
            end = (start[0] + (height - 1) * strides[0] + 1, start[1] + (width - 1) * strides[1] + 1)
            bounds = [tape.ints(*start), tape.ints(*end), tape.ints(1, 2), tape.ints(*strides)]
            seen.append(tape.op("Slice", [planes, *bounds]))
    joined = seen[0] if len(seen) == 1 else tape.op("Concat", seen, axis=0)
    shape = tape.ints((last - first) * wide * ins, height * width * rows)
    name = _kept(node) if (first, last) == (0, high) else ""
    return tape.op("Reshape", [joined, shape], name=name)


def _kept(node: Node) -> str:
    return f"{node.output}.columns"
