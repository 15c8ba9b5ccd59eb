"""`python -m benchmarks.engine_worker ENGINE NET BATCH FILE`: one engine's side of benchmarks.engines.

It writes the gradient of its first step to FILE and then steps when it is told to.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.training.graphs import encoded
from benchmarks.training.nets import NETS
from benchmarks.training.worker import serve
from chiron.graph import GraphLimits, TensorSpec, admit, open_engine
from chiron.installation import EngineName, check_engine

LIMITS = GraphLimits(max_bytes=1 << 28, max_parameters=1 << 26, max_activation_bytes=1 << 36)


def main() -> None:
    """Open the installed engine on one thread, on random rows.

    Raises:
        InstallationError: this environment has another engine than ENGINE.
    """
    engine_name, net_name, rows, path = sys.argv[1:]
    check_engine(EngineName(engine_name))
    net, batch = NETS[net_name], int(rows)
    graph = admit(encoded(net), TensorSpec(net.shape, net.classes), limits=LIMITS)
    engine = open_engine(graph, batch=batch, threads=1)
    random = np.random.default_rng(1)
    x = random.normal(size=(batch, *net.shape)).astype(np.float32)
    y = random.integers(0, net.classes, batch)
    engine.run(x, y)
    np.save(path, engine.gradient)
    serve(lambda: engine.run(x, y))


if __name__ == "__main__":
    main()
