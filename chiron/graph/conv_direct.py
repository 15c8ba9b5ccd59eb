"""Convolution as ONNX has it, for every kernel, stride, dilation and group.

The weight gradient is a matrix product for each tap (place in the kernel) of several groups, and that of
chiron.graph.conv_taps otherwise; the input gradient is a convolution with the flipped kernel where strides
allow it, else a transposed convolution.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from chiron.graph.admitted import Node
from chiron.graph.conv_taps import weight_gradient

if TYPE_CHECKING:
    from chiron.graph.admitted import Shape
    from chiron.graph.tape import Tape

_FAR = -(1 << 40)  # "to the start" for a Slice that walks backwards


def forward(tape: Tape, node: Node) -> None:
    """Write the convolution."""
    tape.node(node.operator, node.inputs, node.attributes, name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias their gradients."""
    image, weights = node.inputs[:2]
    if tape.wants(image):
        spans = _spans(node, tape.shapes[weights])
        inner = [span - pad for span, pad in zip(spans * 2, node.integers("pads"), strict=True)]
        flipped = node.integers("strides") == (1, 1)
        make = _input_by_flipped_kernel if flipped else _input_by_transposed_convolution
        tape.give(image, make(tape, node, gradient, inner=tuple(inner)))
    if tape.wants(weights):
        tape.give(weights, _weight_gradient(tape, node, gradient))
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [gradient, tape.ints(0, 2, 3)], keepdims=0))


def conv_transpose(tape: Tape, node: Node, gradient: str) -> None:
    """Give the input a convolution of the gradient; the weights, what that convolution would give them."""
    image, weights = node.inputs[:2]
    shared = {name: node.attributes[name] for name in ("strides", "pads", "dilations", "group")}
    kernel = tape.shapes[weights][2:]
    if tape.wants(image):
        tape.give(image, tape.node("Conv", [gradient, weights], {**shared, "kernel_shape": kernel}))
    if tape.wants(weights):
        tape.shapes[gradient] = tape.shapes[node.output]
        backwards = Node("Conv", (gradient, weights), image, shared)
        tape.give(weights, _weight_gradient(tape, backwards, image))
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [gradient, tape.ints(0, 2, 3)], keepdims=0))


def _spans(node: Node, weights: Shape) -> tuple[int, ...]:
    """Return how far the kernel's last place is from its first."""
    return tuple((k - 1) * d for k, d in zip(weights[2:], node.integers("dilations"), strict=True))


def _input_by_flipped_kernel(tape: Tape, node: Node, gradient: str, *, inner: Shape) -> str:
    """Correlate with the kernel turned by half, its in and out channels swapped within each group."""
    weights, group = node.inputs[1], node.integer("group")
    outs, ins, *kernel = tape.shapes[weights]
    swapped = weights
    if group > 1:
        swapped = tape.reshape(swapped, (group, outs // group, ins, *kernel))
        swapped = tape.op("Transpose", [swapped], perm=(0, 2, 1, 3, 4))
        swapped = tape.reshape(swapped, (group * ins, outs // group, *kernel))
    else:
        swapped = tape.op("Transpose", [swapped], perm=(1, 0, 2, 3))
    if kernel != [1, 1]:
        bounds = [tape.ints(-1, -1), tape.ints(_FAR, _FAR), tape.ints(2, 3), tape.ints(-1, -1)]
        swapped = tape.op("Slice", [swapped, *bounds])
    return tape.op(
        "Conv",
        [gradient, swapped],
        kernel_shape=tuple(kernel),
        pads=inner,
        dilations=node.integers("dilations"),
        group=group,
    )


def _input_by_transposed_convolution(tape: Tape, node: Node, gradient: str, *, inner: Shape) -> str:
    """Spread each gradient over what its window saw; strides that fell short at the far edge are made up."""
    image, weights = node.inputs[:2]
    strides, pads = node.integers("strides"), node.integers("pads")
    size, out = tape.shapes[image][2:], tape.shapes[node.output][2:]
    extra = tuple(
        size[axis] - ((out[axis] - 1) * strides[axis] + 1 + inner[axis] - pads[axis + 2]) for axis in (0, 1)
    )
    return tape.op(
        "ConvTranspose",
        [gradient, weights],
        kernel_shape=tape.shapes[weights][2:],
        strides=strides,
        dilations=node.integers("dilations"),
        pads=pads,
        output_padding=extra,
        group=node.integer("group"),
    )


def _weight_gradient(tape: Tape, node: Node, gradient: str) -> str:
    """Multiply, for each group and tap, (out, n*h*w) by (n*h*w, in): what the tap saw, channels in front."""
    if node.integer("group") == 1:
        return weight_gradient(tape, node, gradient)
    image, weights = node.inputs[:2]
    outs, ins, *kernel = tape.shapes[weights]
    rows, _, height, width = tape.shapes[node.output]
    group, places = node.integer("group"), rows * height * width
    strides, dilations = node.integers("strides"), node.integers("dilations")
    columns = tape.op("Transpose", [_padded(tape, image, node.integers("pads"))], perm=(1, 0, 2, 3))
    flat = tape.op("Transpose", [gradient], perm=(1, 0, 2, 3))
    flat = tape.reshape(flat, (group, outs // group, places))
    taps = []
    for row, column in product(range(kernel[0]), range(kernel[1])):
        start = (row * dilations[0], column * dilations[1])
        end = (start[0] + (height - 1) * strides[0] + 1, start[1] + (width - 1) * strides[1] + 1)
        bounds = [tape.ints(*start), tape.ints(*end), tape.ints(2, 3), tape.ints(*strides)]
        seen = tape.reshape(tape.op("Slice", [columns, *bounds]), (group, ins, places))
        tap = tape.op("MatMul", [flat, tape.op("Transpose", [seen], perm=(0, 2, 1))])
        taps.append(tape.reshape(tap, (outs, ins, 1)))
    joined = taps[0] if len(taps) == 1 else tape.op("Concat", taps, axis=2)
    return tape.reshape(joined, tape.shapes[weights])


def _padded(tape: Tape, image: str, pads: Shape) -> str:
    if not any(pads):
        return image
    return tape.op("Pad", [image, tape.ints(0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3])])
