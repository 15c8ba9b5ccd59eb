"""Builds the training graph: loss and the gradient of every parameter, in standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, numpy_helper

from chiron.graph.admitted import INPUT, AdmittedGraph
from chiron.graph.layout import settle
from chiron.graph.primitives import PRIMITIVES
from chiron.graph.tape import mask_name
from chiron.graph.write_loss import TARGETS, write_loss
from chiron.graph.writer import make_model, tape_of, value_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from chiron.graph.admitted import Parameter
    from chiron.graph.tape import Tape

LOSS = "loss"


def gradient_name(parameter: str) -> str:
    """Return the name of the output that holds a parameter's gradient."""
    return f"d.{parameter}"


def training_model(graph: AdmittedGraph, *, batch: int) -> bytes:
    """Return an ONNX model for one training step of a fixed batch size.

    Inputs: `x` float32 (batch, *shape), `y` int64 (batch,), every trained parameter, a mask for every
    dropout. Outputs: `loss`, float32 scalar, the batch's mean loss, and `d.NAME` for every trained parameter.
    A target outside the classes counts as no class: its row adds nothing to the loss.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    tape = tape_of(graph, batch=batch, training=True, phrased=True)
    total = write_loss(tape, graph.loss, classes=graph.spec.classes, batch=batch)
    for node in reversed(graph.nodes):
        gradient = tape.gradient(node.output)
        if gradient is not None and tape.wants(node.output):
            PRIMITIVES[node.operator].gradient(tape, node, gradient)
    totals = {gradient_name(p.name): _total(tape, p) for p in graph.trained}
    tape.publish({LOSS: total, **totals})
    outputs = [value_info(LOSS, ()), *(value_info(gradient_name(p.name), p.shape) for p in graph.trained)]
    tensors = [*tape.tensors, *fixed_tensors(graph, tape.nodes)]
    model = settle(make_model(tape.nodes, step_inputs(graph, tape, batch=batch), outputs, tensors=tensors))
    encoded: bytes = model.SerializeToString()
    return encoded


def step_inputs(graph: AdmittedGraph, tape: Tape, *, batch: int) -> list[onnx.ValueInfoProto]:
    """Return what a training step is given: rows, targets, trained parameters, a mask for each dropout."""
    return [
        value_info(INPUT, (batch, *graph.spec.input_shape)),
        value_info(TARGETS, (batch,), TensorProto.INT64),
        *(value_info(p.name, p.shape) for p in graph.trained),
        *(value_info(mask_name(output), tape.shapes[output]) for output in tape.masks),
    ]


def fixed_tensors(graph: AdmittedGraph, nodes: Sequence[onnx.NodeProto]) -> list[onnx.TensorProto]:
    """Return the initial values of the parameters that these nodes read and training leaves alone."""
    used = {name for node in nodes for name in node.input}
    fixed = [p for p in graph.parameters if not p.trained and p.name in used]
    return [numpy_helper.from_array(graph.initial[p.span].reshape(p.shape), p.name) for p in fixed]


def _total(tape: Tape, parameter: Parameter) -> str:
    """Return a parameter's gradient: 0 where it leads to the logits by steps alone, such as rounding."""
    gradient = tape.gradient(parameter.name)
    if gradient is None:
        return tape.op("Expand", [tape.scalar(0.0), tape.ints(*parameter.shape)])
    return gradient
