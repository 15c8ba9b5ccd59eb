"""`python -m benchmarks.training --torch PYTHON [--json]`: training and inference against PyTorch."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.training.duel import THREADS, Case, Result, duel

CASES = (
    *(Case(net, batch, "train", 1.15) for net in ("vgg9", "vgg9-norm") for batch in (64, 128)),
    *(
        Case(net, batch, "train", target, workers=2, their_threads=2, how=how)
        for how, target in (("eager", 1.15), ("compile", 1.0))
        for net in ("vgg9", "vgg9-norm")
        for batch in (64, 128)
    ),
    *(Case("mlp", batch, "train", 1.4) for batch in (64, 128)),
    *(Case("lenet", batch, "train", 1.1) for batch in (64, 128)),
    Case("resnet20", 128, "train", 1.0),
    Case("alexnet", 32, "train", 0.9),
    *(Case(net, batch, "infer", 1.5) for net in ("mlp", "lenet", "vgg9", "vgg9-norm") for batch in (1, 64)),
)
HEADER = (
    f"{'net':10} {'batch':>5} {'mode':6} {'ours':>8} {'against':>18} {'ratio':>6} {'quartiles':>13}"
    f" {'target':>6} {'rows/s':>9} {'PyTorch':>9} {'memory':>6}"
)


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--torch", metavar="PYTHON", type=Path, required=True, help="its environment's Python"
    )
    parser.add_argument("--only", metavar="NET", help="one network's lines")
    parser.add_argument("--mode", choices=("train", "infer"), help="one mode's lines")
    parser.add_argument("--turns", type=int, default=15, help="turns of each side")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    about = {
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": f"{', '.join(THREADS)} as each side's threads",
    }
    if not given.json:
        _line("; ".join(f"{key} {value}" for key, value in about.items()))
        _line(HEADER)
    results = []
    for case in CASES:
        if given.only not in {None, case.net} or given.mode not in {None, case.mode}:
            continue
        result = duel(
            case,
            ours=Path(sys.executable),
            theirs=given.torch,
            turns=given.turns,
            seconds=1.0,
            clock=given.clock,
        )
        results.append(result.as_dict())
        if not given.json:
            _line(_row(result))
    if given.json:
        _line(json.dumps({"about": about, "results": results}, indent=2))


def _row(result: Result) -> str:
    case = result.case
    against = f"{case.how} {result.layout[:10]} x{case.their_threads}"
    spread = f"{result.low:.2f}-{result.high:.2f}"
    return (
        f"{case.net:10} {case.batch:5} {case.mode:6} {f'{case.workers}x{case.threads}':>8} {against:>18}"
        f" {result.ratio:6.2f} {spread:>13} {case.target:6.2f} {result.rows_per_second:9.0f}"
        f" {result.their_rows_per_second:9.0f} {result.memory:6.2f}"
    )


def _line(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
