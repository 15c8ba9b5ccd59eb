"""Builds the training graph: loss and the gradient of every parameter, in standard ONNX operators."""

from __future__ import annotations

from onnx import TensorProto

from chiron.graph.admitted import INPUT, LOGITS, AdmittedGraph
from chiron.graph.errors import GraphError
from chiron.graph.operators import OPERATORS
from chiron.graph.rules_pool import indices_name
from chiron.graph.tape import Tape
from chiron.graph.writer import forward_nodes, make_model, value_info

TARGETS, LOSS = "y", "loss"


def gradient_name(parameter: str) -> str:
    """Return the name of the output that holds a parameter's gradient."""
    return f"d.{parameter}"


def training_model(graph: AdmittedGraph, *, batch: int) -> bytes:
    """Return an ONNX model for one training step of a fixed batch size.

    Inputs: `x` float32 (batch, *shape), `y` int64 (batch,), every parameter. Outputs: `loss`, float32 scalar,
    the batch's mean softmax cross-entropy, and `d.NAME` for every parameter. A target outside the classes
    counts as no class: its row adds nothing to the loss.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    tape = Tape(graph.shapes(batch), wanted=_wanted(graph))
    forward, tensors = forward_nodes(graph, batch)
    for node in forward:
        if node.op_type == "MaxPool" and tape.wants(node.output[0]):
            node.output.append(indices_name(node.output[0]))
    loss = _loss(tape, graph.spec.classes, batch)
    for admitted in reversed(graph.nodes):
        gradient = tape.gradient(admitted.output)
        if gradient is not None and tape.wants(admitted.output):
            OPERATORS[admitted.operator].gradient(tape, admitted, gradient)
    totals = {gradient_name(p.name): _total(tape, p.name) for p in graph.parameters}
    tape.publish({LOSS: loss, **totals})
    inputs = [
        value_info(INPUT, (batch, *graph.spec.input_shape)),
        value_info(TARGETS, (batch,), TensorProto.INT64),
        *(value_info(p.name, p.shape) for p in graph.parameters),
    ]
    outputs = [value_info(LOSS, ()), *(value_info(gradient_name(p.name), p.shape) for p in graph.parameters)]
    model = make_model([*forward, *tape.nodes], inputs, outputs, tensors=[*tensors, *tape.tensors])
    encoded: bytes = model.SerializeToString()
    return encoded


def _total(tape: Tape, parameter: str) -> str:
    gradient = tape.gradient(parameter)
    if gradient is None:
        raise GraphError("a parameter does not lead to the logits: admit the graph anew")
    return gradient


def _loss(tape: Tape, classes: int, batch: int) -> str:
    """Write mean softmax cross-entropy and give the logits their gradient; return the loss's name.

    Source: LogSoftmax subtracts the largest logit first; its gradient is softmax minus the target's one.
    """
    logs = tape.op("LogSoftmax", [LOGITS], axis=1)
    columns = tape.op("Unsqueeze", [TARGETS, tape.ints(1)])
    is_target = tape.op("Equal", [columns, tape.ints(*range(classes))])
    hot = tape.op("Cast", [is_target], to=TensorProto.FLOAT)
    valid = tape.op("ReduceSum", [hot, tape.ints(1)], keepdims=1)
    difference = tape.op("Sub", [tape.op("Mul", [tape.op("Exp", [logs]), valid]), hot])
    tape.give(LOGITS, tape.op("Mul", [difference, tape.scalar(1.0 / batch)]))
    chosen = tape.op("Where", [is_target, logs, tape.scalar(0.0)])  # 0 times minus infinity would be NaN
    return tape.op("Mul", [tape.op("ReduceSum", [chosen], keepdims=0), tape.scalar(-1.0 / batch)])


def _wanted(graph: AdmittedGraph) -> frozenset[str]:
    """Return the tensors on a path from a parameter to the logits."""
    wanted = {parameter.name for parameter in graph.parameters}
    for node in graph.nodes:
        if wanted.intersection(node.inputs):
            wanted.add(node.output)
    return frozenset(wanted)
