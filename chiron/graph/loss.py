"""What a training graph minimises: the guest says so in its model's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph.errors import AdmissionError, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "chiron."
MAX_TEXT = 1 << 16
LEAST, MOST = 1e-12, 1e12  # of what is multiplied in float32


class LossKind(Enum):
    """The losses that a plan may name."""

    CROSS_ENTROPY = "cross-entropy"
    SQUARED = "mse"
    HUBER = "huber"
    BINARY = "binary-cross-entropy"


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, the mean over a batch.

    Args:
        kind: softmax cross-entropy, or one of those that treat every output on its own.
        class_weights: one weight a class (cross-entropy): the mean is weighted by those of the targets.
        smoothing: share of each target that is spread over all classes (cross-entropy), 0 to less than 1.
        delta: where Huber's loss turns from square to straight.

    Raises:
        ValueError: a number is out of range, or an option is given that the kind does not have.
    """

    kind: LossKind = LossKind.CROSS_ENTROPY
    class_weights: tuple[float, ...] = ()
    smoothing: float = 0.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        weighed = all(w == 0 or LEAST <= w <= MOST for w in self.class_weights)
        if not weighed or (self.class_weights and not any(self.class_weights)):
            raise ValueError(f"class weights must be 0 or from {LEAST} to {MOST}, and not all 0")
        if not 0 <= self.smoothing < 1 or not LEAST <= self.delta <= MOST:
            raise ValueError(f"smoothing must be 0 to less than 1, and delta from {LEAST} to {MOST}")
        if self.kind is not LossKind.CROSS_ENTROPY and (self.class_weights or self.smoothing):
            raise ValueError(f"class weights and smoothing are cross-entropy's, not {self.kind.value}'s")


def trains_statistics(properties: Mapping[str, str]) -> bool:
    """Tell whether every BatchNormalization is to use the batch's statistics, whatever its node says.

    PyTorch's newer exporter leaves `training_mode` out, also of a model in training.

    Raises:
        AdmissionError: the property is neither "batch" nor "as written".
    """
    text = properties.get(f"{PREFIX}batch_normalization", "as written")
    if text not in {"batch", "as written"}:
        raise AdmissionError(Rule.LOSS, f'{PREFIX}batch_normalization must be "batch" or "as written"')
    return text == "batch"


def parse_loss(properties: Mapping[str, str]) -> Loss:
    """Return the loss that a model's metadata names: `chiron.loss` and its options; cross-entropy if none.

    Args:
        properties: `metadata_props`; what does not start with "chiron." is not looked at.

    Raises:
        AdmissionError: a property is unknown, no number, or out of range.
    """
    own = {name.removeprefix(PREFIX): text for name, text in properties.items() if name.startswith(PREFIX)}
    names = ("loss", "class_weights", "label_smoothing", "huber_delta", "batch_normalization")
    if not own.keys() <= set(names) or any(len(text) > MAX_TEXT for text in own.values()):
        text = f"the metadata of {PREFIX}* may be {', '.join(names)}: leave others out"
        raise AdmissionError(Rule.LOSS, text)
    try:
        return Loss(
            LossKind(own.get("loss", LossKind.CROSS_ENTROPY.value)),
            tuple(float(each) for each in own.get("class_weights", "").split(",") if each),
            float(own.get("label_smoothing", "0")),
            float(own.get("huber_delta", "1")),
        )
    except ValueError as error:
        kinds = ", ".join(kind.value for kind in LossKind)
        text = f"{PREFIX}loss must be one of {kinds}, its options numbers in range that this loss has"
        raise AdmissionError(Rule.LOSS, text) from error
