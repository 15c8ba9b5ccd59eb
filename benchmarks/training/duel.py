"""Starts worker processes, lets them step in turns, and compares their rates."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Case:
    """One line: `workers` processes of ours with `threads` each against one with `their_threads`.

    `batch` counts the rows of a step on either side: our workers share them.
    """

    net: str
    batch: int
    mode: str
    target: float
    workers: int = 1
    threads: int = 1
    their_threads: int = 1
    how: str = "eager"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out; ratios are rows a second of ours over theirs, turn by turn."""

    case: Case
    ratio: float
    low: float
    high: float
    rows_per_second: float
    their_rows_per_second: float
    layout: str
    memory: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"reached": self.ratio >= self.case.target}


class Side:
    """The processes of one side: they run a turn together."""

    def __init__(
        self, python: Path, module: str, arguments: Sequence[object], *, workers: int, threads: int
    ) -> None:
        """Start them, and wait until all are ready."""
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"ORT_DISABLE_TELEMETRY": "1"}
        command = [str(python), "-m", module, *map(str, arguments)]
        self._processes = [
            subprocess.Popen(  # noqa: S603  the benchmark's own modules
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(workers)
        ]
        self.peak_bytes = 0
        for process in self._processes:
            self._answer(process)

    def turn(self, steps: int, *, clock: str) -> float:
        """Let each process run that many steps; return the longest one's seconds by "wall" or "cpu"."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes]
        self.peak_bytes = sum(answer["peak_bytes"] for answer in answers)
        return max(float(answer[clock]) for answer in answers)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.communicate()

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with code {process.wait()}: its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def duel(case: Case, *, ours: Path, theirs: Path, turns: int, seconds: float, clock: str) -> Result:
    """Compare both sides in turns; each of PyTorch's layouts takes turns too, and the faster one counts.

    One thread against one may go by the processes' own time: what else the machine does counts less.
    """
    if (case.workers, case.threads, case.their_threads) != (1, 1, 1):
        clock = "wall"
    layouts = ("contiguous", "channels-last")
    share = case.batch // case.workers
    sides = [
        Side(ours, "benchmarks.training.chiron_worker", (case.net, share, case.threads, case.mode),
             workers=case.workers, threads=case.threads),
        *(Side(theirs, "benchmarks.training.torch_worker",
               (case.net, case.batch, case.their_threads, case.mode, layout, case.how),
               workers=1, threads=case.their_threads)
          for layout in layouts),
    ]  # fmt: skip
    try:
        for side in sides:
            side.turn(2, clock=clock)  # warm up: memory, code, plans
        steps = max(1, round(seconds / sides[0].turn(1, clock=clock)))
        times = [[side.turn(steps, clock=clock) for side in sides] for _ in range(turns)]
        peaks = [side.peak_bytes for side in sides]
    finally:
        for side in sides:
            side.close()
    best = min((1, 2), key=lambda place: statistics.median(row[place] for row in times))
    ratios = sorted(row[best] / row[0] for row in times)
    rates = [steps * case.batch / statistics.median(row[place] for row in times) for place in (0, best)]
    quarter = len(ratios) // 4
    return Result(
        case,
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
        rates[0],
        rates[1],
        layouts[best - 1],
        peaks[0] / peaks[best],
    )
