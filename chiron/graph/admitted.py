"""The admitted graph: checked content under names of our own. The guest's own bytes go no further."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from chiron.graph.operators import IR_VERSION, OUTPUT_OPSET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chiron.graph.operators import AttributeValue

Float32Array = np.ndarray[Any, np.dtype[np.float32]]
INPUT, LOGITS = "x", "logits"
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What the data set demands of a graph: one row's shape, and the number of targets."""

    input_shape: Shape
    classes: int


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """The most a graph may be. `max_activation_values` counts the values of all tensors for one row."""

    max_bytes: int
    max_parameters: int
    max_nodes: int = 1024
    max_activation_values: int = 1 << 24


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: its inputs, one output and its attributes."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A trainable tensor and its place in the flat vector, in float32 values."""

    name: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class AdmittedGraph:
    """A network: input `x` (n, *input_shape), output `logits` (n, classes).

    `initial` is float32 of shape (parameter_count,); `constants` are float32; `reshapes` holds one
    row's shape for the output of each Reshape.
    """

    spec: TensorSpec
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...]
    initial: Float32Array
    constants: Mapping[str, Float32Array]
    reshapes: Mapping[str, Shape]

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return int(self.initial.size)


def forward_nodes(graph: AdmittedGraph, batch: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes, and the tensors they need besides parameters; `batch` -1 leaves it open."""
    tensors = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    nodes = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        if node.operator == "Reshape":
            name = f"{node.output}.shape"
            target = np.array([batch, *graph.reshapes[node.output]], dtype=np.int64)
            tensors.append(numpy_helper.from_array(target, name))
            inputs.append(name)
        nodes.append(make_node(node.operator, inputs, [node.output], node.attributes))
    return nodes, tensors


def make_node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, AttributeValue]
) -> onnx.NodeProto:
    """Return a node named after its first output."""
    options: dict[str, Any] = dict(attributes)
    return helper.make_node(operator, list(inputs), list(outputs), name=outputs[0], **options)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    tensors: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a model of standard operators at the one opset this package writes."""
    made = helper.make_graph(list(nodes), "chiron", list(inputs), list(outputs), list(tensors))
    opset = helper.make_opsetid("", OUTPUT_OPSET)
    return helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="chiron")


def value_info(
    name: str, shape: Sequence[int | str], kind: int = onnx.TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def forward_model(graph: AdmittedGraph, batch: int) -> onnx.ModelProto:
    """Return the network for a fixed batch size, with its parameters as inputs."""
    nodes, tensors = forward_nodes(graph, batch)
    inputs = [value_info(INPUT, (batch, *graph.spec.input_shape))]
    inputs += [value_info(p.name, p.shape) for p in graph.parameters]
    outputs = [value_info(LOGITS, (batch, graph.spec.classes))]
    return make_model(nodes, inputs, outputs, tensors=tensors)


def infer_shapes(graph: AdmittedGraph, batch: int) -> dict[str, Shape]:
    """Return every tensor's shape for a fixed batch size.

    Raises:
        onnx.shape_inference.InferenceError: two shapes do not fit.
    """
    model = shape_inference.infer_shapes(forward_model(graph, batch), check_type=True, strict_mode=True)
    declared = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in declared}
    return shapes | {name: array.shape for name, array in graph.constants.items()}
