"""Gradients of reductions and of softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import TensorProto

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape


def _kept(tape: Tape, node: Node, name: str) -> str:
    """Return a reduction's output or its gradient with the reduced axes as 1."""
    shape, axes = tape.shapes[node.inputs[0]], node.integers("axes")
    if node.integer("keepdims"):
        return name
    return tape.reshape(name, [1 if axis in axes else size for axis, size in enumerate(shape)])


def reduce_sum(tape: Tape, node: Node, gradient: str) -> None:
    """Give the same to all that were summed."""
    sizes = tape.ints(*tape.shapes[node.inputs[0]])
    tape.give(node.inputs[0], tape.op("Expand", [_kept(tape, node, gradient), sizes]))


def reduce_mean(tape: Tape, node: Node, gradient: str) -> None:
    """Give an equal share to all that were averaged."""
    shape = tape.shapes[node.inputs[0]]
    count = math.prod(shape[axis] for axis in node.integers("axes"))
    share = tape.op("Mul", [_kept(tape, node, gradient), tape.scalar(1.0 / count)])
    tape.give(node.inputs[0], tape.op("Expand", [share, tape.ints(*shape)]))


def reduce_max(tape: Tape, node: Node, gradient: str) -> None:
    """Share among those that are the maximum, equally where several are."""
    largest = _kept(tape, node, node.output)
    hit = tape.op("Cast", [tape.op("Equal", [node.inputs[0], largest])], to=TensorProto.FLOAT)
    count = tape.op("ReduceSum", [hit, tape.ints(*node.integers("axes"))], keepdims=1)
    share = tape.op("Div", [_kept(tape, node, gradient), count])
    tape.give(node.inputs[0], tape.op("Mul", [share, hit]))


def softmax(tape: Tape, node: Node, gradient: str) -> None:
    """Use dx = y (dy - sum(y dy))."""
    axis = tape.ints(node.integer("axis"))
    total = tape.op("ReduceSum", [tape.op("Mul", [gradient, node.output]), axis], keepdims=1)
    tape.give(node.inputs[0], tape.op("Mul", [tape.op("Sub", [gradient, total]), node.output]))


def log_softmax(tape: Tape, node: Node, gradient: str) -> None:
    """Use dx = dy - exp(y) sum(dy)."""
    total = tape.op("ReduceSum", [gradient, tape.ints(node.integer("axis"))], keepdims=1)
    share = tape.op("Mul", [tape.op("Exp", [node.output]), total])
    tape.give(node.inputs[0], tape.op("Sub", [gradient, share]))
