"""How primitives are written as ONNX nodes, where that is more than their name and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from chiron.graph.admitted import INPUT
from chiron.graph.shapes import FAR, batch_axis, bind, has_batch

if TYPE_CHECKING:
    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape


def plainly(tape: Tape, node: Node) -> None:
    """Write the operator of the same name with the same attributes."""
    tape.node(node.operator, node.inputs, node.attributes, name=node.output)


def to_float(tape: Tape, node: Node) -> None:
    """Write Cast to float32."""
    tape.op("Cast", node.inputs, name=node.output, to=TensorProto.FLOAT)


def to_int(tape: Tape, node: Node) -> None:
    """Write Cast to int64."""
    tape.op("Cast", node.inputs, name=node.output, to=TensorProto.INT64)


def power(tape: Tape, node: Node) -> None:
    """Write Pow with its exponent as a constant."""
    tape.op("Pow", [node.inputs[0], tape.scalar(node.number("exponent"))], name=node.output)


def clip(tape: Tape, node: Node) -> None:
    """Write Clip, or for integers its two halves, with bounds as constants."""
    bounds = [node.attributes["low"], node.attributes["high"]]
    if isinstance(bounds[0], int):
        limits = [tape.integer(bound) for bound in bounds if isinstance(bound, int)]
    else:
        limits = [tape.scalar(bound) for bound in bounds if isinstance(bound, float)]
    tape.op("Clip", [node.inputs[0], *limits], name=node.output)


def reduce_sum(tape: Tape, node: Node) -> None:
    """Write ReduceSum with its axes as an operand."""
    axes = tape.ints(*node.integers("axes"))
    tape.op("ReduceSum", [node.inputs[0], axes], name=node.output, keepdims=node.integer("keepdims"))


def average_pool(tape: Tape, node: Node) -> None:
    """Write AveragePool, which has no dilations at this opset."""
    attributes = {name: value for name, value in node.attributes.items() if name != "dilations"}
    tape.node("AveragePool", node.inputs, attributes, name=node.output)


def dropout(tape: Tape, node: Node) -> None:
    """Multiply by a mask that is 0 or 1 / (1 - ratio), an input of the training graph; else do nothing."""
    if tape.drops:
        mask = tape.mask(node.output, node.number("ratio"))
        tape.op("Mul", [node.inputs[0], mask], name=node.output)
    else:
        tape.op("Identity", node.inputs, name=node.output)


def reshape(tape: Tape, node: Node) -> None:
    """Write Reshape; -1 stands for the batch where its size is open."""
    shape = node.integers("shape")
    if tape.batch is None:
        target = tuple(size if size > 0 else -1 for size in shape)
    else:
        target = bind(shape, tape.batch)
    tape.op("Reshape", [node.inputs[0], tape.ints(*target)], name=node.output)


def expand(tape: Tape, node: Node) -> None:
    """Write Expand; where the batch is open, its size is taken from the network's input."""
    tape.op("Expand", [node.inputs[0], _sizes(tape, node.integers("shape"))], name=node.output)


def _sizes(tape: Tape, shape: Shape) -> str:
    if tape.batch is not None or not has_batch(shape):
        return tape.ints(*bind(shape, tape.batch or 1))
    axis = batch_axis(shape)
    rows = tape.op("Slice", [tape.op("Shape", [INPUT]), tape.ints(0), tape.ints(1)])
    many = tape.op("Mul", [rows, tape.ints(-shape[axis])])
    parts = [tape.ints(*shape[:axis])] if axis else []
    parts += [many, *([tape.ints(*shape[axis + 1 :])] if shape[axis + 1 :] else [])]
    return parts[0] if len(parts) == 1 else tape.op("Concat", parts, axis=0)


def cut(tape: Tape, node: Node) -> None:
    """Write Slice with its bounds as operands; one that walks backwards may end before the start."""
    starts, ends, axes, steps = (node.integers(name) for name in ("starts", "ends", "axes", "steps"))
    ends = tuple(-FAR if step < 0 and end < 0 else end for end, step in zip(ends, steps, strict=True))
    bounds = [tape.ints(*values) for values in (starts, ends, axes, steps)]
    tape.op("Slice", [node.inputs[0], *bounds], name=node.output)


def pad(tape: Tape, node: Node) -> None:
    """Write Pad with a constant."""
    value = tape.floats(np.array(node.number("value"), dtype=np.float32))
    tape.op("Pad", [node.inputs[0], tape.ints(*node.integers("pads")), value], name=node.output)
