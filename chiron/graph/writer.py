"""Writes ONNX models from admitted content: standard operators, one opset, names of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from chiron.graph.admitted import INPUT, LOGITS, AdmittedGraph, Float32Array
from chiron.graph.errors import GraphError
from chiron.graph.folding import fold_normalization
from chiron.graph.primitives import PRIMITIVES
from chiron.graph.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chiron.graph.admitted import Node

OUTPUT_OPSET, IR_VERSION = 17, 8


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


def tape_of(
    graph: AdmittedGraph,
    *,
    batch: int | None,
    training: bool,
    drops: bool = True,
    phrased: bool = False,
    nodes: Sequence[Node] = (),
    fixed: Mapping[str, Float32Array] | None = None,
) -> Tape:
    """Write the network's own nodes to a new tape.

    Args:
        graph: the admitted network.
        batch: rows, or None for any number of them.
        training: whether layers act as in training.
        drops: whether dropout does, too.
        phrased: whether convolutions, pools and, in training, dense layers are written as is fastest for
            many rows.
        nodes: other nodes to write in place of the network's.
        fixed: values to write into the model, by the names that nodes read.
    """
    wanted = {parameter.name for parameter in graph.trained}
    for node in graph.nodes:
        if PRIMITIVES[node.operator].differentiable and wanted.intersection(node.inputs):
            wanted.add(node.output)
    shapes = graph.shapes(batch or 1) | {name: array.shape for name, array in (fixed or {}).items()}
    tape = Tape(shapes, wanted=frozenset(wanted), batch=batch, training=training)
    tape.drops = training and drops
    tape.phrased = phrased
    tape.tensors.extend(numpy_helper.from_array(array, name) for name, array in graph.constants.items())
    tape.tensors.extend(numpy_helper.from_array(array, name) for name, array in (fixed or {}).items())
    for node in nodes or graph.nodes:
        PRIMITIVES[node.operator].write(tape, node)
    return tape


def inference_model(graph: AdmittedGraph, parameters: Float32Array, *, batch: int | None) -> bytes:
    """Return the network with its parameters inside: input `x`, output `logits`.

    Args:
        graph: the admitted network.
        parameters: float32, shape (parameter_count,).
        batch: rows, or None for any number of them.

    Raises:
        GraphError: the parameters are of another size or dtype.
    """
    tape = inference_tape(graph, parameters, batch=batch)
    encoded: bytes = finished(tape, graph, output=LOGITS).SerializeToString()
    return encoded


def inference_tape(
    graph: AdmittedGraph, parameters: Float32Array, *, batch: int | None, phrased: bool = False
) -> Tape:
    """Return the network as it is served, its parameters inside, normalisation folded into convolutions.

    Raises:
        GraphError: the parameters are of another size or dtype.
    """
    if parameters.shape != graph.initial.shape or parameters.dtype != np.float32:
        raise GraphError(
            f"the network takes {graph.parameter_count} float32 parameters,"
            f" not {parameters.dtype} of shape {parameters.shape}"
        )
    values = {p.name: parameters[p.span].reshape(p.shape) for p in graph.parameters}
    nodes, fixed = fold_normalization(graph, values)
    return tape_of(graph, batch=batch, training=False, phrased=phrased, nodes=nodes, fixed=fixed)


def finished(tape: Tape, graph: AdmittedGraph, *, output: str) -> onnx.ModelProto:
    """Return a tape as a model with input `x` and one output (n, classes)."""
    rows = "n" if tape.batch is None else tape.batch
    inputs = [value_info(INPUT, (rows, *graph.spec.input_shape))]
    outputs = [value_info(output, (rows, graph.spec.classes))]
    return make_model(tape.nodes, inputs, outputs, tensors=tape.tensors)
