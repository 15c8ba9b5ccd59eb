"""Opens the engine that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.graph.engine import StockEngine
from chiron.graph.ort_training import OrtTrainingEngine
from chiron.installation import EngineName, installed_engine

if TYPE_CHECKING:
    from chiron.graph.admitted import AdmittedGraph
    from chiron.graph.engine import Engine


def open_engine(graph: AdmittedGraph, *, batch: int, threads: int) -> Engine:
    """Return the installed engine, ready for batches of one size.

    Raises:
        GraphError: ONNX Runtime refuses the graph.
        InstallationError: not exactly one engine is installed.
    """
    if installed_engine() is EngineName.ORT_TRAINING:
        return OrtTrainingEngine(graph, batch=batch, threads=threads)
    return StockEngine(graph, batch=batch, threads=threads)
