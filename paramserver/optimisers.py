"""Optimisers: float32, in place, vectorised, and without allocating a vector once built.

They work through blocks that fit a core's cache; blocks change no bit, since every operation is elementwise.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np

from paramserver.frames import Float32Array

BLOCK: Final = 1 << 14
"""Float32 in a block: 64 KiB a vector."""


class RateShape(Enum):
    """How the learning rate goes on after the warm-up."""

    CONSTANT = 0
    COSINE = 1


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate of each step.

    It rises linearly over `warmup_steps` to `peak`, reached with the first step after them, then stays or
    falls as half a cosine to zero at step `steps`.

    Args:
        peak: the highest rate; finite and at least 0.
        shape: constant or cosine after the warm-up.
        warmup_steps: steps before the peak; fewer than `steps`.
        steps: steps of the whole job.

    Raises:
        ValueError: one of them is out of its range.
    Source: Loshchilov and Hutter, ICLR 2017 (SGDR), equation 5, one period; Goyal et al., 2017, section 2.2.
    """

    peak: float
    shape: RateShape
    warmup_steps: int
    steps: int

    def __post_init__(self) -> None:
        _check_range("learning rate", self.peak, low=0.0, high=math.inf)
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError("warm-up takes at least 0 steps and ends before the last one")

    def at(self, step: int) -> float:
        """Return the rate of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * ((step + 1) / (self.warmup_steps + 1))
        if self.shape is RateShape.CONSTANT:
            return self.peak
        progress = min(1.0, (step - self.warmup_steps) / (self.steps - self.warmup_steps))
        return self.peak * (0.5 * (1.0 + math.cos(math.pi * progress)))  # the peak is exact at 0


class Optimiser(Protocol):
    """Changes parameters in place by a mean gradient."""

    def apply(self, parameters: Float32Array, gradient: Float32Array, *, step: int) -> None:
        """Apply one step.

        Args:
            parameters: float32, shape (n,), changed in place.
            gradient: float32, shape (n,), used as scratch space: its content is lost.
            step: number of the step, from 0, each once and in order.

        Raises:
            ValueError: a shape or dtype is another than the optimiser was built for.
        """


class SGD:
    """Stochastic gradient descent with momentum and (coupled, L2) weight decay.

    `v = momentum v + g + weight_decay p; p = p - rate v`, v from zero.

    Args:
        size: n, the number of parameters.
        rate: learning rate of each step.
        momentum: in [0, 1).
        weight_decay: finite and at least 0.

    Raises:
        ValueError: one of them is out of its range.
    Source: Sutskever et al., ICML 2013, with the rate outside of v, as PyTorch and Keras users expect.
    """

    def __init__(
        self, size: int, *, rate: LearningRate, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        _check_range("momentum", momentum, low=0.0, high=1.0)
        _check_range("weight decay", weight_decay, low=0.0, high=math.inf)
        self._rate = rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocity = np.zeros(size, np.float32)
        self._scratch = np.empty(min(size, BLOCK), np.float32)

    def apply(self, parameters: Float32Array, gradient: Float32Array, *, step: int) -> None:
        """Apply one step; see `Optimiser.apply`."""
        rate = self._rate.at(step)
        for p, g, v in _blocks(parameters, gradient, self._velocity):
            scratch = self._scratch[: p.size]
            if self._weight_decay:
                np.multiply(p, self._weight_decay, out=scratch)
                np.add(g, scratch, out=g)
            np.multiply(v, self._momentum, out=v)
            np.add(v, g, out=v)
            np.multiply(v, rate, out=scratch)
            np.subtract(p, scratch, out=p)


class AdamW:
    """Adam with decoupled weight decay.

    Args:
        size: n, the number of parameters.
        rate: learning rate of each step; the decay is multiplied by it too.
        weight_decay: finite and at least 0; 0 makes it Adam.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment; finite and above 0.

    Raises:
        ValueError: one of them is out of its range.
    Source: Loshchilov and Hutter, ICLR 2019, algorithm 2; bias correction from Kingma and Ba, ICLR 2015.
    """

    def __init__(
        self,
        size: int,
        *,
        rate: LearningRate,
        weight_decay: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        _check_range("weight decay", weight_decay, low=0.0, high=math.inf)
        _check_range("beta1", beta1, low=0.0, high=1.0)
        _check_range("beta2", beta2, low=0.0, high=1.0)
        _check_range("epsilon", epsilon, low=math.ulp(0.0), high=math.inf)
        self._rate = rate
        self._weight_decay = weight_decay
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._first = np.zeros(size, np.float32)
        self._second = np.zeros(size, np.float32)
        self._scratch = np.empty(min(size, BLOCK), np.float32)

    def apply(self, parameters: Float32Array, gradient: Float32Array, *, step: int) -> None:
        """Apply one step; see `Optimiser.apply`."""
        rate = self._rate.at(step)
        step_size = rate / (1.0 - self._beta1 ** (step + 1))
        root_correction = 1.0 / math.sqrt(1.0 - self._beta2 ** (step + 1))
        for p, g, m, v in _blocks(parameters, gradient, self._first, self._second):
            scratch = self._scratch[: p.size]
            if self._weight_decay:
                np.multiply(p, 1.0 - rate * self._weight_decay, out=p)
            np.multiply(m, self._beta1, out=m)
            np.multiply(g, 1.0 - self._beta1, out=scratch)
            np.add(m, scratch, out=m)
            np.multiply(v, self._beta2, out=v)
            np.multiply(g, g, out=scratch)
            np.multiply(scratch, 1.0 - self._beta2, out=scratch)
            np.add(v, scratch, out=v)
            np.sqrt(v, out=scratch)
            np.multiply(scratch, root_correction, out=scratch)
            np.add(scratch, self._epsilon, out=scratch)
            np.divide(m, scratch, out=scratch)
            np.multiply(scratch, step_size, out=scratch)
            np.subtract(p, scratch, out=p)


def _blocks(*vectors: Float32Array) -> Iterator[tuple[Float32Array, ...]]:
    """Yield the same block of every vector; the last vector is the optimiser's own and gives the size."""
    size = vectors[-1].size
    if any(vector.shape != (size,) or vector.dtype != np.float32 for vector in vectors):
        raise ValueError(f"this optimiser was built for {size} float32 parameters")
    for start in range(0, size, BLOCK):
        yield tuple(vector[start : start + BLOCK] for vector in vectors)


def _check_range(name: str, value: float, *, low: float, high: float) -> None:
    """Refuse a value outside [low, high) without naming it: hyper-parameters are secret."""
    if not low <= value < high:
        raise ValueError(f"{name} must be at least {low} and below {high}")
