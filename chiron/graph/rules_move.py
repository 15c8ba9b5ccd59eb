"""Gradients of primitives that move values and compute nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.rules_elementwise import give_summed

if TYPE_CHECKING:
    from chiron.graph.admitted import Node
    from chiron.graph.tape import Tape


def reshape(tape: Tape, node: Node, gradient: str) -> None:
    """Give back the shape that was."""
    tape.give(node.inputs[0], tape.reshape(gradient, tape.shapes[node.inputs[0]]))


def transpose(tape: Tape, node: Node, gradient: str) -> None:
    """Put the axes back."""
    perm = node.integers("perm")
    back = tuple(perm.index(axis) for axis in range(len(perm)))
    tape.give(node.inputs[0], tape.op("Transpose", [gradient], perm=back))


def expand(tape: Tape, node: Node, gradient: str) -> None:
    """Sum over what was repeated."""
    give_summed(tape, node.inputs[0], gradient, result=tape.shapes[node.output])


def concat(tape: Tape, node: Node, gradient: str) -> None:
    """Hand each operand its part."""
    axis, at = node.integer("axis"), 0
    for tensor in node.inputs:
        end = at + tape.shapes[tensor][axis]
        if tape.wants(tensor):
            bounds = [tape.ints(at), tape.ints(end), tape.ints(axis)]
            tape.give(tensor, tape.op("Slice", [gradient, *bounds]))
        at = end


def cut(tape: Tape, node: Node, gradient: str) -> None:
    """Put the values back where they were cut out, zeros elsewhere.

    Steps of one are padded around. Longer steps first get zeros between the values; a walk backwards is
    turned round before.
    """
    shape = tape.shapes[node.inputs[0]]
    pads = [0] * (2 * len(shape))
    sizes = list(tape.shapes[node.output])
    bounds = (node.integers(name) for name in ("starts", "ends", "axes", "steps"))
    for start, _, axis, step in zip(*bounds, strict=True):
        count, first = sizes[axis], start
        if step < 0:
            ends = [tape.ints(-1), tape.ints(-(1 << 31)), tape.ints(axis), tape.ints(-1)]
            gradient = tape.op("Slice", [gradient, *ends])
            first, step = start + (count - 1) * step, -step  # noqa: PLW2901
        if step > 1:
            gradient, sizes[axis] = _spaced(tape, gradient, sizes, axis=axis, step=step)
        pads[axis], pads[axis + len(shape)] = first, shape[axis] - first - sizes[axis]
    tape.give(node.inputs[0], _fit(tape, gradient, pads))


def _spaced(tape: Tape, gradient: str, sizes: list[int], *, axis: int, step: int) -> tuple[str, int]:
    """Put step - 1 zeros behind each value of an axis but the last."""
    count = sizes[axis]
    apart = tape.reshape(gradient, (*sizes[: axis + 1], 1, *sizes[axis + 1 :]))
    pads = [0] * (2 * (len(sizes) + 1))
    pads[len(sizes) + 1 + axis + 1] = step - 1
    apart = tape.op("Pad", [apart, tape.ints(*pads)])
    joined = tape.reshape(apart, (*sizes[:axis], count * step, *sizes[axis + 1 :]))
    size = (count - 1) * step + 1
    return tape.op("Slice", [joined, tape.ints(0), tape.ints(size), tape.ints(axis)]), size


def _fit(tape: Tape, gradient: str, pads: list[int]) -> str:
    return tape.op("Pad", [gradient, tape.ints(*pads)]) if any(pads) else gradient


def pad(tape: Tape, node: Node, gradient: str) -> None:
    """Cut the padding off."""
    shape, pads = tape.shapes[node.inputs[0]], node.integers("pads")
    axes = [axis for axis in range(len(shape)) if pads[axis] or pads[axis + len(shape)]]
    starts = [pads[axis] for axis in axes]
    ends = [pads[axis] + shape[axis] for axis in axes]
    bounds = [tape.ints(*values) for values in (starts, ends, axes)]
    tape.give(node.inputs[0], tape.op("Slice", [gradient, *bounds]) if axes else gradient)


def gather(tape: Tape, node: Node, gradient: str) -> None:
    """Add each gradient to the entry that was taken (an embedding's row may be taken often)."""
    data, places = node.inputs
    shape, axis = tape.shapes[data], node.integer("axis")
    before, size, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    count = math.prod(tape.shapes[places])
    flat = tape.reshape(places, (count, 1))
    values = tape.reshape(gradient, (before, count, after))
    values = tape.reshape(tape.op("Transpose", [values], perm=(1, 0, 2)), (count, before * after))
    empty = tape.op("Expand", [tape.floats(np.zeros((), np.float32)), tape.ints(size, before * after)])
    summed = tape.op("ScatterND", [empty, flat, values], reduction="add")
    summed = tape.op("Transpose", [tape.reshape(summed, (size, before, after))], perm=(1, 0, 2))
    tape.give(data, tape.reshape(summed, shape))
