"""Values that are known while a graph is admitted: constants, and sizes computed from shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.shapes import MAX_RANK, need
from chiron.graph.tensors import MAX_DIMENSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chiron.graph.admitted import Shape

Array = np.ndarray[Any, np.dtype[Any]]
MAX_KNOWN_VALUES = 1 << 20
MAX_ALL_KNOWN_VALUES = 1 << 22
MAX_SYMBOLIC_VALUES = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """A size that is so many times the batch.

    Raises:
        AdmissionError: the count is no size.
    """

    count: int

    def __post_init__(self) -> None:
        text = f"a size is not 1 to {MAX_DIMENSION} times the batch: export the network with plain shapes"
        need(holds=1 <= self.count <= MAX_DIMENSION, text=text, rule=Rule.ROWS)

    def __mul__(self, other: object) -> Rows:
        if isinstance(other, int | np.integer):
            return Rows(self.count * int(other))
        raise _unknown()

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Rows | int:
        divisor = other.count if isinstance(other, Rows) else other
        if isinstance(divisor, int | np.integer) and divisor and self.count % int(divisor) == 0:
            quotient = self.count // int(divisor)
            return quotient if isinstance(other, Rows) else Rows(quotient)
        raise _unknown()

    __truediv__ = __floordiv__

    def __add__(self, other: object) -> Rows:
        if isinstance(other, Rows):
            return Rows(self.count + other.count)
        if isinstance(other, int | np.integer) and other == 0:
            return self
        raise _unknown()

    __radd__ = __add__


def joined(arrays: Sequence[Array], axis: int) -> Array:
    """Concatenate known tensors, bounded before it is computed.

    Raises:
        AdmissionError: they differ in rank or on other axes, or are too large together.
    """
    bounded((sum(array.size for array in arrays),))
    try:
        return np.concatenate(arrays, axis=axis)
    except ValueError as error:
        raise AdmissionError(Rule.SHAPE, "what is joined differs in rank, or on other axes") from error


def _unknown() -> AdmissionError:
    text = "it computes with the batch size beyond multiplying it: export the network with plain shapes"
    return AdmissionError(Rule.ROWS, text)


def of_shape(shape: Shape) -> Array:
    """Return a shape as the value of a Shape node: integers, and Rows for the batch."""
    value = np.empty(len(shape), dtype=object)
    value[:] = [size if size >= 0 else Rows(-size) for size in shape]
    return value if any(size < 0 for size in shape) else value.astype(np.int64)


def sizes(value: Array) -> tuple[int | Rows, ...]:
    """Return a known vector of sizes.

    Raises:
        AdmissionError: it is no short vector of integers.
    """
    need(holds=value.ndim <= 1 and value.size <= 4 * MAX_RANK, text="it is no short list of integers")
    listed = value.reshape(-1).tolist()
    whole = all(type(each) is int or isinstance(each, Rows) for each in listed)  # a bool is an int in Python
    need(holds=whole, text="it is no list of integers")
    return tuple(listed)


def dimensions(value: Array) -> Shape:
    """Return a known vector of sizes as a shape, the batch marked; 0 may be among them.

    Raises:
        AdmissionError: a size is below zero: only the batch is marked so.
    """
    listed = sizes(value)
    below = any(isinstance(each, int) and each < 0 for each in listed)
    need(holds=not below, text="a size is below 0: write sizes as they are")
    return tuple(-each.count if isinstance(each, Rows) else each for each in listed)


def integers(value: Array) -> tuple[int, ...]:
    """Return a known vector of integers that has nothing to do with the batch.

    Raises:
        AdmissionError: it is something else.
    """
    listed = sizes(value)
    need(holds=not any(isinstance(each, Rows) for each in listed), text="it depends on the batch")
    return tuple(each for each in listed if isinstance(each, int))


def known_or_none(value: Array | None, shape: Shape) -> Array | None:
    """Return a known value in its full shape; None where it is not known, or depends on the row."""
    if value is None or value.ndim == len(shape):
        return value
    if any(size < 0 for size in shape):
        return None
    return np.broadcast_to(value, tuple(bounded(shape)))


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind == "f":
        return np.asarray(left / right)
    need(holds=bool(np.all(right != 0)), text="it divides by zero")
    return np.asarray(left // right)  # sizes are positive: rounding towards zero and down agree


def _modulo(left: Array, right: Array) -> Array:
    need(holds=left.dtype != object and bool(np.all(right != 0)), text="it divides by zero, or by the batch")
    return np.asarray(left % right)


def _gather(values: Array, places: Array, axis: int) -> Array:
    axis = int(axis)
    need(holds=-values.ndim <= axis < max(values.ndim, 1), text="there is no such axis", rule=Rule.ATTRIBUTE)
    size = values.shape[axis] if values.ndim else 0
    text = "it takes what is not there: keep indices in range"
    need(holds=places.dtype.kind == "i" and bool(np.all((places >= -size) & (places < size))), text=text)
    bounded((*values.shape[:axis], *places.shape, *values.shape[axis:][1:]))
    return np.asarray(np.take(values, places, axis=axis))


def slice_known(values: Array, bounds: Sequence[Shape]) -> Array:
    """Slice a known tensor by starts, ends, axes and steps."""
    starts, ends, axes, steps = bounds
    cut = [slice(None)] * values.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, None if step < 0 and end < 0 else end, step)
    return values[tuple(cut)]


def _range(start: Array, stop: Array, step: Array) -> Array:
    numbers = (start, stop, step)
    text = "it counts the rows of the batch: a row does not know its place"
    need(holds=not any(each.dtype == object for each in numbers), text=text, rule=Rule.ROWS)
    kinds = start.dtype.kind in "fi" and all(each.size == 1 and each.dtype == start.dtype for each in numbers)
    need(holds=kinds, text="it does not count by numbers of one kind")
    first, end, pace = (each.reshape(()).item() for each in numbers)
    finite = math.isfinite(end - first) and math.isfinite(pace)
    need(holds=pace != 0 and finite, text="it counts by 0, or without an end")
    long = abs(end - first) / abs(pace) > MAX_KNOWN_VALUES
    need(holds=not long, text="it is too long", rule=Rule.MEMORY)
    return np.arange(first, end, pace, dtype=start.dtype)


def bounded(shape: Sequence[int]) -> Sequence[int]:
    """Return a shape that is small enough to be computed here.

    Raises:
        AdmissionError: it is not.
    """
    size = math.prod(size for size in shape if size)  # numpy refuses to be empty beside large sizes
    text = f"a constant of {size} values is over the limit of {MAX_KNOWN_VALUES}: make it smaller"
    need(holds=0 <= size <= MAX_KNOWN_VALUES and len(shape) <= MAX_RANK, text=text, rule=Rule.MEMORY)
    return shape


def bounded_symbols(size: int) -> None:
    """Check that few sizes are computed with as objects, one by one.

    Raises:
        AdmissionError: there are many.
    """
    text = f"it computes with {size} sizes, over {MAX_SYMBOLIC_VALUES}, with the batch among them"
    need(holds=size <= MAX_SYMBOLIC_VALUES, text=f"{text}: export plain shapes", rule=Rule.MEMORY)


def _power(base: Array, exponent: Array) -> Array:
    if base.dtype == object:
        raise _unknown()
    return np.asarray(np.power(base, exponent.astype(base.dtype)))


def _spread(function: Callable[..., Any]) -> Callable[..., Array]:
    """Return a function of several arrays that broadcast, bounded before it is computed."""

    def apply(*arrays: Array) -> Array:
        try:
            spread = bounded(np.broadcast_shapes(*(array.shape for array in arrays)))
        except ValueError as error:
            raise AdmissionError(Rule.SHAPE, "constants do not broadcast: make sizes equal or 1") from error
        if any(array.dtype == object for array in arrays):
            bounded_symbols(math.prod(spread))
        try:
            with np.errstate(all="ignore"):
                return np.asarray(function(*arrays))
        except (TypeError, OverflowError) as error:  # of Rows, beyond what it can do
            raise _unknown() from error
        except ValueError as error:  # such as integers to negative powers
            raise AdmissionError(
                Rule.OPERANDS, "constants do not compute: compute them in the guest"
            ) from error

    return apply


_ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Mod": _modulo,
    "Neg": lambda a: -a,
    "Abs": abs,
    "Sqrt": np.sqrt,
    "Pow": _power,
    "Equal": lambda a, b: np.asarray(a == b, dtype=bool),
    "Greater": lambda a, b: a > b,
    "Less": lambda a, b: a < b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "LessOrEqual": lambda a, b: a <= b,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": lambda condition, a, b: np.where(condition.astype(bool), a, b),
}
FOLDED: Mapping[str, Callable[..., Array]] = {
    **{name: _spread(function) for name, function in _ELEMENTWISE.items()},
    "Range": _range,
}
gather_known = _gather
