"""`python -m benchmarks.training.precision --torch PYTHON [--net NET]`: gradients against float64.

The distance is |g - g64| / |g64| in the L2 norm, of this project's float32 gradient and of PyTorch's in both
layouts; g64 is PyTorch's in float64, on the same random rows and parameters. Most of it comes from the few
values whose Relu or maximum rounding turns the other way, so that seeds differ by orders of magnitude.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.training.graphs import admitted, random_batch
from benchmarks.training.nets import NETS
from chiron.graph import StockEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ("lenet", "vgg9", "vgg9-norm", "resnet20")
SIDES = ("ours", "channels_last", "contiguous")
BATCH = 64


def sample_of(name: str, *, seed: int, batch: int = BATCH) -> dict[str, Any]:
    """Return a network's name, the parameters it trains, random rows and targets, and our gradient."""
    net = NETS[name]
    graph = admitted(net, seed=seed)
    x, y = random_batch(net, batch, seed=seed)
    engine = StockEngine(graph, batch=batch, threads=1)
    engine.run(x, y)
    trained = np.concatenate([np.arange(len(graph.initial))[parameter.span] for parameter in graph.trained])
    return {
        "net": name,
        "parameters": engine.parameters[trained],
        "x": x,
        "y": y,
        "ours": engine.gradient[trained],
    }


def distances(gradients: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return each side's distance from `float64`."""
    exact = gradients["float64"]
    norm = float(np.linalg.norm(exact))
    return {side: float(np.linalg.norm(gradients[side] - exact)) / norm for side in SIDES}


def ask(torch: Path, sample: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return a sample's gradients by PyTorch, and ours beside them."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = (Path(folder) / f"{name}.npz" for name in ("sample", "answer"))
        np.savez(given, **sample)
        command = [str(torch), "-m", "benchmarks.training.torch_gradient", str(given), str(answer)]
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603  the benchmark's own module
        with np.load(answer) as found:
            return {**found, "ours": sample["ours"]}


def main() -> None:
    """Print each network's distances, seed by seed, and their means."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.precision", description=__doc__)
    parser.add_argument(
        "--torch", metavar="PYTHON", type=Path, required=True, help="its environment's Python"
    )
    parser.add_argument("--net", action="append", choices=sorted(NETS), help="more than one: say it again")
    parser.add_argument("--seeds", type=int, default=6)
    given = parser.parse_args()
    print(f"batch {BATCH}, 1 thread, load {os.getloadavg()[0]:.1f}\n")
    print("| network | seed | ours | PyTorch, channels last | PyTorch, contiguous |\n|---|---|---|---|---|")
    for name in given.net or DEFAULT:
        found = []
        for seed in range(given.seeds):
            found.append(distances(ask(given.torch.absolute(), sample_of(name, seed=seed))))
            print(_row(name, str(seed), found[-1]), flush=True)
        print(_row(name, "mean", {side: float(np.mean([d[side] for d in found])) for side in SIDES}))


def _row(name: str, seed: str, distance: Mapping[str, float]) -> str:
    return f"| {name} | {seed} | " + " | ".join(f"{distance[side]:.1e}" for side in SIDES) + " |"


if __name__ == "__main__":
    main()
