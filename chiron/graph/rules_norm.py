"""Normalisations: how they are written, and their gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape

INVERSE = "{}.inverse"


def write_normalize(tape: Tape, node: Node) -> None:
    """Subtract the mean over some axes and divide by the deviation; `.inverse` is one over that."""
    axes, source = node.integers("axes"), node.inputs[0]
    mean = tape.op("ReduceMean", [source], axes=axes, keepdims=1)
    centred = tape.op("Sub", [source, mean])
    square = tape.op("ReduceMean", [tape.op("Mul", [centred, centred])], axes=axes, keepdims=1)
    deviation = tape.op("Sqrt", [tape.op("Add", [square, tape.scalar(node.number("epsilon"))])])
    inverse = tape.op("Reciprocal", [deviation], name=INVERSE.format(node.output))
    tape.op("Mul", [centred, inverse], name=node.output)


def normalize(tape: Tape, node: Node, gradient: str) -> None:
    """Use dx = (dy - mean(dy) - y mean(y dy)) / deviation.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv 1607.06450, differentiated.
    """
    _give_normalized(tape, node, gradient, axes=node.integers("axes"))


def _give_normalized(tape: Tape, node: Node, gradient: str, *, axes: tuple[int, ...]) -> None:
    mean = tape.op("ReduceMean", [gradient], axes=axes, keepdims=1)
    along = tape.op("ReduceMean", [tape.op("Mul", [gradient, node.output])], axes=axes, keepdims=1)
    rest = tape.op("Sub", [tape.op("Sub", [gradient, mean]), tape.op("Mul", [node.output, along])])
    tape.give(node.inputs[0], tape.op("Mul", [rest, INVERSE.format(node.output)]))


def _axes(tape: Tape, node: Node) -> tuple[int, ...]:
    """Return all axes but the channels'."""
    return (0, *range(2, len(tape.shapes[node.inputs[0]])))


def _by_channel(tape: Tape, node: Node, name: str) -> str:
    rank = len(tape.shapes[node.inputs[0]])
    channels = tape.shapes[node.inputs[1]][0]
    return tape.reshape(name, (1, channels, *(1,) * (rank - 2)))


def _of_batch(tape: Tape, node: Node) -> bool:
    return tape.training and node.integer("training_mode") == 1


def write_batch_normalization(tape: Tape, node: Node) -> None:
    """Write it with the batch's own mean and variance in training, where the guest's node says so.

    Source: Ioffe, Szegedy, "Batch Normalization", 2015, arXiv 1502.03167, algorithm 1.
    """
    if not _of_batch(tape, node):
        epsilon = node.number("epsilon")
        tape.op("BatchNormalization", node.inputs, name=node.output, epsilon=epsilon)
        return
    axes, (source, scale, bias) = _axes(tape, node), node.inputs[:3]
    mean = tape.op("ReduceMean", [source], axes=axes, keepdims=1, name=f"{node.output}.mean")
    centred = tape.op("Sub", [source, mean], name=f"{node.output}.centred")
    square = tape.op("Mul", [centred, centred])
    variance = tape.op("ReduceMean", [square], axes=axes, keepdims=1, name=f"{node.output}.variance")
    deviation = tape.op("Sqrt", [tape.op("Add", [variance, tape.scalar(node.number("epsilon"))])])
    inverse = tape.op("Reciprocal", [deviation], name=INVERSE.format(node.output))
    slope = tape.op("Mul", [_by_channel(tape, node, scale), inverse], name=f"{node.output}.slope")
    scaled = tape.op("Mul", [centred, slope])
    tape.op("Add", [scaled, _by_channel(tape, node, bias)], name=node.output)


def batch_normalization(tape: Tape, node: Node, gradient: str) -> None:
    """Differentiate through the batch's statistics, or through fixed ones."""
    source, scale, bias, mean, variance = node.inputs
    axes = _axes(tape, node)
    if _of_batch(tape, node):
        centred, inverse = f"{node.output}.centred", INVERSE.format(node.output)
    else:
        centred = tape.op("Sub", [source, _by_channel(tape, node, mean)])
        shifted = tape.op("Add", [variance, tape.scalar(node.number("epsilon"))])
        inverse = _by_channel(tape, node, tape.op("Reciprocal", [tape.op("Sqrt", [shifted])]))
    total = tape.op("ReduceSum", [gradient, tape.ints(*axes)], keepdims=1)
    along = tape.op("ReduceSum", [tape.op("Mul", [gradient, centred]), tape.ints(*axes)], keepdims=1)
    along = tape.op("Mul", [along, inverse])
    for tensor, share in ((scale, along), (bias, total)):
        if tape.wants(tensor):
            tape.give(tensor, tape.reshape(share, tape.shapes[tensor]))
    if not tape.wants(source):
        return
    if not _of_batch(tape, node):
        slope = tape.op("Mul", [_by_channel(tape, node, scale), inverse])
        tape.give(source, tape.op("Mul", [gradient, slope]))
        return
    count = math.prod(tape.shapes[source][axis] for axis in axes)
    share = tape.op("Mul", [total, tape.scalar(1.0 / count)])
    pull = tape.op("Mul", [tape.op("Mul", [along, inverse]), tape.scalar(1.0 / count)])
    rest = tape.op("Sub", [tape.op("Sub", [gradient, share]), tape.op("Mul", [centred, pull])])
    tape.give(source, tape.op("Mul", [rest, f"{node.output}.slope"]))
