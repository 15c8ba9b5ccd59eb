"""Times the stock engine against ort-training, which cannot share an environment: two processes, by turns.

    python -m benchmarks.engines .venv-ort-training/bin/python

Each network has two fresh processes of one thread, which step only when it is their turn. The ratio is the
median over pairs of turns: a busy machine slows both. Memory is resident, each process's peak while it steps.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.training.duel import Side
from chiron.installation import EngineName

BATCH, TURNS, TURN_S = 64, 15, 0.3
NETWORKS = ("mlp", "lenet", "vgg9", "vgg9-norm", "resnet20")
HEAD = (
    "| network | stock, rows/s | ort-training, rows/s | second's speed / first's | quartiles |"
    " stock, MiB | ort-training, MiB | second's memory / first's | gradients apart |"
)


def compare(name: str, pythons: tuple[str, str], folder: Path) -> str:
    """Time one network by turns and return its row of the table."""
    sides: list[Side] = []
    files = [folder / f"{name}-{engine}.npy" for engine in EngineName]
    try:
        for python, engine, file in zip(pythons, EngineName, files, strict=True):
            arguments = (engine.value, name, BATCH, file)
            sides.append(Side(Path(python), "benchmarks.engine_worker", arguments, workers=1, threads=1))
        one, other = (np.load(path) for path in files)
        count = max(1, int(TURN_S / max(side.turn(1, clock="wall") for side in sides)))
        taken = [[side.turn(count, clock="wall") for side in sides] for _ in range(TURNS)]
    finally:
        for side in sides:
            side.close()
    ratios = [mine / its for mine, its in taken]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    rates = [count * BATCH / statistics.median(column) for column in zip(*taken, strict=True)]
    peaks = [side.peak_bytes / (1 << 20) for side in sides]
    apart = np.linalg.norm(one - other) / np.linalg.norm(one)
    return (
        f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratio:.2f} | {low:.2f}-{high:.2f} |"
        f" {peaks[0]:,.0f} | {peaks[1]:,.0f} | {peaks[1] / peaks[0]:.2f} | {apart:.0e} |"
    )


def main() -> None:
    """Time each network in both processes and print the table."""
    if len(sys.argv) != 2:  # noqa: PLR2004  the program and its argument
        raise SystemExit("name the other environment's interpreter: .venv-ort-training/bin/python")
    print(f"batch {BATCH}, 1 thread, {TURNS} turns, load {os.getloadavg()[0]:.1f}")
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            print(compare(name, (sys.executable, sys.argv[1]), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
