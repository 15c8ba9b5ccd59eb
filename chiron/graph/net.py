"""The network in the making: primitive operators under names of our own, each with its shape, all counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.admitted import Attributed, Node, Parameter
from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.known import Rows, bounded, bounded_symbols
from chiron.graph.primitives import PRIMITIVES, Kind
from chiron.graph.shapes import MAX_RANK, has_batch, need, volume
from chiron.graph.tensors import MAX_DIMENSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.admitted import Array, AttributeValue, Float32Array, GraphLimits, Shape

VALUE_BYTES = 4
_KINDS = {"f": Kind.FLOAT, "i": Kind.INT, "O": Kind.INT, "b": Kind.BOOL}


class Source(Enum):
    """Where a tensor comes from."""

    NODE = "the network's input or a node's output"
    PARAMETER = "an initializer that is trained"
    KNOWN = "a constant"


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor: our name for it, its shape and kind, and its value where it is known.

    A known value is not in the graph (its name is empty) until a node needs it. Of rank 0 it may stand for
    a tensor of any shape that holds the same everywhere.
    """

    name: str
    shape: Shape
    kind: Kind = Kind.FLOAT
    source: Source = Source.NODE
    value: Array | None = None

    @property
    def has_batch(self) -> bool:
        """Whether it holds one entry for each row."""
        return has_batch(self.shape)


def known(value: Array, shape: Shape | None = None) -> Tensor:
    """Return a tensor whose value is known.

    Raises:
        AdmissionError: it is too large, also where one value stands for all.
    """
    own = value.shape if shape is None else shape
    small = len(own) <= MAX_RANK and volume(own) <= MAX_DIMENSION
    text = f"a constant has a rank over {MAX_RANK}, or over {MAX_DIMENSION} values a row: make it smaller"
    need(holds=small, text=text, rule=Rule.MEMORY)
    if value.dtype == object:
        bounded_symbols(value.size)
        value = _plain(value)
    return Tensor("", own, _KINDS[value.dtype.kind], Source.KNOWN, value)


def _plain(value: Array) -> Array:
    """Return sizes as integers, if the batch is not among them: a part of a shape that leaves it out."""
    if any(isinstance(each, Rows) for each in value.flat):
        return value
    try:
        return value.astype(np.int64)
    except OverflowError as error:
        raise AdmissionError(Rule.SHAPE, "a size is over 64 bits: make it smaller") from error


@dataclass(frozen=True, slots=True)
class Call(Attributed):
    """One of the guest's nodes, checked against its row of the table; an operand left out is None.

    `batch` is the batch size that the guest's graph was exported for, 0 where it leaves that open;
    `trains_statistics` makes every BatchNormalization use the batch's.
    """

    operator: str
    operands: tuple[Tensor | None, ...]
    attributes: Mapping[str, AttributeValue]
    outputs: int
    opset: int
    batch: int
    trains_statistics: bool

    def operand(self, place: int) -> Tensor | None:
        """Return an operand, or None where it is left out."""
        return self.operands[place] if place < len(self.operands) else None

    def __getitem__(self, place: int) -> Tensor:
        """Return an operand that has to be there."""
        tensor = self.operand(place)
        if tensor is None:
            raise AdmissionError(Rule.OPERANDS, f"input {place} is needed: give it")
        return tensor

    def value(self, place: int) -> Array | None:
        """Return the value of an operand that is known, or None where it is left out.

        Raises:
            AdmissionError: it is there and its value is not known.
        """
        tensor = self.operand(place)
        if tensor is None:
            return None
        if tensor.value is None:
            raise AdmissionError(Rule.OPERANDS, f"input {place} must be a constant: compute it in the guest")
        return tensor.value


def _need_values(*shapes: Shape) -> None:
    """Refuse what is empty, which no rule of the primitives is made for, and what has many axes."""
    holds = all(0 not in shape and len(shape) <= MAX_RANK for shape in shapes)
    need(holds=holds, text=f"a tensor has no values, or a rank over {MAX_RANK}: leave it out, or reshape it")


class Net:
    """Collects primitives, parameters and constants."""

    def __init__(self, limits: GraphLimits) -> None:
        self.nodes: list[Node] = []
        self.parameters: list[Parameter] = []
        self.flat: list[Float32Array] = []
        self.constants: dict[str, Array] = {}
        self.tensors: dict[str, Shape] = {}
        self._limits = limits
        self._count = 0
        self._known: dict[tuple[str, Shape, bytes], str] = {}
        self._shapes: dict[str, Shape] = {}
        self._values = 0
        self._passing_values = 0
        self._fixed_values = 0
        self._taps = 0

    @property
    def parameter_count(self) -> int:
        """Number of values in the flat vector so far."""
        return self._count

    def parameter(self, values: Float32Array, *, trained: bool = True) -> Tensor:
        """Add a tensor of the model."""
        own = f"p{len(self.parameters)}"
        self.parameters.append(Parameter(own, values.shape, self._count, trained))
        self.flat.append(values.ravel())
        self._count += values.size
        self._shapes[own] = values.shape
        return Tensor(own, values.shape, Kind.FLOAT, Source.PARAMETER)

    def untrained(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the model as statistics, which are not trained.

        Raises:
            AdmissionError: it is computed.
        """
        if tensor.value is not None:
            values = np.broadcast_to(tensor.value.astype(np.float32), bounded(tensor.shape)).copy()
            text = "statistics hold NaN or infinity: check how the guest computes them"
            need(holds=bool(np.isfinite(values).all()), text=text, rule=Rule.FINITE)
            return self.parameter(values, trained=False)
        need(
            holds=tensor.source is Source.PARAMETER,
            text="statistics must be initializers",
            rule=Rule.OPERANDS,
        )
        place = int(tensor.name[1:])
        old = self.parameters[place]
        self.parameters[place] = Parameter(old.name, old.shape, old.offset, trained=False)
        return tensor

    def values_of(self, parameter: Tensor) -> Float32Array:
        """Return the initial values of a tensor of the model."""
        return self.flat[int(parameter.name[1:])]

    def emit(self, operator: str, *operands: Tensor, **attributes: AttributeValue) -> Tensor:
        """Add a primitive and return its output.

        Raises:
            AdmissionError: the operands do not fit, or the graph becomes too large.
        """
        primitive = PRIMITIVES[operator]
        node = Node(operator, tuple(self.named(each) for each in operands), f"v{len(self.nodes)}", attributes)
        shapes = [each.shape for each in operands]
        _need_values(*shapes)
        result = primitive.shape(node, shapes)
        _need_values(result)
        text = f"it is taken apart into over {self._limits.max_primitives} steps: make the network shorter"
        need(holds=len(self.nodes) < self._limits.max_primitives, text=text, rule=Rule.NODES)
        self._shapes[node.output] = self.tensors[node.output] = result
        self.nodes.append(node)
        self._weigh(node, [*shapes, result])
        return Tensor(node.output, result, primitive.kind or operands[primitive.like].kind)

    def declare(self, name: str, shape: Shape) -> Tensor:
        """Add the network's input."""
        self.tensors[name] = self._shapes[name] = shape
        return Tensor(name, shape)

    def named(self, tensor: Tensor) -> str:
        """Return a tensor's name, after putting its known value into the graph."""
        if tensor.value is None:
            return tensor.name
        value = np.asarray(tensor.value)
        if tensor.has_batch:
            text = "a constant differs from row to row: take it from the rows"
            need(holds=value.ndim == 0, text=text, rule=Rule.ROWS)
            return self.emit("Expand", known(value), shape=tensor.shape).name
        return self._constant(np.broadcast_to(value, tuple(bounded(tensor.shape))))

    def _constant(self, value: Array) -> str:
        need(holds=value.dtype != object, text="it takes the batch size as a number", rule=Rule.ROWS)
        kinds = {"f": np.float32, "i": np.int64, "b": np.bool_}
        array: Array = np.ascontiguousarray(value, dtype=kinds[value.dtype.kind]).reshape(value.shape).copy()
        if array.dtype == np.float32:
            need(holds=not np.isnan(array).any(), text="a constant is not a number", rule=Rule.FINITE)
            np.nan_to_num(array, copy=False)  # masks hold minus infinity: the lowest number masks as well
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = f"c{len(self.constants)}"
            self.constants[name] = array
            self._shapes[name] = array.shape
        return self._known[key]

    def _weigh(self, node: Node, chain: list[Shape]) -> None:
        """Add up what the gradient graph will cost.

        Every tensor and its gradient are counted as if all were kept at once: an upper estimate. What passes
        with a node is counted for the node that takes most. Each use of an initializer has a gradient of its
        own until all are summed.
        """
        primitive = PRIMITIVES[node.operator]
        for name, shape in zip(node.inputs, chain, strict=False):
            if name[0] in "pc":
                self._fixed_values += volume(shape)
        values, passing = (
            2 * volume(chain[-1]) + primitive.workspace(node, chain),
            primitive.passing(node, chain),
        )
        if any(has_batch(shape) for shape in chain):
            self._values += values - passing
            self._passing_values = max(self._passing_values, passing)
        else:
            self._fixed_values += values
        self._fixed_values += primitive.unfolded(node, chain)
        row = self._values + self._passing_values
        used = VALUE_BYTES * (row * self._limits.max_batch + self._fixed_values)
        limit = self._limits.max_activation_bytes
        text = f"up to here, a step of {self._limits.max_batch} rows takes {used} bytes"
        need(
            holds=used <= limit,
            text=f"{text}, over the limit of {limit}: shrink the network",
            rule=Rule.MEMORY,
        )
        if node.operator in {"Conv", "ConvTranspose"}:
            self._taps += math.prod(chain[1][2:])
        text = f"convolution kernels have {self._taps} places up to here, over {self._limits.max_taps}"
        need(holds=self._taps <= self._limits.max_taps, text=f"{text}: use smaller kernels", rule=Rule.NODES)
