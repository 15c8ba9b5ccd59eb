"""What comes out of training: the model, its held-out accuracy, and the quantised values that may leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import GraphError, Predictor, normalised_by_batch, settled
from chiron.guest_api.dataset import as_float
from chiron.guest_api.transforms import INPUT, OUTPUT, TransformError
from chiron.training.sealed import Model

if TYPE_CHECKING:
    from chiron.guest_api.augmentation import Augmentation
    from chiron.guest_api.dataset import Dataset, Float32Array
    from chiron.guest_api.transforms import Transformer
    from chiron.policy import kernel
    from chiron.training.create import Network
    from chiron.training.exchange import Trained

LOSS_STEP = 1 / 32  # 8 bits: 0 to 7.97; what is larger, or not a number, shows as the largest
LOSS_TOP = 255
ACCURACY_STEPS = 1000  # 10 bits: tenths of a percent
EVALUATION_ROWS = 256
STATISTICS_BATCHES = 32  # of EVALUATION_ROWS: enough for a mean and a variance of each channel


@dataclass(frozen=True, slots=True)
class Result:
    """A job's outcome before release: the model (None where it failed), accuracy and loss an epoch."""

    model: Model | None
    accuracy: float
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quantised:
    """Values in the widths that the policy declares: `trusted` once a job, one of `losses` an epoch."""

    trusted: dict[str, int]
    losses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """How held-out rows go through the guest's transforms: a transform has `deadline_ms` for all of them."""

    transformer: Transformer
    state: kernel.State
    deadline_ms: int

    def apply(self, export: str, values: Float32Array) -> Float32Array:
        """Return what a transform makes of them; TransformError where the guest fails."""
        return self.transformer.apply(export, values, state=self.state, deadline_ms=self.deadline_ms)


def evaluate(
    network: Network | None, trained: Trained, dataset: Dataset, *, held: Held | None = None
) -> Result:
    """Measure a trained network on the held-out rows; a job that did not finish has no model."""
    if network is None or not trained.complete:
        return Result(None, 0.0, ())
    parameters = trained.parameters[: network.admitted.parameter_count]
    augmentation = network.plan.augmentation
    try:
        parameters = _settled(network, parameters, dataset, held)
        predictor = Normalised(Predictor(network.admitted, parameters, threads=1), augmentation)
        accuracy = _accuracy(predictor, dataset, held)
    except (GraphError, TransformError):
        return Result(None, 0.0, ())
    model = Model(network.graph, parameters, network.transforms, augmentation)
    return Result(model, accuracy, trained.losses)


def _settled(network: Network, parameters: Float32Array, dataset: Dataset, held: Held | None) -> Float32Array:
    """Put the statistics of training rows into a network that normalises by batch."""
    if not normalised_by_batch(network.admitted):
        return parameters
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset.rows))
    batch = min(EVALUATION_ROWS, len(order))
    chosen = order[: batch * min(STATISTICS_BATCHES, len(order) // batch)]
    rows = as_float(dataset.rows[chosen])
    rows = network.plan.augmentation.normalise(rows if held is None else held.apply(INPUT, rows))
    parts = (rows[first : first + batch] for first in range(0, len(rows), batch))
    return settled(network.admitted, parameters, parts, batch=batch, threads=1)


class Normalised:
    """A predictor whose rows are normalised first, as in training."""

    def __init__(self, predictor: Predictor, augmentation: Augmentation) -> None:
        self._predictor, self._augmentation = predictor, augmentation

    def predict(self, rows: Float32Array) -> Float32Array:
        """Return probabilities, as `Predictor.predict` does."""
        return self._predictor.predict(self._augmentation.normalise(rows))


def _accuracy(predictor: Normalised, dataset: Dataset, held: Held | None) -> float:
    rows = dataset.held_out_rows if held is None else held.apply(INPUT, as_float(dataset.held_out_rows))
    parts = [
        predictor.predict(as_float(rows[first : first + EVALUATION_ROWS]))
        for first in range(0, len(rows), EVALUATION_ROWS)
    ]
    scores = np.concatenate(parts)
    scores = scores if held is None else held.apply(OUTPUT, scores)
    return int(np.count_nonzero(np.argmax(scores, axis=1) == dataset.held_out_targets)) / len(rows)


def quantise_loss(loss: float) -> int:
    """Return a loss in 8 bits."""
    if not math.isfinite(loss):
        return LOSS_TOP
    return round(min(float(LOSS_TOP), max(0.0, loss / LOSS_STEP)))  # bounded first: rounding may overflow


def quantise(result: Result, *, epochs: int) -> Quantised:
    """Return a result in the policy's widths; always `epochs` losses, also where training failed."""
    losses = [quantise_loss(loss) for loss in result.losses[:epochs]]
    losses += [LOSS_TOP] * (epochs - len(losses))
    outcome = int(result.model is not None)
    accuracy = round(result.accuracy * ACCURACY_STEPS)
    return Quantised({"outcome": outcome, "accuracy": accuracy}, tuple(losses))
