import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramserver import MonotonicClock, Schedule

SCHEDULES = st.builds(
    Schedule,
    slot_ms=st.integers(1, 1000),
    steps=st.integers(1, 10_000),
    workers=st.integers(1, 4),
    steps_per_epoch=st.integers(1, 1000),
)


@pytest.mark.parametrize(("steps", "spare", "slots"), [(1, 32, 33), (128, 5, 133), (1000, 250, 1250)])
def test_a_schedule_has_a_slot_a_step_and_those_to_spare(steps: int, spare: int, slots: int) -> None:
    assert Schedule(slot_ms=5, steps=steps, workers=1, steps_per_epoch=1, spare=spare).slots == slots


@given(schedule=SCHEDULES, start=st.floats(0, 1e6), slot=st.integers(0, 10_000))
def test_the_server_ticks_half_a_slot_after_the_workers_and_before_their_next(
    schedule: Schedule, start: float, slot: int
) -> None:
    before, tick = schedule.worker_tick(start, slot), schedule.server_tick(start, slot)
    assert before < tick < schedule.worker_tick(start, slot + 1)
    assert tick - before == pytest.approx(schedule.slot_ms / 2000, abs=1e-6)


@given(schedule=SCHEDULES, start=st.floats(0, 1e6), slot=st.integers(0, 10_000))
def test_ticks_do_not_drift(schedule: Schedule, start: float, slot: int) -> None:
    assert schedule.worker_tick(start, slot) == pytest.approx(start + slot * schedule.slot_ms / 1000)


def test_the_first_tick_is_a_tenth_of_a_second_after_the_start_frame() -> None:
    schedule = Schedule(slot_ms=5, steps=1, workers=1, steps_per_epoch=1)
    assert schedule.worker_tick(schedule.start(10.0), 0) == pytest.approx(10.1)


@pytest.mark.parametrize("name", ["slot_ms", "steps", "workers", "steps_per_epoch"])
def test_a_schedule_of_nothing_is_refused(name: str) -> None:
    arguments = {"slot_ms": 1, "steps": 1, "workers": 1, "steps_per_epoch": 1} | {name: 0}
    with pytest.raises(ValueError, match=name):
        Schedule(**arguments)


def test_the_clock_never_wakes_before_the_deadline() -> None:
    clock = MonotonicClock()
    for _ in range(20):
        deadline = clock.now() + 0.001
        clock.sleep_until(deadline)
        assert time.monotonic() >= deadline


def test_the_clock_does_not_wait_for_a_deadline_that_has_passed() -> None:
    clock = MonotonicClock()
    before = clock.now()
    clock.sleep_until(before - 60)
    assert clock.now() - before < 30
