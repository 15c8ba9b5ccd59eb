"""Estimates, from runs, how many bits a job tells by each way: by declared releases, and beside them.

    python -m benchmarks.capacity                # some minutes, on a quiet machine

Declared: the entropy of what a release carried over random secrets, an estimate of what it tells (no more
than the logarithm of the runs can be seen). Closed by construction: counts, sizes and order, which no run of
many may change; 0 then stands for "in fewer than 3/N of runs, with 95 % confidence" (the rule of three).
Times: the capacity of the channel from a guest's behaviour to the time in twelve bins (Blahut and Arimoto,
IEEE Trans. Inf. Theory 18, 1972), less what the same number of runs gives where behaviours are exchanged at
random.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import itertools

from deployments import CLASSES, POLICY, VALUES
from graphs import linear

from benchmarks import answer_timing, slot_timing
from chiron.graph import GraphLimits, Predictor, StockEngine, TensorSpec, admit
from chiron.guest_api.dataset import as_float
from chiron.leaktest.check import subject_of
from chiron.leaktest.search import search
from chiron.leaktest.secrets import SMALL, DataSecret
from chiron.parties.build import build
from chiron.policy.header import combinations
from chiron.policy.loader import spec_folder
from chiron.serving.protocol import pack_answer
from chiron.training.results import ACCURACY_STEPS, quantise_loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BINS, SHUFFLES, ROUNDS = 12, 20, 200
EPOCHS, STEPS = 2, 20
ANSWERS = POLICY.declassifiers["answer"].uses


@dataclass(frozen=True, slots=True)
class Channel:
    """One way: declared bits a job (None: none), estimated bits a job, runs, and how it was estimated."""

    name: str
    declared: int | None
    bits: float
    runs: int
    how: str


def entropy(values: Iterable[object]) -> float:
    """Return the entropy in bits of how often each value came."""
    counts = np.array(list(Counter(values).values()), dtype=float)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def capacity(samples: Sequence[NDArray[np.float64]], *, seed: int = 1) -> float:
    """Return the capacity in bits from the class to the binned value, less that of exchanged classes."""
    values, sizes = np.concatenate(samples), [len(sample) for sample in samples]
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    binned = np.searchsorted(edges, values)
    random = np.random.default_rng(seed)
    by_chance = [_capacity(random.permutation(binned), sizes) for _ in range(SHUFFLES)]
    return max(0.0, _capacity(binned, sizes) - float(np.mean(by_chance)))


def _capacity(binned: NDArray[np.int64], sizes: list[int]) -> float:
    starts = np.cumsum([0, *sizes])
    counts = [np.bincount(binned[a:b], minlength=BINS) for a, b in itertools.pairwise(starts)]
    given = np.array([count / count.sum() for count in counts])
    shares = np.full(len(sizes), 1 / len(sizes))
    for _ in range(ROUNDS):
        divergence = _divergence(given, shares @ given)
        shares *= np.exp2(divergence)
        shares /= shares.sum()
    return float(shares @ _divergence(given, shares @ given))


def _divergence(given: NDArray[np.float64], mixed: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(given > 0, given * np.log2(given / mixed), 0.0)
    result: NDArray[np.float64] = terms.sum(axis=1)
    return result


def declared(runs: int) -> list[Channel]:
    """Train and ask small networks on random data; return what releases carried."""
    spec, limits = TensorSpec((VALUES,), CLASSES), GraphLimits(max_bytes=1 << 16, max_parameters=4096)
    admitted = admit(linear(VALUES, CLASSES), spec, limits=limits)
    accuracies, losses, answers = [], [], []
    for number in track(range(runs), "trainings", disable=not sys.stderr.isatty()):
        secret = DataSecret(60, 12, spread=1.0, level=(number % 7) / 2, favoured=number % 9, seed=number)
        data = secret.dataset(SMALL)
        engine = StockEngine(admitted, batch=20, threads=1)
        engine.parameters[:] = admitted.initial
        for step in range(STEPS):
            at = step % 3 * 20
            loss = engine.run(as_float(data.rows[at : at + 20]), data.targets[at : at + 20].astype(np.int64))
            np.subtract(engine.parameters, 0.2 * engine.gradient, out=engine.parameters)
            if step in {STEPS // 2, STEPS - 1}:
                losses.append(quantise_loss(loss))
        scores = Predictor(admitted, engine.parameters, threads=1).predict(as_float(data.held_out_rows))
        hits = np.count_nonzero(scores.argmax(axis=1) == data.held_out_targets)
        accuracies.append(round(hits / len(scores) * ACCURACY_STEPS))
        answers.append(pack_answer(scores[0]))
    rules = POLICY.declassifiers
    how = "entropy over random data"
    return [
        Channel("header", rules["header"].bits, math.log2(combinations(POLICY.menus)), 1, "all choices"),
        Channel("accuracy", rules["accuracy"].bits, entropy(accuracies), runs, how),
        Channel(f"loss, {EPOCHS} epochs", rules["loss"].bits * EPOCHS, EPOCHS * entropy(losses), runs, how),
        Channel("one answer", rules["answer"].bits, entropy(answers), runs, how),
    ]


def closed(pairs: int) -> list[Channel]:
    """Run guests with other secrets; return what shows beside releases: nothing, where all runs are alike."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, observer in (("traps", "operator"), ("copies", "platform"), ("greets", "user")):
            guest = Path(folder) / f"{name}.wasm"
            build(EXAMPLES / "leaky" / name, output=guest, sdk=spec_folder() / "sdk" / "c")
            with subject_of(guest, observer=observer) as subject:
                report = search(subject, examples=pairs)
            what = f"counts, sizes and order, to the {observer}"
            bits = 0.0 if report.leak is None else 1.0
            found.append(Channel(what, None, bits, report.runs, f"two runs of `{name}`: no difference"))
            if name == "traps":
                outcomes = report.carried["outcome"].elements()
                carried = Channel("outcome", 1, entropy(outcomes), report.runs, "entropy over random data")
                found.insert(0, carried)
    return found


def timed(runs: int, answers: int) -> list[Channel]:
    """Measure the times of slots and answers."""
    names = list(slot_timing.GUESTS) * runs
    np.random.default_rng(1).shuffle(names)
    seen = slot_timing.observe(names, slot_ms=50)
    ends = [[np.array(times)[:, column] for times in seen.values()] for column in (0, 1)]
    answered = list(answer_timing.measure(answers, grid_ms=POLICY.serving.grid_ms).values())
    one = capacity(answered)
    how = f"{len(slot_timing.GUESTS)} behaviours, {BINS} bins"
    return [
        Channel("time of the guest's process's end", None, capacity(ends[0]), len(names), how),
        Channel("time of the slot's end", None, capacity(ends[1]), len(names), how),
        Channel("time of one answer", None, one, 2 * answers, f"two classes 2 ms apart, {BINS} bins"),
        Channel(
            f"time of {ANSWERS} answers", None, one * ANSWERS, 2 * answers, "as many times that, at most"
        ),
    ]


def as_table(channels: Sequence[Channel]) -> str:
    """Return the table for benchmarks/RESULTS.md."""
    lines = ["| way | declared, bits a job | estimated, bits a job | runs | how |", "|---|---|---|---|---|"]
    for each in channels:
        name, said = each.name, "none" if each.declared is None else str(each.declared)
        lines.append(f"| {name} | {said} | {each.bits:.3g} | {each.runs:,} | {each.how} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trainings", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3000, help="of runs for what is closed by construction")
    parser.add_argument("--slots", type=int, default=200, help="for each of eight behaviours")
    parser.add_argument("--answers", type=int, default=1000, help="of each of two classes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    channels = [*declared(options.trainings), *closed(options.pairs), *timed(options.slots, options.answers)]
    if options.json:
        rows: list[dict[str, Any]] = [
            {name: getattr(each, name) for name in Channel.__dataclass_fields__} for each in channels
        ]
        print(json.dumps(rows))
    else:
        print(as_table(channels))


if __name__ == "__main__":
    main()
