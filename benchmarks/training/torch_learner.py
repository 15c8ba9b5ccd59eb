"""`python -m benchmarks.training.torch_learner LESSON`: PyTorch's side of the accuracy benchmark.

It runs in an environment of its own that has PyTorch and nothing of this project but benchmarks.training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.training.lesson import Lesson, learn, tell
from benchmarks.training.nets import NETS
from benchmarks.training.torch_worker import PLANES, sequence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchLearner:
    """PyTorch's modules, autograd and torch.optim.SGD, eager, with channels last for images."""

    def __init__(self, lesson: Lesson) -> None:
        """Build the network and take the lesson's initial parameters.

        Raises:
            ValueError: the network has another number of parameters.
        """
        net = NETS[lesson.net]
        model: Any = sequence(net.layers)
        initial = torch.from_numpy(lesson.initial.copy())
        if initial.numel() != sum(parameter.numel() for parameter in model.parameters()):
            raise ValueError(f"{lesson.net} has another number of parameters than {initial.numel()}")
        nn.utils.vector_to_parameters(initial, model.parameters())
        planes = len(net.shape) == PLANES
        self._format = torch.channels_last if planes else torch.contiguous_format
        self._model = model.to(memory_format=self._format)
        self._rates = iter(lesson.rates)
        self._optimiser = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=lesson.momentum, weight_decay=lesson.decay
        )

    def step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Take the next step; see `Learner.step`."""
        self._optimiser.param_groups[0]["lr"] = float(next(self._rates))
        self._optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self._model(self._tensor(x)), torch.from_numpy(y))
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def classify(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Answer in evaluation mode; see `Learner.classify`."""
        self._model.eval()
        with torch.inference_mode():
            answer: NDArray[np.int64] = self._model(self._tensor(x)).argmax(1).numpy()
        return answer

    def _tensor(self, x: NDArray[np.float32]) -> Any:  # noqa: ANN401  PyTorch is not typed here
        return torch.from_numpy(x).to(memory_format=self._format)


if __name__ == "__main__":
    (path,) = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    given = Lesson.load(Path(path))
    tell(learn(given, TorchLearner(given)))
