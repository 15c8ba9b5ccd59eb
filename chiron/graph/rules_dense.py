"""Gradients of matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chiron.graph.rules_elementwise import give_summed

if TYPE_CHECKING:
    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape


def matmul(tape: Tape, node: Node, gradient: str) -> None:
    """Y = AB: dA = dY B', dB = A' dY, summed over what was broadcast."""
    left, right = node.inputs
    if len(tape.shapes[right]) == 2:  # noqa: PLR2004  a matrix: one large product
        _by_matrix(tape, node, gradient)
        return
    if tape.wants(left):
        part = tape.op("MatMul", [gradient, _turned(tape, right)])
        give_summed(tape, left, part, result=_stacked(tape, node, left))
    if tape.wants(right):
        part = tape.op("MatMul", [_turned(tape, left), gradient])
        give_summed(tape, right, part, result=_stacked(tape, node, right))


def _by_matrix(tape: Tape, node: Node, gradient: str) -> None:
    left, right = node.inputs
    shape, (inner, outer) = tape.shapes[left], tape.shapes[right]
    flat = len(shape) == 2  # noqa: PLR2004
    rows = math.prod(shape[:-1])
    outs = gradient if flat else tape.reshape(gradient, (rows, outer))
    if tape.wants(left):
        part = tape.op("Gemm", [outs, right], transB=1)
        tape.give(left, part if flat else tape.reshape(part, shape))
    if tape.wants(right):
        ins = left if flat else tape.reshape(left, (rows, inner))
        tape.give(right, tape.op("Gemm", [ins, outs], transA=1))


def _turned(tape: Tape, name: str) -> str:
    rank = len(tape.shapes[name])
    return tape.op("Transpose", [name], perm=(*range(rank - 2), rank - 1, rank - 2))


def _stacked(tape: Tape, node: Node, operand: str) -> Shape:
    """Return an operand's shape with the stacking of the result."""
    return (*tape.shapes[node.output][:-2], *tape.shapes[operand][-2:])


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
