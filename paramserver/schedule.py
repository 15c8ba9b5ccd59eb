"""When frames go out: a pure function of the public header. And the clock that both ends are handed."""

import time
from dataclasses import dataclass
from typing import Protocol

START_LEAD_MS = 100
"""From the START frame to the first tick, so that every thread is waiting when that tick comes."""

SPARE_SLOTS = 32
"""Slots beyond one a step where the caller names none, for gradients which miss their tick."""


class Clock(Protocol):
    """Monotonic time in seconds."""

    def now(self) -> float:
        """Return the time, in seconds from an arbitrary origin."""

    def sleep_until(self, deadline: float) -> None:
        """Return at `deadline` (seconds, as `now` counts them), at once if it has passed."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return the time, in seconds from an arbitrary origin."""
        return time.monotonic()

    def sleep_until(self, deadline: float) -> None:
        """Return at `deadline` (seconds, as `now` counts them), at once if it has passed."""
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many frames go out and when; nothing else decides it.

    Args:
        slot_ms: length of a slot in milliseconds; each worker sends and receives one frame a slot.
        steps: useful steps of the job.
        workers: number of workers.
        steps_per_epoch: steps in one pass over the data, for the epoch losses.
        spare: slots beyond one a step.

    Raises:
        ValueError: one of them is smaller than 1.
    """

    slot_ms: int
    steps: int
    workers: int
    steps_per_epoch: int
    spare: int = SPARE_SLOTS

    def __post_init__(self) -> None:
        for name in ("slot_ms", "steps", "workers", "steps_per_epoch", "spare"):
            if getattr(self, name) < 1:
                raise ValueError(f"a schedule's {name} is at least 1")

    @property
    def slots(self) -> int:
        """Slots in all: one a step, and those to spare."""
        return self.steps + self.spare

    def start(self, now: float) -> float:
        """Return the time of the first tick, given when the START frame was sent or came (seconds)."""
        return now + START_LEAD_MS / 1000

    def worker_tick(self, start: float, slot: int) -> float:
        """Return when a worker sends its frame of `slot`, in seconds. The tick of slot `slots` is the end."""
        return start + slot * self.slot_ms / 1000

    def server_tick(self, start: float, slot: int) -> float:
        """Return when the server sends its frame of `slot`, in seconds.

        Half a slot after the workers': gradients arrive and are applied in that half, workers
        compute in the other, and so each slot can hold one useful step.
        """
        return self.worker_tick(start, slot) + self.slot_ms / 2000
