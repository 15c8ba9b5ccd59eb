"""The network as it is served: rows in, probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.graph.admitted import INPUT, LOGITS, Float32Array
from chiron.graph.errors import GraphError
from chiron.graph.layout import settle
from chiron.graph.phrasing import mostly_filtered
from chiron.graph.runtime import open_session
from chiron.graph.shapes import volume
from chiron.graph.writer import finished, inference_tape

if TYPE_CHECKING:
    from chiron.graph.admitted import AdmittedGraph

PROBABILITIES = "probabilities"
AT_ONCE_VALUES = 1 << 24  # of all tensors together: 64 MiB
BLOCK = 16  # rows from which minimal filtering is faster; more would leave the caches


class Predictor:
    """Answers any number of rows, few at once where each takes much memory.

    Whole blocks of rows go through a model of their own where convolutions are faster so; what is left, as
    the network stands. `predict` may be called from several threads at once.
    """

    def __init__(self, graph: AdmittedGraph, parameters: Float32Array, *, threads: int) -> None:
        """Load the network with these parameters, float32 of shape (parameter_count,).

        Raises:
            GraphError: the parameters are of another size, or ONNX Runtime refuses the graph.
        """
        self._shape, self._classes = graph.spec.input_shape, graph.spec.classes
        self._at_once = max(1, AT_ONCE_VALUES // sum(volume(shape) for shape in graph.tensors.values()))
        self._session = open_session(_serving_model(graph, parameters), threads=threads)
        self._blocks = None
        if self._at_once >= BLOCK and mostly_filtered(graph):
            self._blocks = open_session(_serving_model(graph, parameters, block=BLOCK), threads=threads)

    def predict(self, x: Float32Array) -> Float32Array:
        """Return probabilities, float32 of shape (n, classes), for float32 rows of shape (n, *input_shape).

        Raises:
            ValueError: the rows are of another shape.
            GraphError: ONNX Runtime fails on them.
        """
        if x.ndim != len(self._shape) + 1 or x.shape[1:] != self._shape:
            raise ValueError(f"rows have shape {self._shape}, not {x.shape[1:]}")
        rows = np.ascontiguousarray(x, dtype=np.float32)
        whole = len(rows) // BLOCK * BLOCK if self._blocks is not None else 0
        starts = range(whole, len(rows), self._at_once)
        parts = [self._run(self._blocks, rows[at : at + BLOCK]) for at in range(0, whole, BLOCK)]
        parts += [self._run(self._session, rows[at : at + self._at_once]) for at in starts]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self._classes), dtype=np.float32), *parts])

    @staticmethod
    def _run(session: Any, rows: Float32Array) -> Float32Array:  # noqa: ANN401  ONNX Runtime ships no types
        try:
            (answer,) = session.run([PROBABILITIES], {INPUT: rows})
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise GraphError(f"a prediction failed ({type(error).__name__})") from error
        return np.asarray(answer, dtype=np.float32)


def _serving_model(graph: AdmittedGraph, parameters: Float32Array, *, block: int | None = None) -> bytes:
    """Return the inference model with a softmax behind it.

    It takes any number of rows, or with `block` that many: then convolutions are filtered where that is
    faster, and max pooling stays on planes between them.
    """
    tape = inference_tape(graph, parameters, batch=block, phrased=block is not None)
    tape.op("Softmax", [LOGITS], name=PROBABILITIES, axis=1)
    model = finished(tape, graph, output=PROBABILITIES)
    encoded: bytes = (model if block is None else settle(model)).SerializeToString()
    return encoded
