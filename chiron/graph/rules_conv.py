"""Convolution, forward and backward, in the phrasing that is fastest for its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.graph import conv_direct, conv_patches, conv_taps, conv_winograd
from chiron.graph.phrasing import Phrasing, Sizes, choose

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape

_WRITERS = {
    Phrasing.DIRECT: conv_direct,
    Phrasing.PATCHES: conv_patches,
    Phrasing.TAPS: conv_taps,
    Phrasing.WINOGRAD: conv_winograd,
}


def write_conv(tape: Tape, node: Node) -> None:
    """Write the convolution; where it is served, as ONNX has it or by minimal filtering."""
    phrasing = _phrasing(tape, node) if tape.phrased else Phrasing.DIRECT
    if not tape.training and phrasing is not Phrasing.WINOGRAD:
        phrasing = Phrasing.DIRECT
    _WRITERS[phrasing].forward(tape, node)


def conv(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias their gradients."""
    _WRITERS[_phrasing(tape, node)].backward(tape, node, gradient)


def conv_transpose(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias of a transposed convolution their gradients."""
    conv_direct.conv_transpose(tape, node, gradient)


def _phrasing(tape: Tape, node: Node) -> Phrasing:
    return choose(Sizes.of(node, tape.shapes, wants=tape.wants(node.inputs[0])))
