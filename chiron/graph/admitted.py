"""The admitted graph: checked content under names of our own. The guest's own bytes go no further."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.graph.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

Float32Array = np.ndarray[Any, np.dtype[np.float32]]
AttributeValue = int | float | str | tuple[int, ...]
Shape = tuple[int, ...]
INPUT, LOGITS = "x", "logits"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What the data set demands of a graph: one row's shape, and the number of targets."""

    input_shape: Shape
    classes: int


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """The most a graph may be.

    `max_taps` bounds the places of all convolution kernels together: each becomes nodes of the gradient
    graph. `max_activation_bytes` bounds a training step of `max_batch` rows, estimated from above.
    """

    max_bytes: int
    max_parameters: int
    max_nodes: int = 1024
    max_taps: int = 2048
    max_activation_bytes: int = 2 << 30
    max_batch: int = 256


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: its inputs, one output, and every attribute of its row in the table."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, AttributeValue]

    def integer(self, name: str) -> int:
        """Return an attribute that is one integer."""
        value = self.attributes[name]
        if not isinstance(value, int):
            raise TypeError(f"{name} of {self.operator} is no integer")
        return value

    def number(self, name: str) -> float:
        """Return an attribute that is one number."""
        value = self.attributes[name]
        if not isinstance(value, float):
            raise TypeError(f"{name} of {self.operator} is no float")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a list of integers."""
        value = self.attributes[name]
        if not isinstance(value, tuple):
            raise TypeError(f"{name} of {self.operator} is no list")
        return value


@dataclass(frozen=True, slots=True)
class Parameter:
    """A trainable tensor and its place in the flat vector, in float32 values."""

    name: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def span(self) -> slice:
        """Its place in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True, slots=True, eq=False)
class AdmittedGraph:
    """A network: input `x` (n, *input_shape), output `logits` (n, classes).

    Args:
        spec: what the data set demands.
        nodes: operators, each behind what it reads.
        parameters: the trainable tensors in the order of the flat vector.
        initial: float32, shape (parameter_count,), finite.
        constants: float32 tensors that are not trained, finite.
        rows: for `x` and the output of each node, one row's shape (a batch puts its size in front).

    Raises:
        GraphError: `initial` has another size than the parameters, or a value is not finite.
    """

    spec: TensorSpec
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...]
    initial: Float32Array
    constants: Mapping[str, Float32Array]
    rows: Mapping[str, Shape]

    def __post_init__(self) -> None:
        wanted = sum(parameter.size for parameter in self.parameters)
        if self.initial.shape != (wanted,) or self.initial.dtype != np.float32:
            raise GraphError(f"{wanted} float32 values are needed, not shape {self.initial.shape}")
        for array in (self.initial, *self.constants.values()):
            if not np.isfinite(array).all():
                raise GraphError("an admitted graph holds NaN or infinity: admit it anew")
            array.setflags(write=False)

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return int(self.initial.size)

    def shapes(self, batch: int) -> dict[str, Shape]:
        """Return the shape of every tensor for a batch of this size."""
        shapes = {name: (batch, *row) for name, row in self.rows.items()}
        shapes |= {parameter.name: parameter.shape for parameter in self.parameters}
        return shapes | {name: array.shape for name, array in self.constants.items()}
