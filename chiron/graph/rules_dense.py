"""Gradients of matrix products and of changes of shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.graph.rules_elementwise import give_summed

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape


def matmul(tape: Tape, node: Node, gradient: str) -> None:
    """Y = XW: dX = dY W', dW = X' dY."""
    rows, weights = node.inputs
    if tape.wants(rows):
        tape.give(rows, tape.op("Gemm", [gradient, weights], transB=1))
    if tape.wants(weights):
        tape.give(weights, tape.op("Gemm", [rows, gradient], transA=1))


def gemm(tape: Tape, node: Node, gradient: str) -> None:
    """Y = XW + B, or XW' + B: as `matmul`, and dB is dY summed over what B was broadcast along."""
    rows, weights = node.inputs[:2]
    transposed = node.integer("transB") == 1
    if tape.wants(rows):
        tape.give(rows, tape.op("Gemm", [gradient, weights], transB=int(not transposed)))
    if tape.wants(weights):
        factors = [gradient, rows] if transposed else [rows, gradient]
        tape.give(weights, tape.op("Gemm", factors, transA=1))
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            give_summed(tape, bias, gradient, result=tape.shapes[node.output])


def restore_shape(tape: Tape, node: Node, gradient: str) -> None:
    """Give back the shape that Flatten or Reshape changed."""
    tape.give(node.inputs[0], tape.reshape(gradient, tape.shapes[node.inputs[0]]))
