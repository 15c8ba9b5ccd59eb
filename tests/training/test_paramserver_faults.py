"""A failed compute or optimiser is told after the last slot; a broken channel or frame ends an exchange."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from exchanges import (
    FORMAT,
    HANG_S,
    SIZE,
    Compute,
    FailingOptimiser,
    HurriedClock,
    Job,
    SocketChannel,
    Start,
    failing,
    leaving,
    quick,
    schedule_of,
    serve_broken,
    work_broken,
)

import paramserver.server
from paramserver import Clock, DeferredFaultError, ExchangeError, FrameError, Kind, MonotonicClock, work


@pytest.mark.parametrize(("compute", "cause"), [(failing, RuntimeError), (leaving, SystemExit)])
def test_a_failed_compute_is_raised_from_its_cause_after_the_last_slot(
    start: Start, compute: Compute, cause: type[BaseException]
) -> None:
    job = start([quick, compute])
    assert job.run().steps_done == 0
    error = job.workers[1].error
    assert isinstance(error, DeferredFaultError)
    assert isinstance(error.__cause__, cause)
    assert "secret" not in str(error)
    assert len(job.workers[1].channel.sent) == job.schedule.slots
    assert job.workers[0].error is None


def test_a_failed_optimiser_is_raised_from_its_cause_after_the_last_slot(start: Start) -> None:
    job = start([quick, quick], optimiser=FailingOptimiser())
    with pytest.raises(DeferredFaultError, match="optimiser failed at step 0") as caught:
        job.run()
    assert isinstance(caught.value.__cause__, MemoryError)
    assert "secret" not in str(caught.value)
    assert [worker.error for worker in job.workers] == [None, None]
    assert len(job.server[0].sent) == job.schedule.slots + 1


def test_parameters_of_another_size_are_a_fault_of_the_worker_at_the_end(start: Start) -> None:
    job = start([quick])
    channel = job.workers[0].channel
    buffers = np.zeros(SIZE - 1, np.float32), np.zeros(SIZE - 1, np.float32)
    errors: list[Exception] = []

    def run_worker() -> None:
        try:
            work(
                channel,
                lambda _parameters, _step: 0.0,
                worker=0,
                parameters=buffers[0],
                gradient=buffers[1],
                schedule=job.schedule,
                clock=HurriedClock(),
                frame=FORMAT,
            )
        except DeferredFaultError as error:
            errors.append(error)

    job.threads = [threading.Thread(target=run_worker)]
    assert job.run().steps_done == 0
    assert [type(error.__cause__) for error in errors] == [ValueError]


def stranger(job: Job, index: int, frames: Sequence[bytes]) -> threading.Thread:
    """A worker that sends `frames` instead of its own, answers read between them, and closes."""

    def run_worker() -> None:
        channel = job.workers[index].channel
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            for data in frames:
                channel.recv_exactly(FORMAT.frame_bytes)
                channel.send(memoryview(data))
        channel.close()

    return threading.Thread(target=run_worker)


def empty(slot: int) -> bytes:
    return FORMAT.encode(Kind.EMPTY, step=0, slot=slot, vector=None, loss=0.0)


@pytest.mark.parametrize("clock", [HurriedClock, MonotonicClock])
@pytest.mark.parametrize("slots", [0, 1, 6])
@pytest.mark.parametrize("rest", [b"", b"half a frame"], ids=["between frames", "within a frame"])
def test_a_dead_worker_ends_the_exchange_for_all_and_is_named_with_the_slot(
    start: Start, clock: Callable[[], Clock], slots: int, rest: bytes
) -> None:
    job = start([quick, quick, quick], clock=clock)
    frames = [empty(slot) for slot in range(slots)] + ([rest] if rest else [])
    job.threads[1] = stranger(job, 1, frames)
    with pytest.raises(ExchangeError, match="worker 1 broke off") as caught:
        job.run()
    assert caught.value.worker == 1
    assert caught.value.slot in {None, 0} if slots == 0 else caught.value.slot in {slots, slots - 1}
    assert isinstance(caught.value.__cause__, OSError)
    job.join_exchange()
    for survivor in (0, 2):
        error = job.workers[survivor].error
        assert isinstance(error, ExchangeError)
        assert error.worker == survivor


def test_a_channel_that_breaks_before_the_first_slot_is_told_so_at_the_server() -> None:
    with pytest.raises(ExchangeError, match="worker 0 broke off before the first slot") as caught:
        serve_broken()
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_channel_that_breaks_before_the_first_slot_is_told_so_at_the_worker() -> None:
    with pytest.raises(ExchangeError, match="worker 0 broke off before the first slot") as caught:
        work_broken(np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("rule", "frame"),
    [
        ("slot", empty(4)),
        ("slot", empty(2)),
        ("direction", FORMAT.encode(Kind.PARAMETERS, step=0, slot=3, vector=np.ones(2, np.float32), loss=0)),
        ("magic", b"\x00" * FORMAT.frame_bytes),
    ],
    ids=["later", "earlier", "direction", "magic"],
)
def test_a_frame_that_breaks_a_rule_ends_the_exchange(start: Start, rule: str, frame: bytes) -> None:
    job = start([quick, quick])
    job.threads[0] = stranger(job, 0, [empty(0), empty(1), empty(2), frame])
    with pytest.raises(ExchangeError) as caught:
        job.run()
    assert (caught.value.worker, caught.value.slot) == (0, 3)
    assert isinstance(caught.value.__cause__, FrameError)
    assert caught.value.__cause__.rule == rule


def test_a_worker_does_not_begin_without_a_start_frame(start: Start) -> None:
    job = start([quick])
    job.threads[0].start()
    job.server[0].send(memoryview(empty(0)))
    job.join()
    error = job.workers[0].error
    assert isinstance(error, ExchangeError)
    assert isinstance(error.__cause__, FrameError)
    assert error.__cause__.rule == "direction"


def test_an_error_of_on_slot_ends_the_exchange(start: Start) -> None:
    class Refusing(list[int]):
        def append(self, slot: int, /) -> None:
            if slot == 2:
                raise PermissionError(slot)

    job = start([quick, quick], slots_told=Refusing())
    with pytest.raises(ExchangeError) as caught:
        job.run()
    assert isinstance(caught.value.__cause__, PermissionError)
    job.join_exchange()


class Unclosable:
    def __init__(self, inner: SocketChannel) -> None:
        self.send = inner.send
        self.recv_exactly = inner.recv_exactly


class FailsToClose(Unclosable):
    def close(self) -> None:
        raise OSError("no")


def test_a_channel_that_cannot_be_closed_is_left_at_its_next_tick(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paramserver.server, "_CLOSING_S", 1.0)
    job = start([quick, quick], schedule_of(slot_ms=100), clock=MonotonicClock)  # 4 seconds in all
    job.threads = [stranger(job, 0, [empty(0)])]
    other = stranger(job, 1, [empty(slot) for slot in range(job.schedule.slots)])
    other.start()
    with pytest.raises(ExchangeError, match="worker 0") as caught:
        job.run([job.server[0], Unclosable(job.server[1])])
    job.close()
    other.join(HANG_S)
    assert not other.is_alive()
    assert not hasattr(caught.value, "__notes__")


def test_channels_that_cannot_be_closed_or_fail_to_do_not_make_it_hang(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paramserver.server, "_CLOSING_S", 0.05)
    job = start([quick, quick, quick])
    job.threads = [stranger(job, 0, [empty(0)])]  # workers 1 and 2 never answer
    before = time.monotonic()
    with pytest.raises(ExchangeError) as caught:
        job.run([job.server[0], Unclosable(job.server[1]), FailsToClose(job.server[2])])
    assert caught.value.worker == 0
    assert time.monotonic() - before < 10
    assert caught.value.__notes__ == [
        "closing the channel of worker 2 failed too: OSError",
        "2 threads still wait in their channels, which did not wake them",
    ]
