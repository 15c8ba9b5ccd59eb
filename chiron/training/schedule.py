"""The exchange's schedule and frames of one job: functions of the public offer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.policy.header import slots_for
from paramserver import FrameFormat, Schedule

if TYPE_CHECKING:
    from chiron.training.agreement import Offer


def schedule_of(offer: Offer) -> Schedule:
    """Return when frames go out, and how many; its slots are those that the policy kernel counts."""
    per_epoch = offer.header.steps_per_epoch(offer.schema.rows_class)
    steps = offer.header.epochs * per_epoch
    return Schedule(
        slot_ms=offer.header.slot_ms,
        steps=steps,
        workers=offer.header.workers,
        steps_per_epoch=per_epoch,
        spare=slots_for(offer.header, offer.schema.rows_class) - steps,  # TRAIN-1
    )


def frame_format(offer: Offer) -> FrameFormat:
    """Return the one size of frame of this job."""
    return FrameFormat(offer.header.parameters)
