"""Takes out transposes: what lies places first stays so through elementwise operators.

Rules write images as ONNX has them, rows first, and work on planes between two transposes where that is
faster. This pass goes through the finished nodes once: a transpose is written where something reads it, not
before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from chiron.graph.planes import PREFIX, SWAP, swapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.admitted import Shape

ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Clip", "Div", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual"}
    | {"HardSigmoid", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg"}
    | {"Not", "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where"}
)
REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceSum"})


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with fewer transposes; it computes the same values."""
    settler = _Settler(_shapes(model), _integers(model))
    for node in model.graph.node:
        settler.add(node)
    for output in model.graph.output:
        settler.publish(output.name)
    settled = onnx.ModelProto()
    settled.CopyFrom(model)
    del settled.graph.node[:]
    settled.graph.node.extend(settler.nodes)
    settled.graph.initializer.extend(settler.made.values())
    return settled


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    return shapes


def _integers(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the constants that may be a reduction's axes."""
    tensors = [
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64 and len(t.dims) == 1
    ]
    return {tensor.name: tuple(numpy_helper.to_array(tensor).tolist()) for tensor in tensors}


@dataclass(slots=True)
class _Settler:
    """Writes the nodes anew.

    `_stands` says which tensor stands for a name, and whether it is the name's transpose; a name that is not
    there stands for itself. `_turned` knows the transpose of a tensor where it is written. `_planes` names
    what lies places first: where both ways need as many transposes, that one is taken. `_beside` knows
    vectors, repeated for so many rows.
    """

    shapes: Mapping[str, Shape]
    integers: Mapping[str, Shape]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[Shape, onnx.TensorProto] = field(default_factory=dict)
    _stands: dict[str, tuple[str, bool]] = field(default_factory=dict)
    _turned: dict[str, str] = field(default_factory=dict)
    _planes: set[str] = field(default_factory=set)
    _beside: dict[tuple[str, int], str] = field(default_factory=dict)

    def add(self, node: onnx.NodeProto) -> None:
        """Write a node, on transposes where they stand for most of its images; a transpose waits."""
        output = node.output[0]
        if node.op_type == "Transpose" and tuple(node.attribute[0].ints) == SWAP:
            name, turned = self._standing(node.input[0])
            self._stands[output] = name, not turned
            if output.startswith(PREFIX):
                self._planes.add(output)
            return
        if node.op_type in REDUCTIONS and self._reduce_turned(node):
            return
        turned = node.op_type in ELEMENTWISE and self._prefers_turned(node)
        if node.op_type in ELEMENTWISE and self._planes.intersection(node.input):
            self._planes.add(output)
        inputs = [self._read(name, turned=turned, of=output) for name in node.input]
        self._write(node, inputs, turned=turned)

    def _write(self, node: onnx.NodeProto, inputs: list[str], *, turned: bool) -> onnx.NodeProto:
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.input[:] = inputs
        if turned:
            output = node.output[0]
            written.output[0] = written.name = f"{output}.turned"
            self._stands[output] = written.output[0], True
        self.nodes.append(written)
        return written

    def _reduce_turned(self, node: onnx.NodeProto) -> bool:
        """Write a reduction on an image's transpose, if that stands for it and the result has no order."""
        name, is_turned = self._standing(node.input[0])
        options = {option.name: option for option in node.attribute}
        given = tuple(options["axes"].ints) if "axes" in options else self.integers.get(node.input[-1], ())
        axes = {axis % len(SWAP) for axis in given}
        if not is_turned or len(axes) < len(SWAP) - 1:
            return False
        places = tuple(sorted(map(SWAP.index, axes)))
        kept = "keepdims" not in options or options["keepdims"].i == 1
        if "axes" in options:
            written = self._write(node, [name], turned=kept)
            (option,) = (option for option in written.attribute if option.name == "axes")
            option.ints[:] = places
        else:
            self._write(node, [name, self._constant(places)], turned=kept)
        return True

    def publish(self, output: str) -> None:
        """See that one of the model's outputs is written under its own name."""
        if output in self._stands:
            self.nodes.append(
                helper.make_node(
                    "Identity", [self._read(output, turned=False, of=output)], [output], name=output
                )
            )

    def _standing(self, name: str) -> tuple[str, bool]:
        return self._stands.get(name, (name, False))

    def _prefers_turned(self, node: onnx.NodeProto) -> bool:
        """Tell whether fewer images have to be transposed that way; other operands are vectors at most."""
        shape = self.shapes[node.output[0]]
        if len(shape) != len(SWAP):
            return False
        images = [name for name in node.input if self.shapes[name] == shape]
        others = [self.shapes[name] for name in node.input if self.shapes[name] != shape]
        if not images or any(sum(size != 1 for size in other) > 1 for other in others):
            return False
        missing = sum(self._missing(name, turned=True) for name in images)
        otherwise = sum(self._missing(name, turned=False) for name in images)
        return missing < otherwise or (missing == otherwise > 0 and not self._planes.intersection(images))

    def _missing(self, name: str, *, turned: bool) -> bool:
        stands, is_turned = self._standing(name)
        return is_turned is not turned and stands not in self._turned

    def _read(self, name: str, *, turned: bool, of: str) -> str:
        """Return the tensor to read for a name, or for its transpose as an operand of `of`."""
        stands, is_turned = self._standing(name)
        if turned and self.shapes[name] != self.shapes[of]:
            return self._vector(name, of=of)
        if is_turned is turned:
            return stands
        if stands not in self._turned:
            other = f"{stands}.swapped"
            self.nodes.append(helper.make_node("Transpose", [stands], [other], name=other, perm=SWAP))
            self._turned |= {stands: other, other: stands}
        return self._turned[stands]

    def _vector(self, name: str, *, of: str) -> str:
        """Return an operand that broadcasts with an image, laid out to broadcast with its transpose.

        A channel's value is repeated for each row: operators are slow where they repeat few values at a time.
        """
        shape, (stands, is_turned) = self.shapes[name], self._standing(name)
        if math.prod(shape) == 1:
            return stands
        beside = swapped((1,) * (len(SWAP) - len(shape)) + shape)
        rows = self.shapes[of][0] if beside[3] > 1 else 1
        if (name, rows) not in self._beside:
            if not is_turned:
                stands = self._append("Reshape", [stands, self._constant(beside)], f"{name}.beside.{rows}")
            if rows > 1:
                repeated = self._constant((1, 1, rows, beside[3]))
                stands = self._append("Expand", [stands, repeated], f"{name}.rows.{rows}")
            self._beside[name, rows] = stands
        return self._beside[name, rows]

    def _append(self, operator: str, inputs: list[str], output: str) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output))
        return output

    def _constant(self, values: Shape) -> str:
        if values not in self.made:
            tensor = numpy_helper.from_array(np.array(values, dtype=np.int64), f"t{len(self.made)}")
            self.made[values] = tensor
        name: str = self.made[values].name
        return name
