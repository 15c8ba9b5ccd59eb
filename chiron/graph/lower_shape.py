"""How the guest's operators that change shapes are taken apart into primitives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.known import (
    FOLDED,
    Array,
    Rows,
    bounded,
    dimensions,
    gather_known,
    integers,
    joined,
    known_or_none,
    of_shape,
    slice_known,
)
from chiron.graph.known import sizes as sizes_of
from chiron.graph.net import Tensor, known
from chiron.graph.primitives import Kind
from chiron.graph.shapes import (
    MAX_RANK,
    before_batch,
    broadcast,
    has_batch,
    inner_axes,
    need,
    normal_axis,
    shown,
    volume,
)
from chiron.graph.shapes import reshape as check_reshape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph.admitted import Shape
    from chiron.graph.net import Call, Net

MAX_PARTS = 256


def to_shape(net: Net, tensor: Tensor, shape: Shape) -> Tensor:
    """Give a tensor another shape."""
    if tensor.shape == shape:
        return tensor
    if tensor.value is not None:
        check_reshape(tensor.shape, shape)
        value = tensor.value
        return known(value if value.ndim == 0 else value.reshape(shape), shape)
    return net.emit("Reshape", tensor, shape=shape)


def reshape(net: Net, call: Call) -> Tensor:
    """Give the shape that a constant says; 0 copies, -1 is what is left, the batch stays where it is."""
    value = call.value(1)
    need(holds=value is not None, text="the target shape is needed", rule=Rule.OPERANDS)
    target = list(sizes_of(np.asarray(value)))
    shape = call[0].shape
    if call[0].value is not None and call[0].value.ndim == len(shape):
        return _reshaped(call[0].value, integers(np.asarray(value)))
    need(holds=0 < len(target) <= MAX_RANK, text=f"the target shape must have 1 to {MAX_RANK} sizes")
    text = "0 copies a size that is not there"
    for axis, size in enumerate(target):
        if size == 0:
            need(holds=axis < len(shape) and call.integer("allowzero") == 0, text=text)
            target[axis] = shape[axis] if shape[axis] >= 0 else Rows(-shape[axis])
    return to_shape(net, call[0], _settled(shape, target, batch=call.batch))


def _reshaped(value: Array, target: Shape) -> Tensor:
    """Reshape a known value as numpy does, which may be empty."""
    copied = tuple(value.shape[i] if size == 0 and i < value.ndim else size for i, size in enumerate(target))
    try:
        return known(value.reshape(copied))
    except ValueError as error:
        raise AdmissionError(Rule.SHAPE, "a constant does not reshape: keep the number of values") from error


def _settled(shape: Shape, target: list[int | Rows], *, batch: int) -> Shape:
    """Return the target with its -1 worked out and the batch marked.

    An exporter that knew the batch wrote its size as a number, one that did not may have written -1.
    """
    open_axes = [axis for axis, size in enumerate(target) if size == -1]
    plain = [size for size in target if isinstance(size, int) and size != -1]
    need(
        holds=len(open_axes) <= 1 and all(size > 0 for size in plain),
        text="the target shape has two -1, or sizes below 1",
    )
    if has_batch(shape) and not any(isinstance(size, Rows) for size in target):
        axis = _place_of_batch(target, before=before_batch(shape), batch=batch)
        if axis is not None:
            size = target[axis]
            target[axis] = Rows(int(size) // batch) if isinstance(size, int) else size
        elif open_axes:
            target[open_axes[0]] = Rows(1)  # how many is worked out below
    return _filled(shape, target, open_axes)


def _place_of_batch(target: Sequence[int | Rows], *, before: int, batch: int) -> int | None:
    """Return the axis where a batch size that the exporter knew stands, or None."""
    for axis, size in enumerate(target):
        if size == -1 or not batch:
            return None
        front = math.prod(int(each) for each in target[:axis] if isinstance(each, int))
        if front == before and isinstance(size, int) and size % batch == 0:
            return axis
    return None


def _filled(shape: Shape, target: list[int | Rows], open_axes: list[int]) -> Shape:
    result = [-size.count if isinstance(size, Rows) else size for size in target]
    if open_axes:
        (axis,) = open_axes
        rest = abs(math.prod(size for i, size in enumerate(result) if i != axis))
        text = f"{shown(shape)} does not reshape to the target: keep the number of values"
        need(holds=rest > 0 and volume(shape) % rest == 0, text=text)
        holds_batch = isinstance(target[axis], Rows)
        result[axis] = volume(shape) // rest * (-1 if holds_batch else 1)
    return tuple(result)


def flatten(net: Net, call: Call) -> Tensor:
    """Make a matrix: the axes before `axis`, and those from there on."""
    shape, rank = call[0].shape, len(call[0].shape)
    axis = call.integer("axis")
    need(holds=-rank <= axis <= rank, text=f"axis {axis} is none of {rank}", rule=Rule.ATTRIBUTE)
    axis = axis + rank if axis < 0 else axis
    return to_shape(net, call[0], (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _axes(call: Call, place: int) -> tuple[int, ...] | None:
    """Return axes from an operand, or from the attribute that older opsets have."""
    value = call.value(place)
    if value is not None:
        return integers(value)
    given = call.attributes.get("axes")
    return given if isinstance(given, tuple) else None


def squeeze(net: Net, call: Call) -> Tensor:
    """Take sizes of 1 away."""
    shape = call[0].shape
    axes = _axes(call, 1)
    chosen = (
        [i for i, n in enumerate(shape) if n == 1]
        if axes is None
        else [normal_axis(a, len(shape)) for a in axes]
    )
    need(holds=all(shape[axis] == 1 for axis in chosen), text="only sizes of 1 can go")
    return to_shape(net, call[0], tuple(n for i, n in enumerate(shape) if i not in chosen))


def unsqueeze(net: Net, call: Call) -> Tensor:
    """Put sizes of 1 in."""
    axes = _axes(call, 1) or ()
    rank = len(call[0].shape) + len(axes)
    need(holds=len(axes) > 0 and rank <= MAX_RANK, text=f"it must add axes up to a rank of {MAX_RANK}")
    places = {normal_axis(axis, rank) for axis in axes}
    need(holds=len(places) == len(axes), text="an axis is given twice")
    rest = iter(call[0].shape)
    return to_shape(net, call[0], tuple(1 if i in places else next(rest) for i in range(rank)))


def transpose(net: Net, call: Call) -> Tensor:
    """Put the axes into another order: the reverse where none is given."""
    tensor, rank = call[0], len(call[0].shape)
    perm = call.integers("perm") if "perm" in call.attributes else tuple(reversed(range(rank)))
    need(holds=sorted(perm) == list(range(rank)), text="perm must name each axis once", rule=Rule.ATTRIBUTE)
    if tensor.value is not None and tensor.value.ndim == rank:
        return known(tensor.value.transpose(perm))
    return tensor if perm == tuple(range(rank)) else net.emit("Transpose", tensor, perm=perm)


def expand(net: Net, call: Call) -> Tensor:
    """Repeat sizes of 1 as often as a constant says."""
    value = call.value(1)
    need(holds=value is not None, text="the target shape is needed", rule=Rule.OPERANDS)
    target = list(dimensions(np.asarray(value)))
    if call.batch > 1 and target and target[0] == call.batch:
        target[0] = -1  # an exporter that knew the batch
    need(holds=all(size != 0 for size in target), text="a size is 0")
    shape = call[0].shape
    spread = max(len(shape), len(target))
    need(holds=spread <= MAX_RANK, text=f"the rank is over {MAX_RANK}")
    own, wanted = (1,) * (spread - len(shape)) + shape, [1] * (spread - len(target)) + target
    return spread_to(net, call[0], broadcast(own, tuple(wanted)))


def spread_to(net: Net, tensor: Tensor, shape: Shape) -> Tensor:
    """Broadcast a tensor to a shape."""
    if tensor.shape == shape:
        return tensor
    value = tensor.value
    if value is not None and value.ndim == 0:
        return known(value, shape)
    if value is not None and not has_batch(shape):
        return known(np.broadcast_to(value, tuple(bounded(shape))))
    return net.emit("Expand", tensor, shape=shape)


def tile(net: Net, call: Call) -> Tensor:
    """Repeat along axes: each repeat is a size of its own, then merged."""
    repeats = dimensions(np.asarray(call.value(1)))
    tensor = call[0]
    need(holds=len(repeats) == len(tensor.shape), text="repeats must be as many as axes")
    for axis, times in enumerate(repeats):
        if times == 1:
            continue
        need(holds=times != 0, text="it repeats 0 times")
        shape = tensor.shape
        need(holds=len(shape) < MAX_RANK, text=f"the rank is over {MAX_RANK - 1}")
        apart = to_shape(net, tensor, (*shape[:axis], 1, *shape[axis:]))
        grown = spread_to(net, apart, (*shape[:axis], times, *shape[axis:]))
        tensor = to_shape(net, grown, (*shape[:axis], times * shape[axis], *shape[axis + 1 :]))
    return tensor


def concat(net: Net, call: Call) -> Tensor:
    """Join along an axis."""
    operands = [call[place] for place in range(len(call.operands))]
    kinds = {each.kind for each in operands}
    need(holds=len(kinds) == 1, text="it joins several kinds of values: cast them", rule=Rule.OPERANDS)
    axis = normal_axis(call.integer("axis"), len(operands[0].shape))
    values = [known_or_none(each.value, each.shape) for each in operands]
    if all(value is not None for value in values):
        arrays = [value for value in values if value is not None]
        return known(joined(arrays, axis))
    if len(operands) == 1:
        return operands[0]
    return net.emit("Concat", *operands, axis=axis)


def cut(net: Net, tensor: Tensor, *, axis: int, start: int, end: int, step: int = 1) -> Tensor:
    """Take a part of an axis."""
    if tensor.value is not None and tensor.value.ndim == len(tensor.shape):
        return known(slice_known(tensor.value, [(start,), (end,), (axis,), (step,)]))
    whole = start == 0 and end == tensor.shape[axis] and step == 1
    bounds = {"starts": (start,), "ends": (end,), "axes": (axis,), "steps": (step,)}
    return tensor if whole else net.emit("Slice", tensor, **bounds)


def slices(net: Net, call: Call) -> Tensor:
    """Cut parts of axes out; the batch is taken whole."""
    tensor = call[0]
    starts, ends = integers(np.asarray(call.value(1))), integers(np.asarray(call.value(2)))
    given, paces = call.value(3), call.value(4)
    axes = tuple(range(len(starts))) if given is None else integers(given)
    steps = (1,) * len(starts) if paces is None else integers(paces)
    need(holds=len(starts) == len(ends) == len(axes) == len(steps), text="bounds differ in number")
    need(holds=all(steps), text="a step is 0")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = normal_axis(axis, len(tensor.shape))
        size = tensor.shape[place]
        if size < 0:
            whole = start == 0 and end >= 1 << 31 and step == 1
            need(holds=whole, text="it takes a part of the batch: rows stay apart", rule=Rule.ROWS)
            continue
        first, last, pace = slice(start, end, step).indices(size)
        some = tensor.value is not None or len(range(first, last, pace)) > 0
        need(holds=some, text="it takes nothing of an axis")
        tensor = cut(net, tensor, axis=place, start=first, end=last, step=pace)
    return tensor


def split(net: Net, call: Call) -> tuple[Tensor, ...]:
    """Cut an axis into parts: of the sizes a constant says, or as equal as they can be."""
    tensor = call[0]
    axis = normal_axis(call.integer("axis"), len(tensor.shape))
    inner_axes([axis], tensor.shape)
    size, given = tensor.shape[axis], call.value(1)
    if given is None:
        each = -(-size // call.outputs)
        parts = tuple(min(each, size - at) for at in range(0, size, each))
    else:
        parts = integers(given)
    fits = len(parts) == call.outputs <= MAX_PARTS and sum(parts) == size and min(parts) > 0
    need(holds=fits, text=f"the parts must be as many as outputs, at most {MAX_PARTS}, and sum to {size}")
    ends = np.cumsum(parts).tolist()
    return tuple(
        cut(net, tensor, axis=axis, start=end - part, end=end) for part, end in zip(parts, ends, strict=True)
    )


def gather(net: Net, call: Call) -> Tensor:
    """Take entries of an axis by constant places, or rows of an initializer by computed ones (embeddings)."""
    data, places = call[0], call[1]
    need(holds=places.kind is Kind.INT, text="places must be integers", rule=Rule.OPERANDS)
    axis = normal_axis(call.integer("axis"), len(data.shape))
    chosen = known_or_none(places.value, places.shape)
    if data.value is not None and chosen is not None and data.value.ndim == len(data.shape):
        return known(gather_known(data.value, chosen, axis))
    (axis,) = inner_axes([axis], data.shape)
    size = data.shape[axis]
    if chosen is not None:
        need(holds=chosen.dtype != object, text="it takes a place that depends on the batch", rule=Rule.ROWS)
        need(holds=bool(np.all((chosen >= -size) & (chosen < size))), text="it takes what is not there")
        if chosen.ndim == 0:
            at = int(chosen) % size
            part = cut(net, data, axis=axis, start=at, end=at + 1)
            return to_shape(net, part, data.shape[:axis] + data.shape[axis + 1 :])
        return net.emit("Gather", data, known(chosen % size), axis=axis)
    wrapped = net.emit("Add", places, known(np.array(size, np.int64)))
    behind = net.emit("Less", places, known(np.zeros((), np.int64)))
    counted = net.emit("Where", behind, wrapped, places)
    bound = net.emit("Clip", counted, low=0, high=size - 1)  # a place that is not there would end the step
    return net.emit("Gather", data, bound, axis=axis)


def pad(net: Net, call: Call) -> Tensor:
    """Pad with a constant."""
    tensor, rank = call[0], len(call[0].shape)
    amounts = integers(np.asarray(call.value(1)))
    axes = call.value(3)
    chosen = tuple(range(rank)) if axes is None else tuple(normal_axis(a, rank) for a in integers(axes))
    need(holds=len(amounts) == 2 * len(chosen), text="pads must be two for each axis")
    pads = [0] * (2 * rank)
    for place, axis in enumerate(chosen):
        pads[axis], pads[axis + rank] = amounts[place], amounts[place + len(chosen)]
    holds = all(0 <= amount <= 1 << 16 for amount in pads)
    need(holds=holds, text="pads must be 0 to 65536")
    holds = all(size > 0 or not pads[i] + pads[i + rank] for i, size in enumerate(tensor.shape))
    need(holds=holds, text="it pads the batch", rule=Rule.ROWS)
    value = call.value(2)
    one = value is None or (value.size == 1 and value.dtype.kind in "fi")
    need(holds=one, text="it pads with no number, or with several", rule=Rule.OPERANDS)
    fill = 0.0 if value is None else float(value.reshape(()))
    need(holds=math.isfinite(fill), text="it pads with no finite number", rule=Rule.FINITE)
    return net.emit("Pad", tensor, pads=tuple(pads), value=fill) if any(pads) else tensor


def resize(net: Net, call: Call) -> Tensor:
    """Repeat the places of an image, as nearest-neighbour enlargement by whole factors does."""
    tensor = call[0]
    factors, targets = call.value(2), call.value(3)
    shape = tensor.shape
    need(holds=len(shape) > 0 and 0 not in shape, text="it enlarges no single value, and nothing empty")
    if targets is not None and targets.size:
        wanted = list(dimensions(targets))
        if shape[0] < 0 and call.batch and wanted[0] == call.batch:
            wanted[0] = shape[0]
        need(holds=len(wanted) == len(shape), text="sizes must be as many as axes")
        ratios = [w / s for w, s in zip(wanted, shape, strict=True)]
    else:
        plain = factors is not None and factors.dtype.kind == "f" and factors.size == len(shape)
        ratios = factors.reshape(-1).tolist() if factors is not None and plain else []
    whole = len(ratios) == len(shape) and all(1 <= r <= MAX_PARTS and r == int(r) for r in ratios)
    text = f"it enlarges by whole factors up to {MAX_PARTS} alone, and not the batch"
    need(holds=whole and ratios[0] == 1, text=text)
    for axis, ratio in enumerate(ratios):
        if ratio > 1:
            need(holds=len(shape) < MAX_RANK, text=f"it enlarges {MAX_RANK} axes")
            own = tensor.shape
            apart = to_shape(net, tensor, (*own[: axis + 1], 1, *own[axis + 1 :]))
            grown = spread_to(net, apart, (*own[: axis + 1], int(ratio), *own[axis + 1 :]))
            tensor = to_shape(net, grown, (*own[:axis], own[axis] * int(ratio), *own[axis + 1 :]))
    return tensor


def shape_of(_: Net, call: Call) -> Tensor:
    """Return a shape as a known value."""
    shape = call[0].shape
    end = call.integer("end") if "end" in call.attributes else len(shape)
    return known(of_shape(shape)[slice(call.integer("start"), end)])


def size_of(_: Net, call: Call) -> Tensor:
    """Return the number of values as a known value."""
    value = np.empty((), dtype=object)
    shape = call[0].shape
    value[()] = Rows(volume(shape)) if has_batch(shape) else volume(shape)
    return known(value if has_batch(shape) else value.astype(np.int64))


def counted(_: Net, call: Call) -> Tensor:
    """Range: from start to limit by a step, all known."""
    values = [np.asarray(call.value(place)) for place in range(3)]
    return known(FOLDED["Range"](*values))


def identity(_: Net, call: Call) -> Tensor:
    """Be another name for the same."""
    return call[0]


def constant_of_shape(value: Array, shape: Tensor) -> Tensor:
    """Return a tensor that holds one value everywhere."""
    need(holds=shape.value is not None, text="the shape must be a constant", rule=Rule.OPERANDS)
    target = dimensions(np.asarray(shape.value))
    holds = len(target) <= MAX_RANK and sum(size < 0 for size in target) <= 1
    need(holds=holds, text=f"the rank is over {MAX_RANK}, or the batch is in it twice")
    if not has_batch(target):
        bounded(target)
    need(holds=not (has_batch(target) and 0 in target), text="it has no values for a row: leave it out")
    return known(np.zeros(target, value.dtype)) if 0 in target else known(value.reshape(()), target)
