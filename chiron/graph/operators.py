"""The allow-list: every operator a guest's graph may use. What is not here is refused.

A row is all that is known of an operator: operands, attributes, the opsets at which it means the same as at
the one opset this package writes, the shape of its output, its gradient, and the memory that costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph import rules_conv, rules_dense, rules_elementwise, rules_pool, shapes
from chiron.graph.attributes import (
    MAX_GROUPS,
    NOTSET,
    Attribute,
    choice,
    fixed,
    integer,
    integers,
    number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape

OPSETS = range(13, 26)


class Operand(Enum):
    """What may stand in an operand's place."""

    ROWS = "the network's input or a node's output"
    FIXED = "an initializer"
    EITHER = "the network's input, a node's output or an initializer"
    TARGET = "an int64 initializer: the target shape"


def _no_workspace(_: Node, __: Sequence[Shape]) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Operator:
    """One row.

    Args:
        operands: what may stand where; at least one must be rows.
        shape: one row of the output from the operands; raises AdmissionError where they do not fit.
        gradient: writes to the tape what the output's gradient (a tensor's name) gives to each operand.
        attributes: the admitted ones.
        optional: how many operands at the end may be left out.
        opsets: where it means the same as at writer.OUTPUT_OPSET, given the attributes' rules.
        workspace: values a row that the gradient keeps at once, besides tensors and their gradients.
        unfolded: values that a transposed convolution of the gradient unfolds one image to.
    """

    operands: tuple[Operand, ...]
    shape: Callable[[Node, Sequence[shapes.Tensor]], Shape]
    gradient: Callable[[Tape, Node, str], None]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    optional: int = 0
    opsets: range = OPSETS
    workspace: Callable[[Node, Sequence[Shape]], int] = _no_workspace
    unfolded: Callable[[Node, Sequence[Shape]], int] = _no_workspace


def _conv_workspace(node: Node, operands: Sequence[Shape]) -> int:
    """Count the padded image and its transpose, one tap's view of it twice, and the gradient's transpose."""
    channels, height, width = operands[0]
    pads = node.integers("pads")
    padded = channels * (height + pads[0] + pads[2]) * (width + pads[1] + pads[3])
    return 4 * padded + math.prod(operands[-1])


def _conv_unfolded(node: Node, operands: Sequence[Shape]) -> int:
    """Count, for each place of the output, what its window saw of a group's channels."""
    stepped = node.integers("strides") != (1, 1)  # else no transposed convolution
    return math.prod(operands[1][1:]) * math.prod(operands[-1][1:]) if stepped else 0


def _average_unfolded(node: Node, operands: Sequence[Shape]) -> int:
    """Count, for each place of the output, its window; channels go one by one."""
    return math.prod(node.integers("kernel_shape")) * math.prod(operands[-1][1:])


_ROWS, _FIXED, _EITHER = Operand.ROWS, Operand.FIXED, Operand.EITHER
_WINDOW = {
    "strides": integers(2, 1, default=1),
    "pads": integers(4, 0, default=0),
    "auto_pad": fixed(NOTSET),
}
_POOL = {
    **_WINDOW,
    "kernel_shape": integers(2, 1, default=None, required=True),
    "ceil_mode": fixed(0),
    "dilations": fixed((1, 1)),
}

OPERATORS: Mapping[str, Operator] = {
    "Add": Operator((_EITHER, _EITHER), shapes.broadcast, rules_elementwise.add),
    "Sub": Operator((_EITHER, _EITHER), shapes.broadcast, rules_elementwise.sub),
    "Mul": Operator((_EITHER, _EITHER), shapes.broadcast, rules_elementwise.mul),
    "Div": Operator((_EITHER, _EITHER), shapes.broadcast, rules_elementwise.div),
    "Relu": Operator((_ROWS,), shapes.same, rules_elementwise.relu),
    "LeakyRelu": Operator(
        (_ROWS,), shapes.same, rules_elementwise.leaky_relu, {"alpha": number(0.0, 1.0, default=0.01)}
    ),
    "Sigmoid": Operator((_ROWS,), shapes.same, rules_elementwise.sigmoid),
    "Tanh": Operator((_ROWS,), shapes.same, rules_elementwise.tanh),
    "MatMul": Operator((_ROWS, _FIXED), shapes.matmul, rules_dense.matmul),
    "Gemm": Operator(
        (_ROWS, _FIXED, _FIXED),
        shapes.gemm,
        rules_dense.gemm,
        {"alpha": fixed(1.0), "beta": fixed(1.0), "transA": fixed(0), "transB": choice(0, 1)},
        optional=1,
    ),
    "Flatten": Operator((_ROWS,), shapes.flatten, rules_dense.restore_shape, {"axis": fixed(1)}),
    "Reshape": Operator(
        (_ROWS, Operand.TARGET), shapes.same, rules_dense.restore_shape, {"allowzero": fixed(0)}
    ),
    "Conv": Operator(
        (_ROWS, _FIXED, _FIXED),
        shapes.conv,
        rules_conv.conv,
        {
            **_WINDOW,
            "kernel_shape": integers(2, 1, default=None),
            "dilations": integers(2, 1, default=1),
            "group": integer(1, MAX_GROUPS),
        },
        optional=1,
        workspace=_conv_workspace,
        unfolded=_conv_unfolded,
    ),
    "MaxPool": Operator(
        (_ROWS,),
        shapes.pool,
        rules_pool.max_pool,
        {**_POOL, "storage_order": fixed(0)},
        workspace=lambda _, rows: math.prod(rows[0]) + 2 * math.prod(rows[-1]),
    ),
    "AveragePool": Operator(
        (_ROWS,),
        shapes.pool,
        rules_pool.average_pool,
        {**_POOL, "count_include_pad": choice(0, 1)},
        workspace=lambda _, rows: math.prod(rows[0]) + math.prod(rows[-1]),
        unfolded=_average_unfolded,
    ),
    "GlobalAveragePool": Operator((_ROWS,), shapes.global_pool, rules_pool.global_average_pool),
}
