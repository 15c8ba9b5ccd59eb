"""The worker's end: the caller's thread keeps the schedule, a thread beside it computes."""

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from paramserver.errors import DeferredFaultError, ExchangeError
from paramserver.frames import Channel, Float32Array, Frame, FrameFormat, Kind, Outbox
from paramserver.schedule import Clock, Schedule

Compute: TypeAlias = Callable[[Float32Array, int], float]
"""From the bound parameters and the step: fill the bound gradient and return the batch's mean loss."""


def work(
    channel: Channel,
    compute: Compute,
    *,
    worker: int,
    parameters: Float32Array,
    gradient: Float32Array,
    schedule: Schedule,
    clock: Clock,
    frame: FrameFormat,
) -> None:
    """Answer every parameters frame with a gradient, one frame a slot, to the schedule's very end.

    A gradient that is not ready at its tick goes out at a later one, an EMPTY frame in its place.

    Args:
        channel: to the server; used by this thread only, left open.
        compute: called in a thread of its own, with `parameters` filled; fills `gradient`.
        worker: this worker's index, for errors.
        parameters: float32, shape (n,), the engine's buffer that received parameters are copied to.
        gradient: float32, shape (n,), the engine's buffer that `compute` fills.
        schedule: the job's slots, the server's own.
        clock: keeps the ticks.
        frame: the job's frames, the server's own.

    Raises:
        ExchangeError: the channel broke or a frame was refused; `compute` may still be running.
        DeferredFaultError: `compute` raised, or had not ended by the last slot; raised after that slot.
        ValueError: the buffers do not fit each other or the frame.
    """
    _check_buffers(parameters, gradient, frame)
    computer = _Computer(compute, parameters=parameters, gradient=gradient, outbox=Outbox(frame))
    slot = None
    try:
        computer.ask(frame.receive(channel, slot=0, kinds={Kind.START}))
        start = schedule.start(clock.now())
        for slot in range(schedule.slots):
            clock.sleep_until(schedule.worker_tick(start, slot))
            channel.send(computer.take(slot))
            reply = frame.receive(channel, slot=slot, kinds={Kind.EMPTY, Kind.PARAMETERS})
            if reply.kind is Kind.PARAMETERS:
                computer.ask(reply)
        clock.sleep_until(schedule.worker_tick(start, schedule.slots))
    except Exception as error:
        raise ExchangeError(worker=worker, slot=slot, slots=schedule.slots) from error
    finally:
        computer.end()
    computer.raise_fault()


def _check_buffers(parameters: Float32Array, gradient: Float32Array, frame: FrameFormat) -> None:
    fits = (
        parameters.shape == gradient.shape == (parameters.size,) and 1 <= parameters.size <= frame.parameters
    )
    if not fits or not parameters.dtype == gradient.dtype == np.float32:
        raise ValueError(f"both buffers must be flat float32 of one size, 1 to {frame.parameters}")


class _Computer:
    """The thread that computes, what it owes, and what became of it."""

    def __init__(
        self, compute: Compute, *, parameters: Float32Array, gradient: Float32Array, outbox: Outbox
    ) -> None:
        self._compute = compute
        self._parameters = parameters
        self._gradient = gradient
        self._outbox = outbox
        self._asked: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._owed = 0  # gradients asked for and not sent yet; of the caller's thread alone
        self._step = 0
        self._fault: BaseException | None = None
        threading.Thread(target=self._run, name="paramserver-compute", daemon=True).start()

    def ask(self, frame: Frame) -> None:
        """Have the gradient at these parameters computed and put into the outbox."""
        self._owed += 1
        self._asked.put(frame)

    def take(self, slot: int) -> memoryview:
        """Return the frame to send in this slot: the gradient's if it is ready, or an EMPTY one."""
        is_gradient, data = self._outbox.take(slot)
        self._owed -= is_gradient
        return data

    def end(self) -> None:
        """Let the thread end once it has nothing left to compute."""
        self._asked.put(None)

    def raise_fault(self) -> None:
        """Raise if compute failed, or if it still owes a gradient."""
        if self._fault is not None:
            raise DeferredFaultError("compute", step=self._step, detail="see the cause") from self._fault
        if self._owed:
            detail = "its gradient was not sent by the last slot, choose a longer slot"
            raise DeferredFaultError("compute", step=self._step, detail=detail)

    def _run(self) -> None:
        try:
            while (frame := self._asked.get()) is not None:
                self._answer(frame)
        except BaseException as error:  # noqa: BLE001  # whatever it is, only the schedule's end may show it
            self._fault = error

    def _answer(self, frame: Frame) -> None:
        self._step = frame.step
        if frame.vector.shape != self._parameters.shape:
            raise ValueError("the received parameters' size differs from the buffer's")
        self._parameters[:] = frame.vector
        loss = self._compute(self._parameters, frame.step)
        self._outbox.put(Kind.GRADIENT, step=frame.step, vector=self._gradient, loss=loss)
