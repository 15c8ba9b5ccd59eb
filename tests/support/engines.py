"""The engines that this environment can run: `make test-ort-training` has both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chiron.graph import Engine, GraphError, OrtTrainingEngine, StockEngine
from chiron.graph.ort_training import missing_operators
from chiron.graph.writer import tape_of
from chiron.installation import EngineName, installed_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.graph import AdmittedGraph

HAS_ORT_TRAINING = installed_engine() is EngineName.ORT_TRAINING
ENGINES: tuple[Callable[..., Engine], ...] = (StockEngine, *([OrtTrainingEngine] * HAS_ORT_TRAINING))
NEWEST_OPSET = 21 if HAS_ORT_TRAINING else 25  # that the installed ONNX Runtime loads as it stands
needs_ort_training = pytest.mark.skipif(
    not HAS_ORT_TRAINING, reason="needs onnxruntime-training-cpu: make test-ort-training"
)


def engines_for(graph: AdmittedGraph) -> list[Callable[..., Engine]]:
    """Return the engines that must give this graph's gradients; one that lacks an operator must say so."""
    if not HAS_ORT_TRAINING or not missing_operators(tape_of(graph, batch=2, training=True)):
        return list(ENGINES)
    with pytest.raises(GraphError, match="use the stock engine"):
        OrtTrainingEngine(graph, batch=2, threads=1)
    return [StockEngine]
