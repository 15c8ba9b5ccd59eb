"""`python -m benchmarks.training.chiron_worker NET BATCH THREADS train|infer`: this project's side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.training.graphs import encoded
from benchmarks.training.nets import NETS
from benchmarks.training.worker import serve
from chiron.graph import GraphLimits, Predictor, StockEngine, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.training.nets import Net

LIMITS = GraphLimits(max_bytes=1 << 30, max_parameters=1 << 28, max_activation_bytes=1 << 36)


def step_of(net: Net, *, batch: int, threads: int, training: bool) -> Callable[[], float]:
    """Return what runs one step on random rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, *net.shape)).astype(np.float32)
    y = random.integers(0, net.classes, batch)
    graph = admit(encoded(net), TensorSpec(net.shape, net.classes), limits=LIMITS)
    if training:
        engine = StockEngine(graph, batch=batch, threads=threads)
        return lambda: engine.run(x, y)
    predictor = Predictor(graph, graph.initial, threads=threads)
    return lambda: float(predictor.predict(x)[0, 0])


if __name__ == "__main__":
    name, rows, threads, mode = sys.argv[1:]
    serve(step_of(NETS[name], batch=int(rows), threads=int(threads), training=mode == "train"))
