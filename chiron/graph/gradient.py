"""Builds the training graph: loss and the gradient of every parameter, in standard ONNX operators."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from chiron.graph.admitted import (
    INPUT,
    LOGITS,
    AdmittedGraph,
    forward_nodes,
    infer_shapes,
    make_model,
    value_info,
)
from chiron.graph.rules import RULES
from chiron.graph.tape import Tape

TARGETS, LOSS = "y", "loss"


def gradient_name(parameter: str) -> str:
    """Return the name of the output that holds a parameter's gradient."""
    return f"d.{parameter}"


def training_model(graph: AdmittedGraph, *, batch: int) -> bytes:
    """Return an ONNX model for one training step of a fixed batch size.

    Inputs: `x` float32 (batch, *shape), `y` int64 (batch,), every parameter. Outputs: `loss`, float32 scalar,
    the batch's mean softmax cross-entropy, and `d.NAME` for every parameter. A target outside the classes
    counts as no class: its row adds nothing to the loss.
    """
    tape = Tape(infer_shapes(graph, batch))
    forward, tensors = forward_nodes(graph, batch)
    for node in forward:
        if node.op_type == "MaxPool":
            node.output.append(f"{node.output[0]}.indices")
    tape.add_gradient(LOGITS, _loss(tape, graph.spec.classes, batch))
    wanted = _needing_gradients(graph)
    for admitted in reversed(graph.nodes):
        gradient = tape.gradient(admitted.output)
        if gradient is not None and admitted.output in wanted:
            RULES[admitted.operator](tape, admitted, gradient, wanted)
    outputs = [value_info(LOSS, ())]
    for parameter in graph.parameters:
        total = tape.gradient(parameter.name) or _zeros(tape, parameter.shape)
        named = onnx.helper.make_node("Identity", [total], [gradient_name(parameter.name)])
        tape.nodes.append(named)
        outputs.append(value_info(gradient_name(parameter.name), parameter.shape))
    inputs = [
        value_info(INPUT, (batch, *graph.spec.input_shape)),
        value_info(TARGETS, (batch,), TensorProto.INT64),
    ]
    inputs += [value_info(p.name, p.shape) for p in graph.parameters]
    model = make_model([*forward, *tape.nodes], inputs, outputs, tensors=[*tensors, *tape.tensors])
    onnx.checker.check_model(model, full_check=True)
    encoded: bytes = model.SerializeToString()
    return encoded


def _loss(tape: Tape, classes: int, batch: int) -> str:
    """Write mean softmax cross-entropy to `loss`; return its gradient with respect to the logits."""
    logs = tape.op("LogSoftmax", [LOGITS], axis=1)
    hot = tape.op("Cast", [_one_hot(tape, classes)], to=TensorProto.FLOAT)
    total = tape.op("ReduceSum", [tape.op("Mul", [logs, hot])], keepdims=0)
    scaled = onnx.helper.make_node("Mul", [total, tape.floats(-1.0 / batch)], [LOSS], name=LOSS)
    tape.nodes.append(scaled)
    valid = tape.op("ReduceSum", [hot, tape.ints(1)], keepdims=1)
    difference = tape.op("Sub", [tape.op("Mul", [tape.op("Exp", [logs]), valid]), hot])
    return tape.op("Mul", [difference, tape.floats(1.0 / batch)])


def _one_hot(tape: Tape, classes: int) -> str:
    columns = tape.op("Unsqueeze", [TARGETS, tape.ints(1)])
    return tape.op("Equal", [columns, tape.ints(*range(classes))])


def _needing_gradients(graph: AdmittedGraph) -> frozenset[str]:
    """Return the tensors on a path from a parameter to the logits."""
    wanted = {parameter.name for parameter in graph.parameters}
    for node in graph.nodes:
        if wanted.intersection(node.inputs):
            wanted.add(node.output)
    return frozenset(wanted)


def _zeros(tape: Tape, shape: tuple[int, ...]) -> str:
    return tape.op("Expand", [tape.floats(0.0), tape.ints(*shape)])
