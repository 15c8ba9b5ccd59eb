"""`python -m benchmarks.training.accuracy --torch PYTHON [--json]`: accuracy against PyTorch.

On Fashion-MNIST. Both sides get the same file: data, initial parameters, which rows each step takes, learning
rates. They train at the same time, a process and a thread each, and answer the held-out rows. SGD is
`v = m v + g + d p; p = p - rate v` on both sides: PyTorch's form is the parameter server's too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.training.chiron_learner import DECAY, MOMENTUM, rate_of
from benchmarks.training.duel import THREADS
from benchmarks.training.graphs import encoded
from benchmarks.training.lesson import Lesson, Outcome
from benchmarks.training.nets import NETS
from chiron.parties.errors import PartyError
from chiron.parties.formats.idx import read_idx

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from chiron.parties.formats.blocks import Block, Parts

ROOT = Path(__file__).resolve().parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")
BATCH, WITHIN_POINTS = 64, 0.3
SAME_START = 1e-4  # relative: the loss before any step, rounding apart
HEADER = (
    f"{'seed':>4} {'ours':>7} {'PyTorch':>8} {'points':>7} {'seconds':>8} {'PyTorch':>8}"
    f" {'processor':>9} {'PyTorch':>8} {'first loss':>10} {'PyTorch':>8} {'last losses':>11} {'PyTorch':>8}"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """What both sides learnt from one seed."""

    seed: int
    ours: Outcome
    theirs: Outcome

    @property
    def points(self) -> float:
        """How much higher our accuracy is, in points of a hundred."""
        return 100 * (self.ours.accuracy - self.theirs.accuracy)


def initial_of(net: str, *, seed: int) -> NDArray[np.float32]:
    """Return the initial parameters, float32 of shape (n,): the ONNX model's initializers in their order."""
    graph = onnx.load_from_string(encoded(NETS[net], seed=seed)).graph
    return np.concatenate([numpy_helper.to_array(tensor).ravel() for tensor in graph.initializer])


def order_of(rows: int, *, seed: int, epochs: int, batch: int) -> NDArray[np.int64]:
    """Return which rows each step takes, (steps, batch): each at most once an epoch, a last part left out."""
    random, steps = np.random.default_rng(seed), rows // batch
    passes = [random.permutation(rows)[: steps * batch].reshape(steps, batch) for _ in range(epochs)]
    return np.concatenate(passes)


def lesson_of(parts: tuple[Any, ...], net: str, *, seed: int, epochs: int, batch: int = BATCH) -> Lesson:
    """Return the lesson of a seed on rows, targets, held-out rows and held-out targets."""
    rows, targets, held_out_rows, held_out_targets = parts
    shape = NETS[net].shape
    order = order_of(len(rows), seed=seed, epochs=epochs, batch=batch)
    rate = rate_of(len(order))
    return Lesson(
        net,
        initial_of(net, seed=seed),
        rows.reshape(-1, *shape),
        targets,
        held_out_rows.reshape(-1, *shape),
        held_out_targets,
        order,
        np.array([rate.at(step) for step in range(len(order))]),
        MOMENTUM,
        DECAY,
    )


def read(parts: Parts) -> tuple[Any, ...]:
    """Return rows, targets, held-out rows and held-out targets in the files' order."""
    return (*_joined(parts.train), *_joined(parts.held_out or ()))


def _joined(blocks: Iterable[Block]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows, targets = zip(*((block.rows, block.targets) for block in blocks), strict=True)
    return np.concatenate(rows), np.concatenate(targets).astype(np.int64)


def both(lesson: Lesson, pythons: tuple[Path, Path]) -> tuple[Outcome, Outcome]:
    """Let both sides learn at the same time.

    Raises:
        SystemExit: a side failed, or their losses differ before any step: then they do not learn the same.
    """
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lesson.npz"
        lesson.save(path)
        processes = [
            subprocess.Popen(  # noqa: S603  the benchmark's own modules
                [str(python), "-m", f"benchmarks.training.{side}_learner", str(path)],
                stdout=subprocess.PIPE, env=environment, cwd=ROOT,
            )
            for python, side in zip(pythons, ("chiron", "torch"), strict=True)
        ]  # fmt: skip
        try:
            answers = [process.communicate()[0] for process in processes]
        finally:
            for process in processes:  # at Ctrl-C they are still learning
                process.kill()
                process.wait()
    if any(process.returncode for process in processes):
        raise SystemExit("a side failed: its own message is above")
    ours, theirs = (Outcome(**json.loads(answer)) for answer in answers)
    if abs(ours.loss_at_start / theirs.loss_at_start - 1) > SAME_START:
        raise SystemExit(f"both start from other losses: {ours.loss_at_start}, {theirs.loss_at_start}")
    return ours, theirs


def main() -> int:
    """Learn every seed on both sides and print it; 1 where the mean difference is too large."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.accuracy", description=__doc__)
    parser.add_argument(
        "--torch", metavar="PYTHON", type=Path, required=True, help="its environment's Python"
    )
    parser.add_argument("--data", metavar="DIR", type=Path, default=FASHION, help="the four IDX files")
    parser.add_argument("--net", choices=("lenet", "mlp"), default="lenet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    try:
        parts = read(read_idx(given.data))
    except PartyError as error:
        raise SystemExit(f"{given.data}: {error}") from error
    about = {
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        "net": given.net,
        "epochs": given.epochs,
        "batch": BATCH,
        "rows": len(parts[0]),
        "held out": len(parts[2]),
    }
    if not given.json:
        _line("; ".join(f"{key} {value}" for key, value in about.items()))
        _line(HEADER)
    pairs = []
    for seed in range(given.seeds):
        lesson = lesson_of(parts, given.net, seed=seed, epochs=given.epochs)
        pairs.append(Pair(seed, *both(lesson, (Path(sys.executable), given.torch.absolute()))))
        if not given.json:
            _line(_row(pairs[-1]))
    mean = float(np.mean([pair.points for pair in pairs]))
    reached = abs(mean) <= WITHIN_POINTS
    if given.json:
        results = [asdict(pair) | {"points": pair.points} for pair in pairs]
        found = {"about": about, "results": results, "mean_points": mean, "reached": reached}
        _line(json.dumps(found, indent=2))
    else:
        verdict = "reached" if reached else "not reached"
        _line(f"mean difference {mean:+.2f} points; within {WITHIN_POINTS}: {verdict}")
    return 0 if reached else 1


def _row(pair: Pair) -> str:
    ours, theirs = pair.ours, pair.theirs
    return (
        f"{pair.seed:4} {ours.accuracy:7.2%} {theirs.accuracy:8.2%} {pair.points:+7.2f}"
        f" {ours.seconds:8.0f} {theirs.seconds:8.0f} {ours.processor_seconds:9.0f}"
        f" {theirs.processor_seconds:8.0f} {ours.loss_at_start:10.4f} {theirs.loss_at_start:8.4f}"
        f" {ours.last_losses:11.4f} {theirs.last_losses:8.4f}"
    )


def _line(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
