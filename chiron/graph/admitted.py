"""The admitted graph: checked content under names of our own. The guest's own bytes go no further."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.graph.errors import GraphError
from chiron.graph.loss import Loss
from chiron.graph.shapes import bind

if TYPE_CHECKING:
    from collections.abc import Mapping

Float32Array = np.ndarray[Any, np.dtype[np.float32]]
Array = np.ndarray[Any, np.dtype[Any]]
AttributeValue = int | float | str | tuple[int, ...]
Shape = tuple[int, ...]
INPUT, LOGITS = "x", "logits"
CROSS_ENTROPY = Loss()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What the data set demands of a graph: one row's shape, and the number of targets."""

    input_shape: Shape
    classes: int


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """The most a graph may be.

    `max_nodes` bounds the guest's nodes, `max_primitives` what they come to when layers are taken apart.
    `max_taps` bounds the places of all convolution kernels together: each becomes nodes of the gradient
    graph. `max_activation_bytes` bounds a training step of `max_batch` rows, estimated from above.
    """

    max_bytes: int
    max_parameters: int
    max_nodes: int = 2048
    max_primitives: int = 16384
    max_taps: int = 2048
    max_activation_bytes: int = 2 << 30
    max_batch: int = 256


class Attributed:
    """Attributes by name and type; a rule of the table has checked them."""

    __slots__ = ()
    attributes: Mapping[str, AttributeValue]

    def integer(self, name: str) -> int:
        """Return an attribute that is one integer."""
        value = self.attributes[name]
        if not isinstance(value, int):
            raise TypeError(f"{name} is no integer")
        return value

    def number(self, name: str) -> float:
        """Return an attribute that is one number."""
        value = self.attributes[name]
        if not isinstance(value, float):
            raise TypeError(f"{name} is no float")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a list of integers."""
        value = self.attributes[name]
        if not isinstance(value, tuple):
            raise TypeError(f"{name} is no list")
        return value

    def text(self, name: str) -> str:
        """Return an attribute that is a word."""
        value = self.attributes[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        return value


@dataclass(frozen=True, slots=True)
class Node(Attributed):
    """One primitive operator: its inputs, one output, and its attributes.

    Shapes among the attributes hold the batch as chiron.graph.shapes says.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the model and its place in the flat vector, in float32 values.

    One that is not `trained` holds statistics of BatchNormalization: its gradient is 0.
    """

    name: str
    shape: Shape
    offset: int
    trained: bool = True

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
        nodes: primitive operators, each behind what it reads.
        parameters: the model's tensors in the order of the flat vector.
        initial: float32, shape (parameter_count,), finite.
        constants: float32, int64 and bool tensors that are not trained, finite.
        tensors: the shape of `x` and of each node's output; a size below zero is that many times the batch.
        loss: what training minimises.

    Raises:
        GraphError: `initial` has another size than the parameters, or a value is not finite.
    """

    spec: TensorSpec
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...]
    initial: Float32Array
    constants: Mapping[str, Array]
    tensors: Mapping[str, Shape]
    loss: Loss = CROSS_ENTROPY

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
        """Number of values in the flat vector."""
        return int(self.initial.size)

    @property
    def trained(self) -> tuple[Parameter, ...]:
        """The parameters that have a gradient."""
        return tuple(parameter for parameter in self.parameters if parameter.trained)

    def shapes(self, batch: int) -> dict[str, Shape]:
        """Return the shape of every tensor for a batch of this size."""
        shapes = {name: bind(shape, batch) for name, shape in self.tensors.items()}
        shapes |= {parameter.name: parameter.shape for parameter in self.parameters}
        return shapes | {name: array.shape for name, array in self.constants.items()}
