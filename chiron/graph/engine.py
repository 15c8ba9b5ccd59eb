"""Engines run one training step on flat buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from chiron.graph.admitted import INPUT, AdmittedGraph, Float32Array
from chiron.graph.errors import GraphError
from chiron.graph.gradient import LOSS, gradient_name, training_model
from chiron.graph.runtime import bind_array, open_session
from chiron.graph.shapes import bind
from chiron.graph.tape import mask_name
from chiron.graph.write_loss import TARGETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.graph.admitted import Node


class Engine(Protocol):
    """Computes loss and gradient of one batch. Both buffers are flat float32, shape (parameter_count,).

    They are bound once: write into them, never replace them.
    """

    @property
    def parameters(self) -> Float32Array:
        """The parameters that the next step reads."""

    @property
    def gradient(self) -> Float32Array:
        """The gradient that the last step wrote."""

    def run(
        self, x: Float32Array, y: NDArray[np.int64], *, noise: np.random.Generator | None = None
    ) -> float:
        """Fill `gradient` at `parameters` and return the batch's mean loss.

        Args:
            x: float32, shape (batch, *input_shape).
            y: int64, shape (batch,), targets; one outside the classes counts as no class.
            noise: draws what dropout drops: seeded by the caller, so that a step can be run again.
        """


def dropouts(graph: AdmittedGraph) -> list[Node]:
    """Return the nodes that drop values in training."""
    return [node for node in graph.nodes if node.operator == "Dropout"]


@dataclass(frozen=True, slots=True)
class Mask:
    """What a dropout multiplies by: 0 with probability `ratio`, else 1 / (1 - ratio); float32, bound once.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 10 (scaled in training).
    """

    ratio: float
    values: Float32Array

    def draw(self, noise: np.random.Generator | None) -> None:
        """Draw it anew.

        Raises:
            ValueError: there is no noise.
        """
        if noise is None:
            raise ValueError("the network drops values at random: a step needs noise")
        noise.random(dtype=np.float32, out=self.values)
        np.greater_equal(self.values, np.float32(self.ratio), out=self.values)
        np.multiply(self.values, np.float32(1 / (1 - self.ratio)), out=self.values)


class SessionEngine:
    """A training graph as a session of ONNX Runtime; parameters and gradients are bound once, not copied."""

    def __init__(
        self, graph: AdmittedGraph, model: bytes, *, batch: int, threads: int, as_written: bool = False
    ) -> None:
        """Load a training graph of this admitted graph, with the inputs and outputs of `training_model`.

        `as_written` is as `open_session` has it.

        Raises:
            GraphError: ONNX Runtime refuses it.
        """
        self._parameters: Float32Array = graph.initial.copy()
        self._gradient: Float32Array = np.zeros_like(self._parameters)
        self._shape = (batch, *graph.spec.input_shape)
        self._loss = np.zeros((), dtype=np.float32)
        self._session = open_session(model, threads=threads, as_written=as_written)
        self._binding = self._session.io_binding()
        self._bound: list[Any] = []  # ONNX Runtime's views, kept alive
        for parameter in graph.trained:
            view = bind_array(self._parameters[parameter.span].reshape(parameter.shape))
            self._bound.append(view)
            self._binding.bind_ortvalue_input(parameter.name, view)
            self._bind_output(gradient_name(parameter.name), self._gradient[parameter.span], parameter.shape)
        self._bind_output(LOSS, self._loss, ())
        self._masks = [
            self._bind_mask(node, bind(graph.tensors[node.output], batch)) for node in dropouts(graph)
        ]

    @property
    def parameters(self) -> Float32Array:
        """The parameters that the next step reads, float32 of shape (parameter_count,)."""
        return self._parameters

    @property
    def gradient(self) -> Float32Array:
        """The gradient that the last step wrote, float32 of shape (parameter_count,)."""
        return self._gradient

    def run(
        self, x: Float32Array, y: NDArray[np.int64], *, noise: np.random.Generator | None = None
    ) -> float:
        """Fill `gradient` at `parameters` and return the loss; see `Engine.run`.

        Contiguous arrays are bound where they lie; others are copied.

        Raises:
            ValueError: x or y has another shape or dtype than the batch, or dropout has no noise.
            GraphError: ONNX Runtime fails.
        """
        fits = x.shape == self._shape and y.shape == self._shape[:1]
        if not fits or x.dtype != np.float32 or y.dtype != np.int64:
            wanted = f"float32 {self._shape} and int64 {self._shape[:1]}"
            raise ValueError(f"a batch is {wanted}, not {x.dtype} {x.shape} and {y.dtype} {y.shape}")
        rows, targets = np.ascontiguousarray(x), np.ascontiguousarray(y)  # both live until the step is over
        self._binding.bind_ortvalue_input(INPUT, bind_array(rows))
        self._binding.bind_ortvalue_input(TARGETS, bind_array(targets))
        for mask in self._masks:
            mask.draw(noise)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise GraphError(f"a training step failed ({type(error).__name__})") from error
        return float(self._loss)

    def _bind_mask(self, node: Node, shape: tuple[int, ...]) -> Mask:
        mask = Mask(node.number("ratio"), np.ones(shape, dtype=np.float32))
        view = bind_array(mask.values)
        self._bound.append(view)
        self._binding.bind_ortvalue_input(mask_name(node.output), view)
        return mask

    def _bind_output(self, name: str, array: Float32Array, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, list(shape), array.ctypes.data)


class StockEngine(SessionEngine):
    """The gradient graph of `training_model`: standard operators, so that any ONNX Runtime runs it."""

    def __init__(self, graph: AdmittedGraph, *, batch: int, threads: int) -> None:
        """Build the gradient graph and load it.

        Raises:
            GraphError: ONNX Runtime refuses it.
        """
        model = training_model(graph, batch=batch)
        super().__init__(graph, model, batch=batch, threads=threads, as_written=True)
