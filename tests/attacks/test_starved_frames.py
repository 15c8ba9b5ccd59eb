"""Attack: a malicious scheduler holds a worker's frames back, to see by the others what is in them.

What the server sends, how much and when it ends is the schedule's; a gradient that comes late leaves a step
undone, which the declared outcome tells and no frame.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from paramserver import (
    SGD,
    DeferredFaultError,
    Float32Array,
    FrameFormat,
    LearningRate,
    MonotonicClock,
    RateShape,
    Schedule,
    serve,
    work,
)

FORMAT, SIZE, SLOT_S = FrameFormat(64), 20, 0.03
SCHEDULE = Schedule(slot_ms=30, steps=4, workers=1, steps_per_epoch=4, spare=6)
HELD = 3  # the worker's frame that is held back


@dataclass(slots=True)
class Starved:
    """A channel that notes what it sends, and holds one frame back."""

    sock: socket.socket
    hold_s: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def send(self, data: memoryview) -> None:
        if len(self.sizes) == HELD:
            time.sleep(self.hold_s)
        self.sizes.append(data.nbytes)
        self.sock.sendall(data)

    def recv_exactly(self, n: int) -> bytes:
        return self.sock.recv(n, socket.MSG_WAITALL)


def observed(content: float, hold_s: float) -> tuple[list[int], list[int]]:
    """Train on gradients of some content while the scheduler starves the worker; return all sizes sent."""
    left, right = socket.socketpair()
    server, worker = Starved(left), Starved(right, hold_s)
    gradient = np.zeros(SIZE, np.float32)

    def compute(_: Float32Array, __: int) -> float:
        gradient[:] = content
        return abs(content)

    def train() -> None:
        work(
            worker,
            compute,
            worker=0,
            parameters=np.zeros(SIZE, np.float32),
            gradient=gradient,
            schedule=SCHEDULE,
            clock=MonotonicClock(),
            frame=FORMAT,
        )

    thread = threading.Thread(target=train)
    thread.start()
    rate = LearningRate(0.01, RateShape.CONSTANT, warmup_steps=0, steps=4)
    try:
        serve(
            [server],
            np.zeros(SIZE, np.float32),
            optimiser=SGD(SIZE, rate=rate),
            schedule=SCHEDULE,
            clock=MonotonicClock(),
            frame=FORMAT,
            on_slot=lambda _: None,
        )
    except DeferredFaultError:
        pass  # told after the last slot
    finally:
        thread.join()
        left.close()
        right.close()
    return server.sizes, worker.sizes


@pytest.mark.parametrize("hold_s", [0.0, 0.5 * SLOT_S, 3 * SLOT_S])
def test_what_is_sent_is_the_same_whatever_is_in_it(hold_s: float) -> None:
    quiet, loud = observed(0.0, hold_s), observed(3e38, hold_s)
    assert quiet == loud
    assert quiet == ([FORMAT.frame_bytes] * (SCHEDULE.slots + 1), [FORMAT.frame_bytes] * SCHEDULE.slots)
