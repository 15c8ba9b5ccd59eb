"""`python -m benchmarks.training.chiron_worker NET BATCH THREADS train|infer`: this project's side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks.training.graphs import admitted, random_batch
from benchmarks.training.nets import NETS
from benchmarks.training.worker import serve
from chiron.graph import Predictor, StockEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.training.nets import Net


def step_of(net: Net, *, batch: int, threads: int, training: bool) -> Callable[[], float]:
    """Return what runs one step on random rows."""
    x, y = random_batch(net, batch)
    graph = admitted(net)
    if training:
        engine = StockEngine(graph, batch=batch, threads=threads)
        return lambda: engine.run(x, y)
    predictor = Predictor(graph, graph.initial, threads=threads)
    return lambda: float(predictor.predict(x)[0, 0])


if __name__ == "__main__":
    name, rows, threads, mode = sys.argv[1:]
    serve(step_of(NETS[name], batch=int(rows), threads=int(threads), training=mode == "train"))
