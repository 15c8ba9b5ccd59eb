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
        part = tape.op("MatMul", [gradient, _transposed(tape, right)])
        give_summed(tape, left, part, result=_stacked(tape, node, left))
    if tape.wants(right):
        part = tape.op("MatMul", [_transposed(tape, left), gradient])
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
        tape.give(right, _product_over_rows(tape, ins, outs))


def _transposed(tape: Tape, name: str) -> str:
    rank = len(tape.shapes[name])
    return tape.op("Transpose", [name], perm=(*range(rank - 2), rank - 1, rank - 2))


def _stacked(tape: Tape, node: Node, operand: str) -> Shape:
    """Return an operand's shape with the stacking of the result."""
    return (*tape.shapes[node.output][:-2], *tape.shapes[operand][-2:])


def write_gemm(tape: Tape, node: Node) -> None:
    """Write Gemm, or where `_faster_transposed` says so, its transpose and a Transpose."""
    if not _faster_transposed(tape, node):
        tape.node("Gemm", node.inputs, node.attributes, name=node.output)
        return
    rows, weights, *bias = node.inputs
    columns = [tape.reshape(name, (-1, 1)) for name in bias]
    product = tape.op("Gemm", [weights, rows, *columns], transB=1)
    tape.op("Transpose", [product], name=node.output, perm=(1, 0))


def _faster_transposed(tape: Tape, node: Node) -> bool:
    """Tell whether W X' is faster than X W'.

    ONNX Runtime reads the left operand as it lies and copies the right one, so the larger one stands on the
    left; but weights that never change it copies once.
    """
    rows, outs = tape.shapes[node.output]
    vectors = all((1, *tape.shapes[name])[-2:] == (1, outs) for name in node.inputs[2:])
    return tape.phrased and tape.training and node.integer("transB") == 1 and outs > rows and vectors


def gemm(tape: Tape, node: Node, gradient: str) -> None:
    """Y = XW + B, or XW' + B: as `matmul`, and dB is dY summed over what B was broadcast along."""
    rows, weights = node.inputs[:2]
    transposed = node.integer("transB") == 1
    if tape.wants(rows):
        tape.give(rows, tape.op("Gemm", [gradient, weights], transB=int(not transposed)))
    if tape.wants(weights):
        tape.give(weights, _product_over_rows(tape, *([gradient, rows] if transposed else [rows, gradient])))
    for bias in node.inputs[2:]:
        if tape.wants(bias):
            give_summed(tape, bias, gradient, result=tape.shapes[node.output])


def _product_over_rows(tape: Tape, left: str, right: str) -> str:
    """Return A' B. A transpose of its own is faster than Gemm's, which turns A again for each block of B."""
    return tape.op("Gemm", [tape.op("Transpose", [left], perm=(1, 0)), right])
