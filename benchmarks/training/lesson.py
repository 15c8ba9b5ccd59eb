"""What both sides of the accuracy benchmark are given, in one file, and the loop that both run.

Only numpy and the standard library are needed to import it: the other side's environment has nothing else of
this project.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

AT_ONCE = 500  # held-out rows


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Everything that decides what is learnt.

    Args:
        net: a name of benchmarks.training.nets.
        initial: float32, shape (parameters,): weight and bias of each layer, one layer behind the other.
        rows: uint8, shape (n, *shape of the network), values of 0 to 255.
        targets: int64, shape (n,).
        held_out_rows: as rows, (m, ...): accuracy is measured on them alone.
        held_out_targets: int64, shape (m,).
        order: int64, shape (steps, batch): which rows each step takes.
        rates: float64, shape (steps,): each step's learning rate.
        momentum: in [0, 1).
        decay: of the weights, L2, of biases too.
    """

    net: str
    initial: NDArray[np.float32]
    rows: NDArray[np.uint8]
    targets: NDArray[np.int64]
    held_out_rows: NDArray[np.uint8]
    held_out_targets: NDArray[np.int64]
    order: NDArray[np.int64]
    rates: NDArray[np.float64]
    momentum: float
    decay: float

    def save(self, path: Path) -> None:
        """Write it as an NPZ file."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        np.savez(path, **values)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back."""
        with np.load(path) as found:
            values: dict[str, Any] = {each.name: found[each.name] for each in fields(cls)}
        return cls(**{name: value if value.ndim else value.item() for name, value in values.items()})

    def batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield each step's rows, scaled to 0 to 1, and targets."""
        for chosen in self.order:
            yield scaled(self.rows[chosen]), self.targets[chosen]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a lesson.

    Args:
        accuracy: share of the held-out rows that are answered right.
        loss_at_start: mean loss of the first batch, before any step.
        last_losses: mean of the last hundred steps' losses.
        seconds: of training, by the clock.
        processor_seconds: of training, of the process.
    """

    accuracy: float
    loss_at_start: float
    last_losses: float
    seconds: float
    processor_seconds: float


class Learner(Protocol):
    """One side's network and optimiser."""

    def step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Take the next step and return the batch's mean loss before it."""

    def classify(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the most likely class of each row."""


def scaled(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return bytes as float32 from 0 to 1, in the arithmetic of chiron.guest_api.dataset.as_float."""
    return np.multiply(rows, np.float32(1 / 255), dtype=np.float32)


def learn(lesson: Lesson, learner: Learner) -> Outcome:
    """Run every step of the lesson, then measure."""
    wall, cpu = time.perf_counter(), time.process_time()
    losses = [learner.step(x, y) for x, y in lesson.batches()]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    right = 0
    for at in range(0, len(lesson.held_out_rows), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        found = learner.classify(scaled(lesson.held_out_rows[part]))
        right += int(np.count_nonzero(found == lesson.held_out_targets[part]))
    return Outcome(right / len(lesson.held_out_rows), losses[0], float(np.mean(losses[-100:])), wall, cpu)


def tell(outcome: Outcome) -> None:
    """Print an outcome as one JSON document."""
    print(json.dumps(asdict(outcome)))
