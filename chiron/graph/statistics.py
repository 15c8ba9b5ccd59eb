"""Statistics of BatchNormalization: after training, those of the data under the final parameters.

Running averages would have to travel with the parameters at each step. Chiron computes the mean and variance
that a served network needs once, from batches of training rows and the trained parameters.

Source: Wu, Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, section 3 (PreciseBN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from chiron.graph.admitted import INPUT, AdmittedGraph, Node
from chiron.graph.errors import GraphError
from chiron.graph.runtime import open_session
from chiron.graph.writer import make_model, tape_of, value_info

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chiron.graph.admitted import Float32Array, Parameter


def normalised_by_batch(graph: AdmittedGraph) -> tuple[Node, ...]:
    """Return the nodes that take their statistics from the batch in training."""
    return tuple(
        node
        for node in graph.nodes
        if node.operator == "BatchNormalization" and node.integer("training_mode") == 1
    )


def settled(
    graph: AdmittedGraph,
    parameters: Float32Array,
    batches: Iterable[Float32Array],
    *,
    batch: int,
    threads: int,
) -> Float32Array:
    """Return the parameters with the statistics of these rows in them.

    Args:
        graph: the admitted network.
        parameters: float32, shape (parameter_count,), as training left them.
        batches: float32 rows of shape (batch, *input_shape), at least one where the network normalises.
        batch: rows at once, as in training.
        threads: threads inside an operator.

    Raises:
        GraphError: there is no batch, or ONNX Runtime fails.
    """
    nodes = normalised_by_batch(graph)
    result = parameters.copy()
    if not nodes:
        return result
    model, names = _statistics_model(graph, nodes, parameters, batch=batch)
    session = open_session(model, threads=threads)
    seen = 0
    sums: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for rows in batches:
        found = [np.asarray(each, dtype=np.float64).ravel() for each in session.run(names, {INPUT: rows})]
        moments = [
            (value + found[i - 1] ** 2) if i % 2 else value for i, value in enumerate(found)
        ]  # the second moment adds up, a variance does not
        sums = moments if not sums else [a + b for a, b in zip(sums, moments, strict=True)]
        seen += 1
    if not seen:
        raise GraphError("statistics need at least one batch of rows")
    places = {parameter.name: parameter for parameter in graph.parameters}
    for number, node in enumerate(nodes):
        mean, second = sums[2 * number] / seen, sums[2 * number + 1] / seen
        _put(result, places[node.inputs[3]], mean)
        _put(result, places[node.inputs[4]], np.maximum(second - mean**2, 0))
    return result


def _put(
    flat: Float32Array, place: Parameter, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> None:
    flat[place.span] = values.astype(np.float32)


def _statistics_model(
    graph: AdmittedGraph, nodes: tuple[Node, ...], parameters: Float32Array, *, batch: int
) -> tuple[bytes, list[str]]:
    """Return a model of the forward pass in training that ends in means and variances, and their names."""
    tape = tape_of(graph, batch=batch, training=True, drops=False)
    for parameter in graph.parameters:
        values = parameters[parameter.span].reshape(parameter.shape)
        tape.tensors.append(numpy_helper.from_array(values, parameter.name))
    names = [f"{node.output}.{which}" for node in nodes for which in ("mean", "variance")]
    channels = {node.output: tape.shapes[node.inputs[0]] for node in nodes}
    outputs = []
    for name in names:
        shape = channels[name.rsplit(".", 1)[0]]
        outputs.append(value_info(name, (1, shape[1], *(1,) * (len(shape) - 2))))
    inputs = [value_info(INPUT, (batch, *graph.spec.input_shape))]
    encoded: bytes = make_model(tape.nodes, inputs, outputs, tensors=tape.tensors).SerializeToString()
    return encoded, names
