"""Gradients of elementwise operators. A rule writes to the tape what its node's output gradient gives on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape


def give_summed(tape: Tape, tensor: str, gradient: str, *, result: tuple[int, ...]) -> None:
    """Give a gradient of shape `result` to a tensor that was broadcast to it: summed where it was."""
    shape = tape.shapes[tensor]
    lead = len(result) - len(shape)
    axes = [*range(lead), *(lead + i for i, size in enumerate(shape) if size == 1 and result[lead + i] != 1)]
    if axes:
        gradient = tape.op("ReduceSum", [gradient, tape.ints(*axes)], keepdims=1)
    tape.give(tensor, tape.reshape(gradient, shape) if lead else gradient)


def _give(tape: Tape, node: Node, index: int, gradient: str) -> None:
    give_summed(tape, node.inputs[index], gradient, result=tape.shapes[node.output])


def add(tape: Tape, node: Node, gradient: str) -> None:
    """d(a + b) = da + db."""
    for index, tensor in enumerate(node.inputs):
        if tape.wants(tensor):
            _give(tape, node, index, gradient)


def sub(tape: Tape, node: Node, gradient: str) -> None:
    """d(a - b) = da - db."""
    left, right = node.inputs
    if tape.wants(left):
        _give(tape, node, 0, gradient)
    if tape.wants(right):
        _give(tape, node, 1, tape.op("Neg", [gradient]))


def mul(tape: Tape, node: Node, gradient: str) -> None:
    """d(ab) = b da + a db."""
    left, right = node.inputs
    if tape.wants(left):
        _give(tape, node, 0, tape.op("Mul", [gradient, right]))
    if tape.wants(right):
        _give(tape, node, 1, tape.op("Mul", [gradient, left]))


def div(tape: Tape, node: Node, gradient: str) -> None:
    """d(a / b) = da / b - (a / b) db / b."""
    left, right = node.inputs
    quotient = tape.op("Div", [gradient, right])
    if tape.wants(left):
        _give(tape, node, 0, quotient)
    if tape.wants(right):
        _give(tape, node, 1, tape.op("Neg", [tape.op("Mul", [quotient, node.output])]))


def relu(tape: Tape, node: Node, gradient: str) -> None:
    """Pass where the output is positive (nothing at 0). It reads the output alone, so Conv can fuse Relu."""
    positive = tape.op("Greater", [node.output, tape.scalar(0.0)])
    slope = tape.op("Cast", [positive], to=TensorProto.FLOAT)  # faster than Sign, and than Where
    tape.give(node.inputs[0], tape.op("Mul", [gradient, slope]))


def leaky_relu(tape: Tape, node: Node, gradient: str) -> None:
    """Pass where the input is positive, else times alpha."""
    positive = tape.op("Greater", [node.inputs[0], tape.scalar(0.0)])
    leaked = tape.op("Mul", [gradient, tape.scalar(node.number("alpha"))])
    tape.give(node.inputs[0], tape.op("Where", [positive, gradient, leaked]))


def sigmoid(tape: Tape, node: Node, gradient: str) -> None:
    """Use s' = s (1 - s)."""
    rest = tape.op("Sub", [tape.scalar(1.0), node.output])
    tape.give(node.inputs[0], tape.op("Mul", [gradient, tape.op("Mul", [node.output, rest])]))


def tanh(tape: Tape, node: Node, gradient: str) -> None:
    """Use t' = 1 - t^2."""
    slope = tape.op("Sub", [tape.scalar(1.0), tape.op("Mul", [node.output, node.output])])
    tape.give(node.inputs[0], tape.op("Mul", [gradient, slope]))
