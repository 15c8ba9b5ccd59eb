"""The guest's transforms between the data set and the engine, in training."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chiron.guest_api.augmentation import NOTHING
from chiron.guest_api.transforms import AUGMENT, INPUT, Transformer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from chiron.guest_api.augmentation import Augmentation
    from chiron.guest_api.dataset import Float32Array, Schema
    from chiron.guest_api.limits import CompiledGuest
    from chiron.guest_api.transforms import Transforms
    from chiron.policy import kernel
    from chiron.training.batches import Batches


@contextmanager
def transformed(
    batches: Batches,
    transforms: Transforms | None,
    *,
    policy: bytes,
    schema: Schema,
    state: kernel.State | None,
    deadline_ms: int,
    compiled: CompiledGuest | None = None,
    augmentation: Augmentation = NOTHING,
) -> Iterator[Batches | Transformed]:
    """Put the guest's transforms and the plan's augmentation between the data set and the engine.

    Args:
        batches: the rows as the user submitted them.
        transforms: the guest's, or None.
        policy: the policy file, for the guest's process.
        schema: of the data set.
        state: the job's kernel state; None only without transforms.
        deadline_ms: for any one transform.
        compiled: the guest, where the caller has compiled it already.
        augmentation: of the plan.
    """
    if transforms is None or state is None:
        yield batches if augmentation == NOTHING else Transformed(batches, augmentation=augmentation)
        return
    with Transformer(transforms, policy=policy, schema=schema, compiled=compiled) as transformer:
        yield Transformed(batches, transformer, state, deadline_ms=deadline_ms, augmentation=augmentation)


class Transformed:  # TRAIN-9
    """Batches of rows that were changed on their way to the engine.

    In this order: the guest's `transform_input`; crop and flip in trusted code; the guest's `augment`;
    normalisation in trusted code.

    The compute thread does it beside the exchange: the time it takes shows nowhere, and where a transform
    fails no gradient comes, which shows as the job's outcome.
    """

    def __init__(
        self,
        batches: Batches,
        transformer: Transformer | None = None,
        state: kernel.State | None = None,
        *,
        deadline_ms: int = 0,
        augmentation: Augmentation = NOTHING,
    ) -> None:
        self._batches, self._transformer, self._state = batches, transformer, state
        self._augmentation = augmentation
        self._deadline_ms = deadline_ms

    def __call__(self, step: int) -> tuple[Float32Array, NDArray[np.int64]]:
        """Return rows and targets of a step, as `Batches` does.

        Raises:
            TransformError: the guest failed.
        """
        rows, targets = self._batches(step)
        seed, worker = self._batches.seed, self._batches.index
        rows = self._augmentation.vary(self._apply(INPUT, rows, b""), seed=seed, step=step, worker=worker)
        rows = self._apply(AUGMENT, rows, struct.pack("<QII", seed, step, worker))
        return self._augmentation.normalise(rows), targets

    def _apply(self, export: str, rows: Float32Array, seed: bytes) -> Float32Array:
        if self._transformer is None or self._state is None:
            return rows
        return self._transformer.apply(
            export, rows, state=self._state, deadline_ms=self._deadline_ms, seed=seed
        )
