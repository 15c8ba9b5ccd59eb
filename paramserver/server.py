"""The server's end: one thread a channel keeps the schedule, the caller's thread applies the optimiser."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from paramserver.errors import DeferredFaultError, ExchangeError
from paramserver.frames import Channel, Float32Array, Frame, FrameFormat, Kind, Outbox
from paramserver.optimisers import Optimiser
from paramserver.schedule import Clock, Schedule

_CLOSING_S: Final = 5.0
"""How long a failed exchange waits for the other channels' threads, which closing should have woken."""


@runtime_checkable
class Closable(Protocol):
    """What a channel should also be: `close` wakes a thread that waits in the channel."""

    def close(self) -> None:
        """Close; a call that waits in another thread raises."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What training came to.

    Args:
        parameters: float32, shape (n,), after the last step done.
        steps_done: steps applied; fewer than the schedule's when gradients came too late.
        epoch_losses: mean loss over the steps and workers of each epoch that was completed.
        diverged: a parameter is NaN or infinite.
    """

    parameters: Float32Array
    steps_done: int
    epoch_losses: list[float]
    diverged: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    worker: int
    frame: Frame


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    failure: ExchangeError | None


_Inbox: TypeAlias = "queue.SimpleQueue[_Arrival | _End]"


def serve(
    channels: Sequence[Channel],
    initial: Float32Array,
    *,
    optimiser: Optimiser,
    schedule: Schedule,
    clock: Clock,
    frame: FrameFormat,
    on_slot: Callable[[int], None],
) -> Result:
    """Train with the workers behind `channels`, on the schedule, to its very end.

    Each channel carries, to the worker, one START frame and then one frame a slot, and from it one frame a
    slot, whatever happens to the gradients.

    Args:
        channels: one for each worker; index is the worker's number. They stay open unless the exchange fails.
        initial: float32, shape (n,), n at most the frame's size class.
        optimiser: built for n parameters; called in this thread only.
        schedule: the job's slots.
        clock: keeps the ticks.
        frame: the job's frames.
        on_slot: called once a slot, after worker 0's frame went out, from that channel's thread.

    Raises:
        ExchangeError: a channel broke, a frame was refused or `on_slot` raised; all channels were closed.
        DeferredFaultError: the optimiser failed, or a gradient did not fit; raised after the last slot.
        ValueError: the arguments do not fit each other.
    """
    if len(channels) != schedule.workers:
        raise ValueError(f"{len(channels)} channels for a schedule of {schedule.workers} workers")
    if initial.dtype != np.float32 or initial.ndim != 1 or not 1 <= initial.size <= frame.parameters:
        raise ValueError(f"initial parameters must be a flat float32 vector of 1 to {frame.parameters}")
    training = SynchronousTraining(initial, optimiser=optimiser, schedule=schedule)
    exchange = _Exchange(channels, schedule=schedule, clock=clock, frame=frame, on_slot=on_slot)
    exchange.run(training)
    return training.result()


class SynchronousTraining:
    """Applies step k once every worker's gradient of step k has come, in the order of the workers.

    The result therefore depends on the gradients alone: not on when, or in which order, they come.

    Args:
        initial: float32, shape (n,); copied.
        optimiser: built for n parameters.
        schedule: gives the workers, the steps and the steps of an epoch.
    """

    def __init__(self, initial: Float32Array, *, optimiser: Optimiser, schedule: Schedule) -> None:
        self.parameters = initial.copy()
        self.step = 0
        self._mean = np.empty_like(self.parameters)
        self._optimiser = optimiser
        self._schedule = schedule
        self._waiting: dict[int, Frame] = {}
        self._epoch_loss = 0.0
        self._epoch_losses: list[float] = []

    @property
    def is_done(self) -> bool:
        """Whether all useful steps are applied."""
        return self.step == self._schedule.steps

    def offer(self, worker: int, gradient: Frame) -> bool:
        """Take one worker's gradient; return whether it completed the step, which is then applied.

        Raises:
            ValueError: it is not this step's, is not the worker's first of it, or has the wrong size.
        """
        if self.is_done or gradient.step != self.step or worker in self._waiting:
            raise ValueError("a gradient came for another step than the one being worked at")
        if gradient.vector.size != self.parameters.size:
            raise ValueError("a gradient's size differs from the parameters'")
        self._waiting[worker] = gradient
        if len(self._waiting) < self._schedule.workers:
            return False
        self._apply([self._waiting[index] for index in range(self._schedule.workers)])
        self._waiting.clear()
        return True

    def _apply(self, gradients: Sequence[Frame]) -> None:
        with np.errstate(all="ignore"):  # divergence is told by the result, never by the clock
            np.copyto(self._mean, gradients[0].vector)
            for gradient in gradients[1:]:  # TRAIN-3: in the workers' order
                np.add(self._mean, gradient.vector, out=self._mean)
            np.divide(self._mean, len(gradients), out=self._mean)
            self._optimiser.apply(self.parameters, self._mean, step=self.step)
        self._epoch_loss += sum(gradient.loss for gradient in gradients) / len(gradients)
        self.step += 1
        if self.step % self._schedule.steps_per_epoch == 0:
            self._epoch_losses.append(self._epoch_loss / self._schedule.steps_per_epoch)
            self._epoch_loss = 0.0

    def result(self) -> Result:
        """Return what training has come to so far."""
        diverged = not bool(np.isfinite(self.parameters).all())
        return Result(self.parameters, self.step, self._epoch_losses, diverged)


class _Exchange:
    """The threads that keep the schedule, and the loop that feeds them."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        schedule: Schedule,
        clock: Clock,
        frame: FrameFormat,
        on_slot: Callable[[int], None],
    ) -> None:
        self._channels = channels
        self._schedule = schedule
        self._clock = clock
        self._frame = frame
        self._on_slot = on_slot
        self._outboxes = [Outbox(frame) for _ in channels]
        self._inbox: _Inbox = queue.SimpleQueue()
        self._stopped = threading.Event()

    def run(self, training: SynchronousTraining) -> None:
        """Train until every channel's thread has ended; raise what failed."""
        for outbox in self._outboxes:
            outbox.put(Kind.START, step=0, vector=training.parameters)
        for worker in range(len(self._channels)):
            name = f"paramserver-{worker}"
            threading.Thread(target=self._keep_schedule, args=(worker,), name=name, daemon=True).start()
        fault: DeferredFaultError | None = None
        running = len(self._channels)
        try:
            while running:
                item = self._inbox.get()
                if isinstance(item, _End):
                    running -= 1
                    if item.failure is not None:
                        self._close(item.failure, running)
                        raise item.failure
                elif fault is None:
                    fault = self._train(training, item)
        finally:
            self._stopped.set()
        if fault is not None:
            raise fault

    def _train(self, training: SynchronousTraining, arrival: _Arrival) -> DeferredFaultError | None:
        step = training.step
        try:
            if training.offer(arrival.worker, arrival.frame) and not training.is_done:
                for outbox in self._outboxes:
                    outbox.put(Kind.PARAMETERS, step=training.step, vector=training.parameters)
        except Exception as error:  # noqa: BLE001  # whatever it is, only the end of the schedule may show it
            fault = DeferredFaultError("optimiser", step=step, detail="see the cause")
            fault.__cause__ = error
            return fault
        return None

    def _keep_schedule(self, worker: int) -> None:
        """Exchange one frame a slot with one worker; a channel's whole life, in a thread of its own."""
        channel, schedule, slot = self._channels[worker], self._schedule, None
        failure = None
        try:
            self._send(worker, 0)
            start = schedule.start(self._clock.now())
            for slot in range(schedule.slots):
                frame = self._frame.receive(channel, slot=slot, kinds={Kind.EMPTY, Kind.GRADIENT})
                if frame.kind is Kind.GRADIENT:
                    self._inbox.put(_Arrival(worker, frame))
                self._clock.sleep_until(schedule.server_tick(start, slot))
                if self._stopped.is_set():
                    return
                self._send(worker, slot)
                if worker == 0:
                    self._on_slot(slot)
            self._clock.sleep_until(schedule.worker_tick(start, schedule.slots))
        except Exception as error:  # noqa: BLE001  # a channel may raise anything; it is told as the cause
            failure = ExchangeError(worker=worker, slot=slot, slots=schedule.slots)
            failure.__cause__ = error
        finally:
            self._inbox.put(_End(failure))

    def _send(self, worker: int, slot: int) -> None:
        _, data = self._outboxes[worker].take(slot)
        self._channels[worker].send(data)

    def _close(self, failure: ExchangeError, running: int) -> None:
        """Close every channel and wait for the threads of the others."""
        self._stopped.set()
        for worker, channel in enumerate(self._channels):
            try:
                if isinstance(channel, Closable):
                    channel.close()
            except Exception as error:  # noqa: BLE001  # told with the failure that led here
                failure.add_note(f"closing the channel of worker {worker} failed too: {type(error).__name__}")
        try:
            while running:
                running -= isinstance(self._inbox.get(timeout=_CLOSING_S), _End)
        except queue.Empty:
            failure.add_note(f"{running} threads still wait in their channels, which did not wake them")
