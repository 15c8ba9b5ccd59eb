"""Engines run one training step on flat buffers; the predictor answers batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import helper, numpy_helper

from chiron.graph.admitted import INPUT, LOGITS, Float32Array, forward_nodes, make_model, value_info
from chiron.graph.errors import GraphError
from chiron.graph.gradient import LOSS, TARGETS, gradient_name, training_model
from chiron.graph.runtime import bind_array, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.graph.admitted import AdmittedGraph

PROBABILITIES = "probabilities"


class Engine(Protocol):
    """Computes loss and gradient of one batch. Both buffers are flat float32, shape (parameter_count,)."""

    parameters: Float32Array
    gradient: Float32Array

    def run(self, x: Float32Array, y: NDArray[np.int64]) -> float:
        """Fill `gradient` at `parameters` and return the batch's mean loss.

        Args:
            x: float32, shape (batch, *input_shape).
            y: int64, shape (batch,), targets.
        """


class StockEngine:
    """The training graph on stock ONNX Runtime; parameters and gradients are bound once, without copies."""

    def __init__(self, graph: AdmittedGraph, *, batch: int, threads: int) -> None:
        """Build the gradient graph and load it.

        Raises:
            GraphError: ONNX Runtime refuses it.
        """
        self.parameters: Float32Array = graph.initial.copy()
        self.gradient: Float32Array = np.zeros_like(self.parameters)
        self._shape = (batch, *graph.spec.input_shape)
        self._loss = np.zeros((), dtype=np.float32)
        self._session = open_session(training_model(graph, batch=batch), threads=threads)
        self._binding = self._session.io_binding()
        self._bound: list[Any] = []  # ONNX Runtime's views, kept alive
        for parameter in graph.parameters:
            span = slice(parameter.offset, parameter.offset + parameter.size)
            view = bind_array(self.parameters[span].reshape(parameter.shape))
            self._bound.append(view)
            self._binding.bind_ortvalue_input(parameter.name, view)
            self._bind_output(gradient_name(parameter.name), self.gradient[span], parameter.shape)
        self._bind_output(LOSS, self._loss, ())

    def run(self, x: Float32Array, y: NDArray[np.int64]) -> float:
        """Fill `gradient` at `parameters` and return the loss; see `Engine.run`.

        Raises:
            ValueError: x or y has another shape than the batch.
        """
        if x.shape != self._shape or y.shape != self._shape[:1]:
            raise ValueError(f"a batch has rows of shape {self._shape}, not {x.shape}")
        self._binding.bind_cpu_input(INPUT, np.ascontiguousarray(x, dtype=np.float32))
        self._binding.bind_cpu_input(TARGETS, np.ascontiguousarray(y, dtype=np.int64))
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise GraphError(f"a training step failed ({type(error).__name__})") from error
        return float(self._loss)

    def _bind_output(self, name: str, array: Float32Array, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, list(shape), array.ctypes.data)


class Predictor:
    """The network as it is served: rows in, probabilities out, any number of rows."""

    def __init__(self, graph: AdmittedGraph, parameters: Float32Array, *, threads: int) -> None:
        """Load the network with these parameters, float32 of shape (parameter_count,).

        Raises:
            GraphError: the parameters are of another size, or ONNX Runtime refuses the graph.
        """
        self._session = open_session(inference_model(graph, parameters), threads=threads)

    def predict(self, x: Float32Array) -> Float32Array:
        """Return probabilities, float32 of shape (n, classes), for rows of shape (n, *input_shape).

        Raises:
            GraphError: ONNX Runtime fails on them.
        """
        try:
            (answer,) = self._session.run([PROBABILITIES], {INPUT: np.ascontiguousarray(x, dtype=np.float32)})
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise GraphError(f"a prediction failed ({type(error).__name__})") from error
        return np.asarray(answer, dtype=np.float32)


def inference_model(graph: AdmittedGraph, parameters: Float32Array) -> bytes:
    """Return the network with parameters inside and a softmax behind it, for any number of rows.

    Raises:
        GraphError: the parameters are not float32 of shape (parameter_count,).
    """
    if parameters.shape != graph.initial.shape or parameters.dtype != np.float32:
        raise GraphError(
            f"the network takes {graph.parameter_count} float32 parameters, not {parameters.shape}"
        )
    nodes, tensors = forward_nodes(graph, -1)
    nodes.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], name=PROBABILITIES, axis=1))
    for parameter in graph.parameters:
        values = parameters[parameter.offset : parameter.offset + parameter.size].reshape(parameter.shape)
        tensors.append(numpy_helper.from_array(values, parameter.name))
    inputs = [value_info(INPUT, ("n", *graph.spec.input_shape))]
    outputs = [value_info(PROBABILITIES, ("n", graph.spec.classes))]
    encoded: bytes = make_model(nodes, inputs, outputs, tensors=tensors).SerializeToString()
    return encoded
