"""Shapes whose batch stays symbolic: a dimension below zero is that many times the batch.

A row's values lie together: where the batch is merged with other sizes it is the outermost of them, so
(-6, 4) is six places of each row in turn; where it is not, the size is `Interleaved`. A shape holds the batch
once or not at all; no rule lets rows mix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chiron.graph.errors import AdmissionError, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph.admitted import Shape

BATCH = -1
MAX_RANK = 6
FAR = 1 << 31  # a bound of Slice that says "to the end"


class Interleaved(int):
    """A size below zero whose first `outer` parts each hold the whole batch: steps, then rows, merged.

    It equals only another one of the same parts, so that such tensors meet their like alone.
    """

    outer: int

    def __new__(cls, size: int, outer: int) -> Interleaved:  # noqa: PYI034  an int is not changed later
        """Return the size; `outer` divides it."""
        made = super().__new__(cls, size)
        made.outer = outer
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interleaved) and (int(self), self.outer) == (int(other), other.outer)

    def __hash__(self) -> int:
        return hash((int(self), self.outer))


def before_batch(shape: Shape) -> int:
    """Return how many values' strides go before the batch: the sizes in front of it."""
    axis = batch_axis(shape)
    size = shape[axis]
    return math.prod(shape[:axis]) * (size.outer if isinstance(size, Interleaved) else 1)


def need(*, holds: bool, text: str, rule: Rule = Rule.SHAPE) -> None:
    """Raise AdmissionError with this rule and text where something does not hold."""
    if not holds:
        raise AdmissionError(rule, text)


def has_batch(shape: Shape) -> bool:
    """Tell whether a shape holds the batch."""
    return any(size < 0 for size in shape)


def batch_axis(shape: Shape) -> int:
    """Return the axis that holds the batch; ValueError where none does."""
    return next(axis for axis, size in enumerate(shape) if size < 0)


def bind(shape: Shape, batch: int) -> Shape:
    """Return the shape for a batch of this size."""
    return tuple(size if size >= 0 else -size * batch for size in shape)


def volume(shape: Shape) -> int:
    """Return the number of values: of one row where the shape holds the batch."""
    return abs(math.prod(shape))


def shown(shape: Shape) -> str:
    """Return a shape as a refusal shows it: N is the batch."""
    return "[" + ", ".join(str(n) if n >= 0 else "N" if n == BATCH else f"{-n}N" for n in shape) + "]"


def normal_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        AdmissionError: there is no such axis.
    """
    need(holds=-rank <= axis < rank, text=f"axis {axis} is none of {rank}", rule=Rule.ATTRIBUTE)
    return axis % rank


def inner_axes(axes: Sequence[int], shape: Shape) -> Shape:
    """Return axes counted from the front, sorted, each once.

    Raises:
        AdmissionError: one is none of the shape's, is given twice, or holds the batch.
    """
    normal = sorted(normal_axis(axis, len(shape)) for axis in axes)
    need(holds=len(set(normal)) == len(normal), text="an axis is given twice: give it once")
    text = "it would work across the batch: rows of a batch stay apart"
    need(holds=all(shape[axis] > 0 for axis in normal), text=text, rule=Rule.ROWS)
    return tuple(normal)


def broadcast(*operands: Shape) -> Shape:
    """Broadcast as numpy does; the batch meets the batch, or one place that is the same for all rows.

    Source: ONNX specification, "Broadcasting in ONNX", multidirectional.
    """
    rank = max(len(shape) for shape in operands)
    padded = [(1,) * (rank - len(shape)) + shape for shape in operands]
    result = tuple(_meet(sizes, padded) for sizes in zip(*padded, strict=True))
    text = "it would broadcast over the batch: give both operands rows of one rank"
    need(holds=sum(size < 0 for size in result) <= 1, text=text, rule=Rule.ROWS)
    return result


def _meet(sizes: Sequence[int], operands: Sequence[Shape]) -> int:
    own = {size for size in sizes if size != 1}
    if len(own) > 1:
        listed = " and ".join(shown(shape) for shape in operands)
        rule = Rule.ROWS if min(own) < 0 else Rule.SHAPE
        raise AdmissionError(rule, f"{listed} do not broadcast: make sizes equal or 1, 1 beside the batch")
    return own.pop() if own else 1


def matmul(left: Shape, right: Shape) -> Shape:
    """Multiply matrices, and stacks of them; what is summed over is no batch."""
    fits = min(len(left), len(right)) > 1 and left[-1] == right[-2] > 0
    text = f"{shown(left)} does not multiply {shown(right)}: make the inner sizes equal, of at least rank 2"
    need(holds=fits, text=text)
    result = (*broadcast(left[:-2], right[:-2]), left[-2], right[-1])
    text = "it would pair each row with every row of the batch: rows stay apart"
    need(holds=sum(size < 0 for size in result) <= 1, text=text, rule=Rule.ROWS)
    return result


def reshape(shape: Shape, target: Shape) -> Shape:
    """Check that a shape may be given another: as many values, and as many before the batch as before.

    What is in front of the batch stays in front of it, or is merged with it.
    """
    text = f"{shown(shape)} does not reshape to {shown(target)}: keep the number of values"
    need(holds=volume(shape) == volume(target) and len(target) <= MAX_RANK and 0 not in target, text=text)
    need(holds=has_batch(shape) == has_batch(target), text=text, rule=Rule.ROWS)
    if not has_batch(shape):
        return target
    axis = batch_axis(target)
    front, size = math.prod(target[:axis]), int(target[axis])
    outer, rest = divmod(before_batch(shape), front)
    text = f"{shown(shape)} to {shown(target)} would mix rows: keep the batch where it is"
    need(holds=rest == 0 and size % max(outer, 1) == 0, text=text, rule=Rule.ROWS)
    merged = size if outer == 1 else Interleaved(size, outer)
    return (*target[:axis], merged, *target[axis + 1 :])


def concat(operands: Sequence[Shape], axis: int) -> Shape:
    """Join along an axis that is not the batch's."""
    first = operands[0]
    alike = all(
        len(each) == len(first) and each[:axis] + each[axis + 1 :] == first[:axis] + first[axis + 1 :]
        for each in operands
    )
    need(holds=alike, text="what is joined differs on other axes: make those equal")
    (axis,) = inner_axes([axis], first)
    need(holds=all(each[axis] > 0 for each in operands), text="it would join batches", rule=Rule.ROWS)
    return (*first[:axis], sum(each[axis] for each in operands), *first[axis + 1 :])


def slide(size: Shape, window: Shape, *, strides: Shape, pads: Shape, dilations: Shape, ceil: bool) -> Shape:
    """Return how many places a window has on each axis; each sees something besides padding.

    Source: ONNX specification, MaxPool; with `ceil` a last window may hang over, if it starts inside.
    """
    axes = len(size)
    extents = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    text = f"pads must be smaller than the window {extents}: else it sees nothing but padding"
    need(holds=all(pad < extents[i % axes] for i, pad in enumerate(pads)), text=text)
    room = [size[i] + pads[i] + pads[i + axes] - extents[i] for i in range(axes)]
    need(holds=min(room) >= 0, text=f"the window {extents} is larger than the padded image")
    places = []
    for i in range(axes):
        count = (-(-room[i] // strides[i]) if ceil else room[i] // strides[i]) + 1
        places.append(count - (ceil and (count - 1) * strides[i] >= size[i] + pads[i]))
    return tuple(places)
