"""The plan: hyper-parameters that a guest emits as one fixed struct."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from chiron.guest_api.errors import GuestApiError

PLAN = struct.Struct("<IIfffIII")  # the layout of `plan` in spec/guest.wit
VERSION = 1
OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. `optimiser` and `schedule` are names, `warmup_steps` the steps of a linear warm-up."""

    optimiser: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_steps: int


def parse_plan(raw: bytes) -> Plan:
    """Parse a plan.

    Raises:
        GuestApiError: the size, the version or a range is wrong; the text names the field, not the value.
    """
    if len(raw) != PLAN.size:
        raise GuestApiError(
            f"a plan has {PLAN.size} bytes, this one has {len(raw)}: call plan() exactly once"
        )
    version, optimiser, rate, momentum, decay, schedule, warmup, reserved = PLAN.unpack(raw)
    rules = {
        "version": version == VERSION and reserved == 0,
        "optimiser": optimiser < len(OPTIMISERS),
        "learning_rate": math.isfinite(rate) and 0 < rate <= 10,  # noqa: PLR2004  beyond it nothing converges
        "momentum": 0 <= momentum < 1,
        "weight_decay": 0 <= decay <= 1,
        "schedule": schedule < len(SCHEDULES),
    }
    for name, holds in rules.items():
        if not holds:
            raise GuestApiError(f"the plan's field {name!r} is out of its range: see plan in spec/guest.wit")
    return Plan(OPTIMISERS[optimiser], rate, momentum, decay, SCHEDULES[schedule], warmup)
