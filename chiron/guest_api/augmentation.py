"""Augmentation in trusted code: random crop, horizontal flip and normalisation, as a plan declares it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from chiron.guest_api.errors import GuestApiError

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Float32Array

MAX_PADDING = 64
MAX_CHANNELS = 3
IMAGE_RANK = 3  # channels, height, width
STREAM = (1 << 63) | 1  # tells this stream of random numbers from that of the order of rows


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What trusted code does to rows. Without arguments: nothing.

    `crop_padding` zeros are put around each picture and a random part of its own size is cut out; with `flip`
    every second one, at random, is mirrored left to right; then, with `mean` and `deviation` (one number, or
    one for each channel), values become (value - mean) / deviation.
    """

    crop_padding: int = 0
    flip: bool = False
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def check(self, shape: tuple[int, ...]) -> None:
        """Check that this can be done to rows of a shape.

        Raises:
            GuestApiError: names the field.
        """
        channels = shape[0] if len(shape) == IMAGE_RANK else 1
        rules = {
            "crop_padding": 0 <= self.crop_padding <= MAX_PADDING
            and (not self.crop_padding or _image(shape)),
            "flip": not self.flip or _image(shape),
            "mean": len(self.mean) in {0, 1, channels} and all(map(math.isfinite, self.mean)),
            "deviation": len(self.deviation) == len(self.mean)
            and all(math.isfinite(d) and d > 0 for d in self.deviation),
        }
        for name, holds in rules.items():
            if not holds:
                raise GuestApiError(
                    f"the plan's field {name!r} is out of its range or not for such rows: see spec/guest.wit"
                )

    def vary(self, rows: Float32Array, *, seed: int, step: int, worker: int) -> Float32Array:
        """Return rows, float32 (n, channels, height, width), each cropped and flipped at random.

        The same job, step and worker give the same.
        """
        if not self.crop_padding and not self.flip:
            return rows
        key = np.array([seed, STREAM], dtype=np.uint64)
        counter = np.array([0, 0, step, worker], dtype=np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=counter))
        around, (height, width) = self.crop_padding, rows.shape[2:]
        places = random.integers(0, 2 * around + 1, size=(len(rows), 2))
        mirrored = random.integers(0, 2, size=len(rows)) if self.flip else np.zeros(len(rows), dtype=np.int64)
        wide = np.pad(rows, ((0, 0), (0, 0), (around, around), (around, around)))
        varied = np.empty_like(rows)
        for one, (top, left), mirror in zip(range(len(rows)), places, mirrored, strict=True):
            cut = wide[one, :, top : top + height, left : left + width]
            varied[one] = cut[:, :, ::-1] if mirror else cut
        return varied

    def normalise(self, rows: Float32Array) -> Float32Array:
        """Return rows, float32 (n, *shape), normalised: in training, when measured, in queries."""
        if not self.mean:
            return rows
        along = (1, -1, *[1] * (rows.ndim - 2))
        mean, deviation = (np.array(v, dtype=np.float32).reshape(along) for v in (self.mean, self.deviation))
        with np.errstate(over="ignore"):  # a plan that overflows diverges, which shows as the outcome
            return np.asarray((rows - mean) / deviation, dtype=np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self) | {"mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild what `as_dict` wrote, by an enclave of this deployment."""
        return cls(fields["crop_padding"], fields["flip"], tuple(fields["mean"]), tuple(fields["deviation"]))


NOTHING = Augmentation()


def _image(shape: tuple[int, ...]) -> bool:
    return len(shape) == IMAGE_RANK
