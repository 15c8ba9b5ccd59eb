"""Writes ONNX models from admitted content: standard operators, one opset, names of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from chiron.graph.admitted import INPUT, LOGITS, AdmittedGraph, AttributeValue, Float32Array
from chiron.graph.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OUTPUT_OPSET, IR_VERSION = 17, 8
RESHAPE = "Reshape"


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
    """Return a model at the one opset this package writes, complete and checked.

    Raises:
        GraphError: ONNX's own checker finds a fault: a defect of this package.
    """
    made = helper.make_graph(list(nodes), "chiron", list(inputs), list(outputs), list(tensors))
    opset = helper.make_opsetid("", OUTPUT_OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="chiron")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError("a model made here breaks ONNX's rules: report it") from error
    return model


def value_info(
    name: str, shape: Sequence[int | str], kind: int = onnx.TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def forward_nodes(graph: AdmittedGraph, batch: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the network's nodes, and the tensors they need besides parameters; `batch` -1 leaves it open."""
    tensors = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    nodes = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        if node.operator == RESHAPE:
            name = f"{node.output}.shape"
            target = np.array([batch, *graph.rows[node.output]], dtype=np.int64)
            tensors.append(numpy_helper.from_array(target, name))
            inputs.append(name)
        nodes.append(make_node(node.operator, inputs, [node.output], node.attributes))
    return nodes, tensors


def inference_model(graph: AdmittedGraph, parameters: Float32Array, *, batch: int | None) -> bytes:
    """Return the network with its parameters inside: input `x`, output `logits`.

    Args:
        graph: the admitted network.
        parameters: float32, shape (parameter_count,).
        batch: rows, or None for any number of them.

    Raises:
        GraphError: the parameters are of another size or dtype.
    """
    nodes, tensors, rows = inference_parts(graph, parameters, batch=batch)
    inputs = [value_info(INPUT, (rows, *graph.spec.input_shape))]
    outputs = [value_info(LOGITS, (rows, graph.spec.classes))]
    encoded: bytes = make_model(nodes, inputs, outputs, tensors=tensors).SerializeToString()
    return encoded


def inference_parts(
    graph: AdmittedGraph, parameters: Float32Array, *, batch: int | None
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], int | str]:
    """Return nodes, tensors and the batch dimension of `inference_model`.

    Raises:
        GraphError: the parameters are of another size or dtype.
    """
    if parameters.shape != graph.initial.shape or parameters.dtype != np.float32:
        raise GraphError(
            f"the network takes {graph.parameter_count} float32 parameters,"
            f" not {parameters.dtype} of shape {parameters.shape}"
        )
    nodes, tensors = forward_nodes(graph, -1 if batch is None else batch)
    for parameter in graph.parameters:
        values = parameters[parameter.span].reshape(parameter.shape)
        tensors.append(numpy_helper.from_array(values, parameter.name))
    return nodes, tensors, "n" if batch is None else batch
