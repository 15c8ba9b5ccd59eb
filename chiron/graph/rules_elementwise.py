"""Gradients of elementwise operators. A rule writes to the tape what its node's output gradient gives on."""

from __future__ import annotations

import math
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


def where(tape: Tape, node: Node, gradient: str) -> None:
    """Pass to the operand that was chosen."""
    condition, left, right = node.inputs
    for index, tensor in ((1, left), (2, right)):
        if tape.wants(tensor):
            chosen = [gradient, tape.scalar(0.0)] if index == 1 else [tape.scalar(0.0), gradient]
            _give(tape, node, index, tape.op("Where", [condition, *chosen]))


def neg(tape: Tape, node: Node, gradient: str) -> None:
    """d(-a) = -da."""
    tape.give(node.inputs[0], tape.op("Neg", [gradient]))


def absolute(tape: Tape, node: Node, gradient: str) -> None:
    """Pass with the operand's sign (nothing at 0)."""
    tape.give(node.inputs[0], tape.op("Mul", [gradient, tape.op("Sign", [node.inputs[0]])]))


def exp(tape: Tape, node: Node, gradient: str) -> None:
    """Use exp' = exp."""
    tape.give(node.inputs[0], tape.op("Mul", [gradient, node.output]))


def log(tape: Tape, node: Node, gradient: str) -> None:
    """Use log' = 1 / a."""
    tape.give(node.inputs[0], tape.op("Div", [gradient, node.inputs[0]]))


def sqrt(tape: Tape, node: Node, gradient: str) -> None:
    """Use sqrt' = 1 / (2 sqrt)."""
    twice = tape.op("Mul", [node.output, tape.scalar(2.0)])
    tape.give(node.inputs[0], tape.op("Div", [gradient, twice]))


def erf(tape: Tape, node: Node, gradient: str) -> None:
    """Use erf' = 2 / sqrt(pi) exp(-a^2)."""
    square = tape.op("Mul", [node.inputs[0], node.inputs[0]])
    bell = tape.op("Mul", [tape.op("Exp", [tape.op("Neg", [square])]), tape.scalar(2 / math.sqrt(math.pi))])
    tape.give(node.inputs[0], tape.op("Mul", [gradient, bell]))


def power(tape: Tape, node: Node, gradient: str) -> None:
    """Use (a^e)' = e a^(e-1), the exponent a constant."""
    exponent = node.number("exponent")
    slope = tape.op(
        "Mul", [tape.op("Pow", [node.inputs[0], tape.scalar(exponent - 1)]), tape.scalar(exponent)]
    )
    tape.give(node.inputs[0], tape.op("Mul", [gradient, slope]))


def clip(tape: Tape, node: Node, gradient: str) -> None:
    """Pass where nothing was clipped, the bounds included."""
    source = node.inputs[0]
    over = tape.op("GreaterOrEqual", [source, tape.scalar(node.number("low"))])
    under = tape.op("LessOrEqual", [source, tape.scalar(node.number("high"))])
    tape.give(source, tape.op("Where", [tape.op("And", [over, under]), gradient, tape.scalar(0.0)]))


def dropout(tape: Tape, node: Node, gradient: str) -> None:
    """Multiply by the mask of the forward pass."""
    mask = tape.mask(node.output, node.number("ratio"))
    tape.give(node.inputs[0], tape.op("Mul", [gradient, mask]))


def relu(tape: Tape, node: Node, gradient: str) -> None:
    """Pass where the output is positive (nothing at 0); the input need not be kept for it."""
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
