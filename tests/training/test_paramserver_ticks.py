"""What the platform sees of an exchange: frames and ticks are the schedule's, whatever the content."""

import contextlib
import threading

import numpy as np
import pytest
from exchanges import (
    FORMAT,
    FailingOptimiser,
    HurriedClock,
    Job,
    PatientSchedule,
    Start,
    endless,
    failing,
    gradient_slots,
    leaving,
    quick,
    schedule_of,
)

from paramserver import Clock, DeferredFaultError, Float32Array, Kind, MonotonicClock


def exploding(_parameters: Float32Array, gradient: Float32Array, _step: int) -> float:
    gradient[:] = np.inf
    return float("nan")


def observation(job: Job) -> tuple[object, ...]:
    sizes = [([len(data) for data in c.sent], c.received) for c in job.server]
    sizes += [([len(data) for data in w.channel.sent], w.channel.received) for w in job.workers]
    slots = [[frame.slot for frame in channel.frames()] for channel in job.server]
    return sizes, slots, [clock_of(worker.clock) for worker in job.workers], job.slots_told


def clock_of(clock: Clock) -> list[float]:
    assert isinstance(clock, HurriedClock)
    return clock.deadlines


@pytest.mark.parametrize("behaviour", ["quick", "failing", "leaving", "exploding", "endless", "optimiser"])
def test_frames_and_ticks_are_the_schedules_whatever_compute_and_optimiser_do(
    start: Start, behaviour: str
) -> None:
    release = threading.Event()
    computes = {"failing": failing, "leaving": leaving, "exploding": exploding, "endless": endless(release)}
    optimiser = FailingOptimiser() if behaviour == "optimiser" else None
    job = start([quick, computes.get(behaviour, quick)], optimiser=optimiser)
    with contextlib.suppress(DeferredFaultError):
        job.run()
    release.set()
    slots, size = job.schedule.slots, FORMAT.frame_bytes
    expected_sizes = [([size] * (slots + 1), [size] * slots)] * 2 + [
        ([size] * slots, [size] * (slots + 1))
    ] * 2
    ticks = [job.schedule.worker_tick(0.1, slot) for slot in range(slots + 1)]
    assert observation(job) == (
        expected_sizes,
        [[0, *range(slots)]] * 2,
        [ticks, ticks],
        list(range(slots)),
    )


def test_the_server_waits_for_its_own_ticks_and_for_the_end(start: Start) -> None:
    job = start([quick])
    job.run()
    schedule = job.schedule
    ticks = [schedule.server_tick(0.1, slot) for slot in range(schedule.slots)]
    assert clock_of(job.server_clock) == [*ticks, schedule.worker_tick(0.1, schedule.slots)]


def test_no_frame_leaves_before_its_tick(start: Start) -> None:
    job = start([quick, quick], clock=MonotonicClock)
    job.run()
    for channel in job.server:
        first = job.schedule.start(channel.sent_at[0])
        for slot, sent_at in enumerate(channel.sent_at[1:]):
            assert sent_at >= job.schedule.server_tick(first, slot) - 1e-9
    for worker in job.workers:
        first = job.schedule.start(job.server[0].sent_at[0])
        for slot, sent_at in enumerate(worker.channel.sent_at):
            assert sent_at >= job.schedule.worker_tick(first, slot) - 1e-9


def test_quick_compute_does_one_useful_step_a_slot(start: Start) -> None:
    steps, last_slots = 12, []
    for _attempt in range(6):  # a busy machine only makes it later
        job = start([quick, quick], schedule_of(steps=steps, slot_ms=15), clock=MonotonicClock)
        job.run()
        last_slots.append(max(gradient_slots(job)))
        if last_slots[-1] < 1.5 * steps:  # two slots a step would take 2 * steps
            return
    pytest.fail(f"{steps} steps took until slots {last_slots}")


def test_the_server_says_nothing_after_the_last_useful_step(start: Start) -> None:
    job = start([quick], PatientSchedule(slot_ms=1, steps=3, workers=1, steps_per_epoch=1))
    job.run()
    said = [frame for frame in job.server[0].frames() if frame.kind is not Kind.EMPTY]
    assert [(frame.kind, frame.step) for frame in said] == [
        (Kind.START, 0),
        (Kind.PARAMETERS, 1),
        (Kind.PARAMETERS, 2),
    ]
    assert [f.step for f in job.workers[0].channel.frames() if f.kind is Kind.GRADIENT] == [0, 1, 2]
