"""`python -m benchmarks.training.chiron_learner LESSON`: this project's side of the accuracy benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.training.graphs import encoded
from benchmarks.training.lesson import Lesson, learn, tell
from benchmarks.training.nets import NETS
from chiron.graph import GraphLimits, Predictor, StockEngine, TensorSpec, admit
from paramserver import SGD, LearningRate, RateShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEAK_RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
LIMITS = GraphLimits(max_bytes=1 << 26, max_parameters=1 << 23)


def rate_of(steps: int) -> LearningRate:
    """Return the rate of each step: a tenth of them to its peak, then half a cosine to zero."""
    return LearningRate(PEAK_RATE, RateShape.COSINE, warmup_steps=steps // 10, steps=steps)


class ChironLearner:
    """The stock engine and the parameter server's optimiser, as a job's worker and server use them."""

    def __init__(self, lesson: Lesson) -> None:
        """Admit the network and take the lesson's initial parameters.

        Raises:
            ValueError: the network has another number of parameters.
        """
        net = NETS[lesson.net]
        steps, batch = lesson.order.shape
        self._graph = admit(encoded(net), TensorSpec(net.shape, net.classes), limits=LIMITS)
        self._engine = StockEngine(self._graph, batch=batch, threads=1)
        self._engine.parameters[:] = lesson.initial
        self._optimiser = SGD(
            lesson.initial.size, rate=rate_of(steps), momentum=lesson.momentum, weight_decay=lesson.decay
        )
        self._step = 0
        self._predictor: Predictor | None = None

    @property
    def parameters(self) -> NDArray[np.float32]:
        """The parameters as they are now, float32 of shape (parameters,)."""
        return self._engine.parameters

    def step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Take the next step; see `Learner.step`."""
        loss = self._engine.run(x, y)
        self._optimiser.apply(self._engine.parameters, self._engine.gradient, step=self._step)
        self._step += 1
        return loss

    def classify(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Answer as black-box serving does; see `Learner.classify`. No step comes afterwards."""
        self._predictor = self._predictor or Predictor(self._graph, self._engine.parameters, threads=1)
        found: NDArray[np.int64] = np.argmax(self._predictor.predict(x), axis=1)
        return found


if __name__ == "__main__":
    (path,) = sys.argv[1:]
    given = Lesson.load(Path(path))
    tell(learn(given, ChironLearner(given)))
