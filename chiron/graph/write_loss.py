"""Writes losses and their gradients with respect to the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from chiron.graph.admitted import LOGITS
from chiron.graph.loss import LossKind

if TYPE_CHECKING:
    from chiron.graph.loss import Loss
    from chiron.graph.tape import Tape

TARGETS = "y"


def write_loss(tape: Tape, loss: Loss, *, classes: int, batch: int) -> str:
    """Write a loss and give the logits their gradient; return the loss's name.

    A target outside the classes counts as no class: its row adds nothing to the loss.
    """
    columns = tape.op("Unsqueeze", [TARGETS, tape.ints(1)])
    is_target = tape.op("Equal", [columns, tape.ints(*range(classes))])
    hot = tape.op("Cast", [is_target], to=TensorProto.FLOAT)
    if loss.kind is not LossKind.CROSS_ENTROPY:
        return _each_output(tape, loss, hot, classes=classes, batch=batch)
    if loss.class_weights or loss.smoothing:
        return _weighted(tape, loss, hot, classes=classes, batch=batch)
    return _cross_entropy(tape, is_target, hot, batch=batch)


def _cross_entropy(tape: Tape, is_target: str, hot: str, *, batch: int) -> str:
    """Write the mean of -log softmax at the target; its gradient is softmax minus the target's one."""
    logs = tape.op("LogSoftmax", [LOGITS], axis=1)
    valid = tape.op("ReduceSum", [hot, tape.ints(1)], keepdims=1)
    difference = tape.op("Sub", [tape.op("Mul", [tape.op("Exp", [logs]), valid]), hot])
    tape.give(LOGITS, tape.op("Mul", [difference, tape.scalar(1.0 / batch)]))
    chosen = tape.op("Where", [is_target, logs, tape.scalar(0.0)])  # 0 times minus infinity would be NaN
    return tape.op("Mul", [tape.op("ReduceSum", [chosen], keepdims=0), tape.scalar(-1.0 / batch)])


def _weighted(tape: Tape, loss: Loss, hot: str, *, classes: int, batch: int) -> str:
    """Write -sum(w q log p), divided by the weights of the targets where there are weights.

    Source: Szegedy et al., "Rethinking the Inception Architecture", 2015, arXiv 1512.00567, section 7, for
    the smoothed target q; weights as PyTorch's cross_entropy defines them, so that results compare.
    """
    weights = np.array(loss.class_weights or (1.0,) * classes, dtype=np.float32)
    logs = tape.op("Clip", [tape.op("LogSoftmax", [LOGITS], axis=1), tape.scalar(-1e30)])
    valid = tape.op("ReduceSum", [hot, tape.ints(1)], keepdims=1)
    spread = tape.op("Mul", [valid, tape.scalar(loss.smoothing / classes)])
    smooth = tape.op("Add", [tape.op("Mul", [hot, tape.scalar(1 - loss.smoothing)]), spread])
    target = tape.op("Mul", [smooth, tape.floats(weights)])
    if loss.class_weights:
        total = tape.op("ReduceSum", [tape.op("Mul", [hot, tape.floats(weights)])], keepdims=0)
        inverse = tape.op("Reciprocal", [tape.op("Max", [total, tape.scalar(1e-12)])])
    else:
        inverse = tape.scalar(1.0 / batch)
    mass = tape.op("ReduceSum", [target, tape.ints(1)], keepdims=1)
    difference = tape.op("Sub", [tape.op("Mul", [tape.op("Exp", [logs]), mass]), target])
    tape.give(LOGITS, tape.op("Mul", [difference, inverse]))
    summed = tape.op("ReduceSum", [tape.op("Mul", [target, logs])], keepdims=0)
    return tape.op("Neg", [tape.op("Mul", [summed, inverse])])


def _each_output(tape: Tape, loss: Loss, hot: str, *, classes: int, batch: int) -> str:
    """Write a loss of each output against 0 or 1, the mean over outputs and rows that have a class."""
    valid = tape.op("ReduceSum", [hot, tape.ints(1)], keepdims=1)
    difference = tape.op("Sub", [LOGITS, hot])
    match loss.kind:
        case LossKind.SQUARED:
            each = tape.op("Mul", [difference, difference])
            slope = tape.op("Mul", [difference, tape.scalar(2.0)])
        case LossKind.HUBER:
            bend = tape.scalar(loss.delta)
            slope = tape.op("Clip", [difference, tape.scalar(-loss.delta), bend])
            rest = tape.op("Sub", [tape.op("Abs", [difference]), tape.op("Abs", [slope])])
            square = tape.op("Mul", [tape.op("Mul", [slope, slope]), tape.scalar(0.5)])
            each = tape.op("Add", [square, tape.op("Mul", [rest, bend])])
        case _:
            bent = tape.op("Exp", [tape.op("Neg", [tape.op("Abs", [LOGITS])])])
            high = tape.op("Sub", [tape.op("Relu", [LOGITS]), tape.op("Mul", [LOGITS, hot])])
            each = tape.op("Add", [high, tape.op("Log", [tape.op("Add", [bent, tape.scalar(1.0)])])])
            slope = tape.op("Sub", [tape.op("Sigmoid", [LOGITS]), hot])
    share = tape.op("Mul", [valid, tape.scalar(1.0 / (batch * classes))])
    tape.give(LOGITS, tape.op("Mul", [slope, share]))
    return tape.op("ReduceSum", [tape.op("Mul", [each, share])], keepdims=0)
