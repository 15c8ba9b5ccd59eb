"""One gradient rule an operator: from the gradient of its output to those of its inputs.

Each rule is called with the tape, the node, the gradient of its output, and the inputs that need one. The
phrasings are chosen for ONNX Runtime's CPU kernels: a convolution's weight gradient is one GEMM a tap, its
input gradient a convolution with flipped weights where strides allow it, else a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape

Rule = Callable[["Tape", "Node", str, frozenset[str]], None]
_FAR = -(1 << 40)  # "to the start" for a Slice that walks backwards


def _pair(node: Node, name: str) -> tuple[int, int]:
    value = node.attributes.get(name, (1, 1))
    if not isinstance(value, tuple):
        raise TypeError(f"{name} of an admitted node is a tuple")
    return value[0], value[1]


def _pads(node: Node) -> tuple[int, int, int, int]:
    value = node.attributes.get("pads", (0, 0, 0, 0))
    if not isinstance(value, tuple):
        raise TypeError("pads of an admitted node is a tuple")
    return value[0], value[1], value[2], value[3]


def _unbroadcast(tape: Tape, gradient: str, *, result: Shape, shape: Shape) -> str:
    """Sum a gradient over the dimensions along which a tensor of `shape` was broadcast to `result`."""
    lead = len(result) - len(shape)
    axes = [*range(lead), *(lead + i for i, size in enumerate(shape) if size == 1 and result[lead + i] != 1)]
    if axes:
        gradient = tape.op("ReduceSum", [gradient, tape.ints(*axes)], keepdims=1)
    return tape.reshape(gradient, shape) if axes or lead else gradient


def _give(tape: Tape, node: Node, index: int, gradient: str) -> None:
    """Add an elementwise operator's contribution to one of its inputs."""
    tensor = node.inputs[index]
    shape, result = tape.shapes[tensor], tape.shapes[node.output]
    tape.add_gradient(tensor, _unbroadcast(tape, gradient, result=result, shape=shape))


def _add(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    for index, tensor in enumerate(node.inputs):
        if tensor in wanted:
            _give(tape, node, index, gradient)


def _sub(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    left, right = node.inputs
    if left in wanted:
        _give(tape, node, 0, gradient)
    if right in wanted:
        _give(tape, node, 1, tape.op("Neg", [gradient]))


def _mul(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    left, right = node.inputs
    if left in wanted:
        _give(tape, node, 0, tape.op("Mul", [gradient, right]))
    if right in wanted:
        _give(tape, node, 1, tape.op("Mul", [gradient, left]))


def _div(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    left, right = node.inputs
    quotient = tape.op("Div", [gradient, right])
    if left in wanted:
        _give(tape, node, 0, quotient)
    if right in wanted:
        _give(tape, node, 1, tape.op("Neg", [tape.op("Mul", [quotient, node.output])]))


def _relu(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    tape.add_gradient(node.inputs[0], tape.op("Mul", [gradient, tape.op("Sign", [node.output])]))


def _leaky_relu(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    alpha = node.attributes.get("alpha", 0.01)
    positive = tape.op("Greater", [node.inputs[0], tape.floats(0.0)])
    slope = tape.op("Where", [positive, tape.floats(1.0), tape.floats(float(alpha))])  # type: ignore[arg-type]
    tape.add_gradient(node.inputs[0], tape.op("Mul", [gradient, slope]))


def _sigmoid(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    rest = tape.op("Sub", [tape.floats(1.0), node.output])
    tape.add_gradient(node.inputs[0], tape.op("Mul", [gradient, tape.op("Mul", [node.output, rest])]))


def _tanh(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    slope = tape.op("Sub", [tape.floats(1.0), tape.op("Mul", [node.output, node.output])])
    tape.add_gradient(node.inputs[0], tape.op("Mul", [gradient, slope]))


def _matmul(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    rows, weights = node.inputs
    if rows in wanted:
        tape.add_gradient(rows, tape.op("Gemm", [gradient, weights], transB=1))
    if weights in wanted:
        tape.add_gradient(weights, tape.op("Gemm", [rows, gradient], transA=1))


def _gemm(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    rows, weights = node.inputs[:2]
    transposed = node.attributes.get("transB", 0) == 1
    if rows in wanted:
        tape.add_gradient(rows, tape.op("Gemm", [gradient, weights], transB=int(not transposed)))
    if weights in wanted:
        factors = [gradient, rows] if transposed else [rows, gradient]
        tape.add_gradient(weights, tape.op("Gemm", factors, transA=1))
    for bias in node.inputs[2:]:
        if bias in wanted:
            _give(tape, node, 2, gradient)


def _flatten(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    tape.add_gradient(node.inputs[0], tape.reshape(gradient, tape.shapes[node.inputs[0]]))


def _max_pool(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    """Send each gradient back to the place that MaxPool's second output names (no overlapping windows)."""
    shape, kernel = tape.shapes[node.inputs[0]], _pair(node, "kernel_shape")
    inputs = [gradient, f"{node.output}.indices", tape.ints(*shape)]
    tape.add_gradient(node.inputs[0], tape.op("MaxUnpool", inputs, kernel_shape=kernel, strides=kernel))


def _average_pool(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    """Spread each gradient evenly over its window; what the windows leave out at the edges gets none."""
    (rows, channels, height, width), kernel = tape.shapes[node.inputs[0]], _pair(node, "kernel_shape")
    out_height, out_width = tape.shapes[node.output][2:]
    share = tape.op("Mul", [gradient, tape.floats(1.0 / (kernel[0] * kernel[1]))])
    apart = tape.reshape(share, (rows * channels, out_height, 1, out_width, 1))
    spread = tape.op(
        "Expand", [apart, tape.ints(rows * channels, out_height, kernel[0], out_width, kernel[1])]
    )
    covered = tape.reshape(spread, (rows, channels, out_height * kernel[0], out_width * kernel[1]))
    left = (height - out_height * kernel[0], width - out_width * kernel[1])
    if any(left):
        covered = tape.op("Pad", [covered, tape.ints(0, 0, 0, 0, 0, 0, *left)])
    tape.add_gradient(node.inputs[0], covered)


def _global_average_pool(tape: Tape, node: Node, gradient: str, _: frozenset[str]) -> None:
    shape = tape.shapes[node.inputs[0]]
    share = tape.op("Mul", [gradient, tape.floats(1.0 / (shape[2] * shape[3]))])
    tape.add_gradient(node.inputs[0], tape.op("Expand", [share, tape.ints(*shape)]))


def _conv(tape: Tape, node: Node, gradient: str, wanted: frozenset[str]) -> None:
    image, weights = node.inputs[:2]
    if image in wanted:
        tape.add_gradient(image, _conv_input_gradient(tape, node, gradient))
    if weights in wanted:
        tape.add_gradient(weights, _conv_weight_gradient(tape, node, gradient))
    for bias in node.inputs[2:]:
        if bias in wanted:
            tape.add_gradient(bias, tape.op("ReduceSum", [gradient, tape.ints(0, 2, 3)], keepdims=0))


def _conv_input_gradient(tape: Tape, node: Node, gradient: str) -> str:
    image, weights = node.inputs[:2]
    kernel, pads = tape.shapes[weights][2:], _pads(node)
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    spans = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    inner = [spans[0] - pads[0], spans[1] - pads[1], spans[0] - pads[2], spans[1] - pads[3]]
    if strides == (1, 1) and min(inner) >= 0:
        swapped = tape.op("Transpose", [weights], perm=(1, 0, 2, 3))
        bounds = [tape.ints(-1, -1), tape.ints(_FAR, _FAR), tape.ints(2, 3), tape.ints(-1, -1)]
        flipped = tape.op("Slice", [swapped, *bounds])
        return tape.op(
            "Conv", [gradient, flipped], kernel_shape=kernel, pads=tuple(inner), dilations=dilations
        )
    size, out = tape.shapes[image][2:], tape.shapes[node.output][2:]
    extra = tuple(
        size[axis] - ((out[axis] - 1) * strides[axis] + spans[axis] + 1 - pads[axis] - pads[axis + 2])
        for axis in (0, 1)
    )
    return tape.op(
        "ConvTranspose",
        [gradient, weights],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=extra,
    )


def _conv_weight_gradient(tape: Tape, node: Node, gradient: str) -> str:
    """One GEMM a tap over channel-major images: (out, n*h*w) times (n*h*w, in) a place in the kernel."""
    image, weights = node.inputs[:2]
    outs, ins, *kernel = tape.shapes[weights]
    rows, _, height, width = tape.shapes[node.output]
    pads, strides, dilations = _pads(node), _pair(node, "strides"), _pair(node, "dilations")
    padded = image
    if any(pads):
        padded = tape.op("Pad", [image, tape.ints(0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3])])
    columns = tape.op("Transpose", [padded], perm=(1, 0, 2, 3))
    flat = tape.reshape(tape.op("Transpose", [gradient], perm=(1, 0, 2, 3)), (outs, rows * height * width))
    taps = []
    for row, column in product(range(kernel[0]), range(kernel[1])):
        start = (row * dilations[0], column * dilations[1])
        end = (start[0] + (height - 1) * strides[0] + 1, start[1] + (width - 1) * strides[1] + 1)
        bounds = [tape.ints(*start), tape.ints(*end), tape.ints(2, 3), tape.ints(*strides)]
        seen = tape.reshape(tape.op("Slice", [columns, *bounds]), (ins, rows * height * width))
        taps.append(tape.reshape(tape.op("Gemm", [flat, seen], transB=1), (outs, ins, 1)))
    joined = taps[0] if len(taps) == 1 else tape.op("Concat", taps, axis=2)
    return tape.reshape(joined, tape.shapes[weights])


RULES: Mapping[str, Rule] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "Conv": _conv,
}
