"""The training exchange under every schedule of failures that Hypothesis writes, with two contents.

A platform may hold any frame back, cut any connection at any slot, and make computing take as long as it
likes. Whatever it does, what is sent (count, size and order of frames on each connection) is the same for an
exchange of zeros and for one that diverges.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from paramserver import (
    SGD,
    DeferredFaultError,
    ExchangeError,
    Float32Array,
    FrameFormat,
    LearningRate,
    MonotonicClock,
    RateShape,
    Schedule,
    serve,
    work,
)
from paramserver import frames as frames_module

if TYPE_CHECKING:
    import pytest

FORMAT, SIZE, WORKERS = FrameFormat(32), 10, 2
SCHEDULE = Schedule(slot_ms=4, steps=3, workers=WORKERS, steps_per_epoch=3, spare=4)


@dataclass(frozen=True, slots=True)
class Failures:
    """What the platform does: at some frame of a worker it waits, and at some it cuts the connection."""

    held: tuple[int, int] = (-1, -1)  # worker, frame
    held_slots: int = 0
    cut: tuple[int, int] = (-1, -1)
    slow_slots: int = 0  # what computing a gradient takes


PLACES = st.tuples(st.integers(0, WORKERS - 1), st.integers(0, SCHEDULE.slots - 1))
SCHEDULES = st.builds(
    Failures,
    held=PLACES,
    held_slots=st.integers(0, 3),
    cut=st.just((-1, -1)) | PLACES,
    slow_slots=st.integers(0, 2),
)


@dataclass(slots=True)
class Watched:
    """A channel under the platform's hands, which notes what is sent."""

    sock: socket.socket
    worker: int
    failures: Failures
    is_server: bool
    sizes: list[int] = field(default_factory=list)

    def send(self, data: memoryview) -> None:
        place = (self.worker, len(self.sizes))
        if not self.is_server and place == self.failures.held:
            time.sleep(self.failures.held_slots * SCHEDULE.slot_ms / 1000)
        if not self.is_server and place == self.failures.cut:
            self.close()
        self.sizes.append(data.nbytes)
        self.sock.sendall(data)

    def recv_exactly(self, n: int) -> bytes:
        raw = self.sock.recv(n, socket.MSG_WAITALL)
        if len(raw) != n:
            raise ConnectionResetError("the other end is gone")
        return raw

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


def observed(content: float, failures: Failures) -> list[object]:
    """Train under failures; return each connection's frames, up to the cut where there is one."""
    pairs = [socket.socketpair() for _ in range(WORKERS)]
    servers = [Watched(left, index, failures, is_server=True) for index, (left, _) in enumerate(pairs)]
    workers = [Watched(right, index, failures, is_server=False) for index, (_, right) in enumerate(pairs)]
    threads = [threading.Thread(target=_work, args=(channel, content)) for channel in workers]
    for thread in threads:
        thread.start()
    ended = _serve(servers)
    for thread in threads:
        thread.join()
    for left, right in pairs:
        left.close()
        right.close()
    if failures.cut[0] >= 0:  # how far the other ends come before they hear of it is a matter of milliseconds
        cut = workers[failures.cut[0]]
        return [ended, cut.sizes[: failures.cut[1]]]
    return [ended, *(channel.sizes for channel in (*servers, *workers))]


def _serve(channels: list[Watched]) -> str:
    rate = LearningRate(0.1, RateShape.CONSTANT, warmup_steps=0, steps=SCHEDULE.steps)
    try:
        serve(
            channels,
            np.zeros(SIZE, np.float32),
            optimiser=SGD(SIZE, rate=rate),
            schedule=SCHEDULE,
            clock=MonotonicClock(),
            frame=FORMAT,
            on_slot=lambda _: None,
        )
    except ExchangeError:
        return "lost"
    except DeferredFaultError:
        return "kept"
    return "kept"


def _work(channel: Watched, content: float) -> None:
    gradient = np.zeros(SIZE, np.float32)

    def compute(_: Float32Array, __: int) -> float:
        time.sleep(channel.failures.slow_slots * SCHEDULE.slot_ms / 1000)
        gradient[:] = content
        return content

    with suppress(ExchangeError, DeferredFaultError):
        work(
            channel,
            compute,
            worker=channel.worker,
            parameters=np.zeros(SIZE, np.float32),
            gradient=gradient,
            schedule=SCHEDULE,
            clock=MonotonicClock(),
            frame=FORMAT,
        )


@settings(max_examples=40)
@given(SCHEDULES)
def test_frames_are_the_same_whatever_is_in_them_and_whatever_fails(failures: Failures) -> None:
    assert observed(0.0, failures) == observed(3e38, failures)


def test_a_frame_that_is_short_where_there_is_nothing_to_say_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sabotage: frames of a gradient of zeros are cut short, on both ends."""
    take = frames_module.Outbox.take

    def short(self: frames_module.Outbox, slot: int) -> tuple[bool, memoryview]:
        is_full, data = take(self, slot)
        return is_full, data if any(data[32:]) else data[:32]

    def received(self: FrameFormat, channel: Watched, **_: object) -> frames_module.Frame:
        raw = channel.sock.recv(self.frame_bytes)
        return self.decode(raw + bytes(self.frame_bytes - len(raw)))

    monkeypatch.setattr(frames_module.Outbox, "take", short)
    monkeypatch.setattr(FrameFormat, "receive", received)
    assert observed(0.0, Failures()) != observed(3e38, Failures())
