"""`python -m benchmarks.engine_worker ENGINE NET BATCH FILE`: one engine's side of benchmarks.engines.

It writes the gradient of its first step to FILE and then steps when it is told to.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.training.graphs import admitted, random_batch
from benchmarks.training.nets import NETS
from benchmarks.training.worker import serve
from chiron.graph import open_engine
from chiron.installation import EngineName, check_engine


def main() -> None:
    """Open the installed engine on one thread, on random rows.

    Raises:
        InstallationError: this environment has another engine than ENGINE.
    """
    engine_name, net_name, rows, path = sys.argv[1:]
    check_engine(EngineName(engine_name))
    net, batch = NETS[net_name], int(rows)
    engine = open_engine(admitted(net), batch=batch, threads=1)
    x, y = random_batch(net, batch, seed=1)
    engine.run(x, y)
    np.save(path, engine.gradient)
    serve(lambda: engine.run(x, y))


if __name__ == "__main__":
    main()
