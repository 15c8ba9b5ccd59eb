"""The plan: hyper-parameters that a guest emits as one fixed struct."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from chiron.guest_api.augmentation import MAX_CHANNELS, NOTHING, Augmentation
from chiron.guest_api.errors import GuestApiError

PLAN = struct.Struct("<IIfffIII")  # the layout of `plan` in spec/guest.wit
AUGMENTATION = struct.Struct("<HBB3f3fI")  # what follows it in version 2
VERSION, AUGMENTED = 1, 2
OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. `optimiser` and `schedule` are names, `warmup_steps` the steps of a linear warm-up.

    `augmentation` is what trusted code does to rows.
    """

    optimiser: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    augmentation: Augmentation = NOTHING


def parse_plan(raw: bytes) -> Plan:
    """Parse a plan.

    Raises:
        GuestApiError: the size, the version or a range is wrong; the text names the field, not the value.
    """
    size = PLAN.size + (AUGMENTATION.size if raw[:4] == AUGMENTED.to_bytes(4, "little") else 0)
    if len(raw) != size:
        raise GuestApiError(
            f"a plan of its version has {size} bytes, this one has {len(raw)}: call plan() exactly once"
        )
    version, optimiser, rate, momentum, decay, schedule, warmup, reserved = PLAN.unpack_from(raw)
    augmentation = _augmentation(raw[PLAN.size :])
    rules = {
        "version": version in {VERSION, AUGMENTED} and reserved == 0,
        "optimiser": optimiser < len(OPTIMISERS),
        "learning_rate": math.isfinite(rate) and 0 < rate <= 10,  # noqa: PLR2004  beyond it nothing converges
        "momentum": 0 <= momentum < 1,
        "weight_decay": 0 <= decay <= 1,
        "schedule": schedule < len(SCHEDULES),
    }
    for name, holds in rules.items():
        if not holds:
            raise GuestApiError(f"the plan's field {name!r} is out of its range: see plan in spec/guest.wit")
    return Plan(
        OPTIMISERS[optimiser], rate, momentum, decay, SCHEDULES[schedule], warmup, augmentation or NOTHING
    )


def _augmentation(raw: bytes) -> Augmentation | None:
    """Parse what follows a plan; None where nothing does. `Augmentation.check` has the ranges."""
    if not raw:
        return None
    padding, flip, channels, *numbers, reserved = AUGMENTATION.unpack(raw)
    if flip > 1 or channels > MAX_CHANNELS or reserved:
        raise GuestApiError("the plan's augmentation is out of its range: see plan in spec/guest.wit")
    mean, deviation = numbers[:channels], numbers[MAX_CHANNELS : MAX_CHANNELS + channels]
    return Augmentation(padding, bool(flip), tuple(mean), tuple(deviation))
