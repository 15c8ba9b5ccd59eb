"""Convolution as one product for each place of the kernel, on planes: for strides and small kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chiron.graph.planes import Window, places_first, rows_first

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape

AT_ONCE = 3  # images: the most that a product's windows take


def forward(tape: Tape, node: Node) -> None:
    """Write the convolution: each product is added to what stands before it, the bias first."""
    image, weights, *total = node.inputs
    window = _window(tape, node)
    rows, outs = tape.shapes[image][0], tape.shapes[weights][0]
    planes = window.padded(tape, places_first(tape, image), value=0.0)
    kernels = _kernels(tape, weights)
    for place, kernel in zip(window.places(), kernels, strict=True):
        seen = _flat(tape, window, planes, place)
        total = [tape.op("Gemm", [seen, kernel, *total], transB=1)]
    rows_first(tape, tape.reshape(total[0], (*window.out, rows, outs)), name=node.output)


def backward(tape: Tape, node: Node, gradient: str) -> None:
    """Give image, weights and bias their gradients."""
    image, weights, *biases = node.inputs
    window = _window(tape, node)
    outs, ins = tape.shapes[weights][:2]
    rows = tape.shapes[image][0]
    flat = tape.reshape(places_first(tape, gradient), (-1, outs))
    for bias in biases:
        if tape.wants(bias):
            tape.give(bias, tape.op("ReduceSum", [flat, tape.ints(0)], keepdims=0))
    if tape.wants(image):
        shares = [tape.op("Gemm", [flat, part]) for part in _kernels(tape, weights)]
        shares = [tape.reshape(share, (*window.out, rows, ins)) for share in shares]
        tape.give(image, rows_first(tape, window.put_back(tape, shares)))
    if tape.wants(weights):
        tape.give(weights, weight_gradient(tape, node, gradient))


def weight_gradient(tape: Tape, node: Node, gradient: str) -> str:
    """Multiply (out, places of the output) by what the kernel's places saw, many of them in one product."""
    image, weights = node.inputs[:2]
    window, shape = _window(tape, node), tape.shapes[weights]
    planes = window.padded(tape, places_first(tape, image), value=0.0)
    flat = tape.reshape(places_first(tape, gradient), (-1, shape[0]))
    turned = tape.op("Transpose", [flat], perm=(1, 0))
    places = window.places()
    step = max(1, AT_ONCE * math.prod(window.shape[2:]) // math.prod(window.out))
    parts = [places[at : at + step] for at in range(0, len(places), step)]
    each = [tape.op("MatMul", [turned, window.gathered(tape, planes, part)]) for part in parts]
    joined = each[0] if len(each) == 1 else tape.op("Concat", each, axis=0)
    return tape.reshape(tape.op("Transpose", [joined], perm=(1, 2, 0)), shape)


def _window(tape: Tape, node: Node) -> Window:
    return Window.of(tape, node, tape.shapes[node.inputs[1]][2:])


def _kernels(tape: Tape, weights: str) -> list[str]:
    """Return the weights of each place: (out, in)."""
    outs, ins, high, wide = tape.shapes[weights]
    if high * wide == 1:
        return [tape.reshape(weights, (outs, ins))]
    turned = tape.op("Transpose", [weights], perm=(2, 3, 0, 1))
    turned = tape.reshape(turned, (high * wide * outs, ins))
    steps = range(0, high * wide * outs, outs)
    return [tape.op("Slice", [turned, tape.ints(at), tape.ints(at + outs), tape.ints(0)]) for at in steps]


def _flat(tape: Tape, window: Window, planes: str, place: tuple[int, int]) -> str:
    return tape.reshape(window.seen(tape, planes, place), (-1, window.shape[1]))
