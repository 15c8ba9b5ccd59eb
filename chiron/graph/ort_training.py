"""The engine on onnxruntime-training 1.19.2, which builds gradient graphs itself and has kernels of its own.

Its builder is called in the extension module: nothing of the package `onnxruntime.training` is imported, so
PyTorch, Cerberus and h5py, which that imports, are not needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from chiron.graph.engine import SessionEngine
from chiron.graph.errors import GraphError
from chiron.graph.gradient import LOSS, fixed_tensors, gradient_name, step_inputs
from chiron.graph.runtime import differentiate
from chiron.graph.tape import make_node
from chiron.graph.write_loss import write_loss
from chiron.graph.writer import make_model, tape_of, value_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chiron.graph.admitted import AdmittedGraph
    from chiron.graph.tape import Tape

FIRST_PLACE = "first-place"
# No gradient, or no kernel of it. BatchNormalization is written so only where its statistics are fixed.
MISSING = frozenset({"BatchNormalization", "ConvTranspose", "ReduceMax"})
MAX_UNFOLDED_BYTES = 1 << 30
FLOAT_BYTES = 4
_SUFFIX = "_grad"  # the builder's name for the gradient of a tensor


class OrtTrainingEngine(SessionEngine):
    """The gradient graph that onnxruntime-training makes of an admitted graph, run as a plain session."""

    def __init__(self, graph: AdmittedGraph, *, batch: int, threads: int) -> None:
        """Build the gradient graph and load it.

        Raises:
            GraphError: onnxruntime-training is not installed, has no gradient for an operator, or a
                convolution unfolds an image to over MAX_UNFOLDED_BYTES.
        """
        model = ort_training_model(graph, batch=batch)
        super().__init__(graph, model, batch=batch, threads=threads)


def ort_training_model(graph: AdmittedGraph, *, batch: int) -> bytes:
    """Return an ONNX model for one training step, with the inputs and outputs of `training_model`.

    Raises:
        ValueError: the batch is empty.
        GraphError: as for `OrtTrainingEngine`.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    _check_unfolded(graph)
    tape = tape_of(graph, batch=batch, training=True)
    if missing := missing_operators(tape):
        raise GraphError(f"onnxruntime-training has no gradient of {missing[0]}: use the stock engine")
    total = write_loss(tape, graph.loss, classes=graph.spec.classes, batch=batch)
    tape.publish({LOSS: total})
    names = {parameter.name for parameter in graph.trained}
    model = onnx.load_from_string(
        differentiate(_loss_model(graph, tape, batch=batch), loss=LOSS, wanted=names)
    )
    _keep_indices_inside(model.graph)
    _rename(model.graph, {f"{name}{_SUFFIX}": gradient_name(name) for name in names})
    encoded: bytes = model.SerializeToString()
    return encoded


def _loss_model(graph: AdmittedGraph, tape: Tape, *, batch: int) -> bytes:
    """Return the network with its loss; what the tape holds of the loss's gradient is left out."""
    nodes = _leading_to(LOSS, tape.nodes)
    tensors = [*tape.tensors, *fixed_tensors(graph, nodes)]
    inputs = step_inputs(graph, tape, batch=batch)
    model = make_model(nodes, inputs, [value_info(LOSS, ())], tensors=tensors)
    encoded: bytes = model.SerializeToString()
    return encoded


def _leading_to(output: str, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes that an output needs, in their order."""
    needed, kept = {output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _keep_indices_inside(graph: onnx.GraphProto) -> None:
    """Have MaxPool's gradient write inside its tensor, whatever the values are.

    Of a window of nothing but NaN or minus infinity, 1.19.2's MaxPool says that the largest value lies before
    the tensor's first, and MaxPoolGrad adds to whatever memory is there.
    """
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.int64), FIRST_PLACE))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "MaxPoolGrad":
            inside = f"{node.input[1]}.inside"
            graph.node.append(make_node("Max", [node.input[1], FIRST_PLACE], [inside], {}))
            node.input[1] = inside
        graph.node.append(node)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for own in (node.input, node.output):
            own[:] = [names.get(name, name) for name in own]
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def missing_operators(tape: Tape) -> list[str]:
    """Return the operators of a network, written for training, that this engine cannot differentiate."""
    return sorted({n.op_type for n in tape.nodes if n.op_type in MISSING and tape.wants(n.output[0])})


def _check_unfolded(graph: AdmittedGraph) -> None:
    """Bound what admission does not count: ConvGrad lays what each window sees of one image side by side."""
    shapes = graph.shapes(1)
    for node in graph.nodes:
        if node.operator == "Conv":
            seen, places = shapes[node.inputs[1]][1:], shapes[node.output][2:]
            used = FLOAT_BYTES * math.prod(seen) * math.prod(places)
            if used > MAX_UNFOLDED_BYTES:
                text = f"onnxruntime-training unfolds an image to {used} bytes, over {MAX_UNFOLDED_BYTES}"
                raise GraphError(f"{text}: shrink the convolution, or use the stock engine")
