"""Max pooling on planes: the window's places compete one after the other.

The first of equal values wins, as in ONNX. A place's gradient goes to the last place that beat all before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from chiron.graph.planes import Window, places_first, rows_first

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape

LOWEST = float("-inf")


def forward(tape: Tape, node: Node) -> None:
    """Write the pooling; each place's win keeps a name that the backward pass, if there is one, knows."""
    window = _window(tape, node)
    planes = window.padded(tape, places_first(tape, node.inputs[0]), value=LOWEST)
    first, *others = window.places()
    best = window.seen(tape, planes, first)
    for index, place in enumerate(others):
        seen = window.seen(tape, planes, place)
        if tape.training:
            tape.op("Greater", [seen, best], name=_beats(node, index))
        best = tape.op("Max", [best, seen])
    rows_first(tape, best, name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Send each gradient to the place of its maximum."""
    window = _window(tape, node)
    left, shares = places_first(tape, gradient), []
    for index in reversed(range(len(window.places()) - 1)):
        beats = tape.op("Cast", [_beats(node, index)], to=TensorProto.FLOAT)
        shares.append(tape.op("Mul", [left, beats]))
        left = tape.op("Sub", [left, shares[-1]])
    planes = window.put_back(tape, [left, *reversed(shares)])
    tape.give(node.inputs[0], rows_first(tape, planes))


def _window(tape: Tape, node: Node) -> Window:
    return Window.of(tape, node, node.integers("kernel_shape"))


def _beats(node: Node, index: int) -> str:
    return f"{node.output}.beats.{index}"
