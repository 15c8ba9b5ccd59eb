"""One exchange over real sockets and threads: channels that note, clocks that hurry, workers that fail."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paramserver import (
    SGD,
    Channel,
    Clock,
    Float32Array,
    Frame,
    FrameFormat,
    Kind,
    LearningRate,
    Optimiser,
    ParamServerError,
    RateShape,
    Result,
    Schedule,
    serve,
    work,
)
from paramserver.server import SynchronousTraining

FORMAT = FrameFormat(16)
SIZE = 5
HANG_S = 20.0


class SocketChannel:
    """A channel over a socket that notes the header of every frame it sends and the size of what it reads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent: list[bytes] = []
        self.sent_at: list[float] = []
        self.received: list[int] = []
        self.progress = threading.Condition()

    def send(self, data: memoryview) -> None:
        with self.progress:
            self.sent.append(bytes(data))
            self.sent_at.append(time.monotonic())
            self.progress.notify_all()
        self.sock.sendall(data)

    def recv_exactly(self, n: int) -> bytes:
        data = self.sock.recv(n, socket.MSG_WAITALL)
        if len(data) != n:
            raise ConnectionResetError("the other end is gone")
        self.received.append(n)
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def frames(self) -> list[Frame]:
        return [FORMAT.decode(data) for data in self.sent]

    def wait_for_more_slots(self, slots: int) -> None:
        with self.progress:
            target = len(self.sent) + slots
            assert self.progress.wait_for(lambda: len(self.sent) >= target, timeout=HANG_S)


class HurriedClock:
    """A clock whose deadlines have always passed already; it notes them."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    def now(self) -> float:
        return 0.0

    def sleep_until(self, deadline: float) -> None:
        self.deadlines.append(deadline)
        time.sleep(0)  # lets the computing threads run: there is no other pause


@dataclass(frozen=True, slots=True)
class PatientSchedule(Schedule):
    """A schedule with so many slots that all steps get done in spite of long delays."""

    @property
    def slots(self) -> int:
        return 40 * self.steps


Compute = Callable[[Float32Array, Float32Array, int], float]  # parameters, gradient to fill, step


@dataclass
class Worker:
    compute: Compute
    channel: SocketChannel
    clock: Clock
    error: ParamServerError | None = None


@dataclass
class Job:
    """Server and workers of one job, connected by socket pairs."""

    computes: Sequence[Compute]
    schedule: Schedule
    clock: Callable[[], Clock] = HurriedClock
    optimiser: Optimiser | None = None
    initial: Float32Array = field(default_factory=lambda: np.zeros(SIZE, np.float32))
    slots_told: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        pairs = [socket.socketpair() for _ in self.computes]
        self.server = [SocketChannel(left) for left, _ in pairs]
        self.server_clock = self.clock()
        self.workers = [
            Worker(compute, SocketChannel(right), self.clock())
            for compute, (_, right) in zip(self.computes, pairs, strict=True)
        ]
        self.threads = [
            threading.Thread(target=self._work, args=(index,)) for index in range(len(self.workers))
        ]

    def _work(self, index: int) -> None:
        worker, size = self.workers[index], self.initial.size
        gradient = np.zeros(size, np.float32)
        try:
            work(
                worker.channel,
                lambda parameters, step: worker.compute(parameters, gradient, step),
                worker=index,
                parameters=np.zeros(size, np.float32),
                gradient=gradient,
                schedule=self.schedule,
                clock=worker.clock,
                frame=FORMAT,
            )
        except ParamServerError as error:
            worker.error = error

    def run(self, channels: Sequence[Channel] | None = None) -> Result:
        for thread in self.threads:
            thread.start()
        try:
            return serve(
                self.server if channels is None else channels,
                self.initial,
                optimiser=self.optimiser or SGD(self.initial.size, rate=constant_rate()),
                schedule=self.schedule,
                clock=self.server_clock,
                frame=FORMAT,
                on_slot=self.slots_told.append,
            )
        finally:
            self.join()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(HANG_S)
            assert not thread.is_alive(), "a worker hangs"

    def close(self) -> None:
        for channel in [*self.server, *(worker.channel for worker in self.workers)]:
            channel.close()
        self.join_exchange()
        for channel in [*self.server, *(worker.channel for worker in self.workers)]:
            channel.sock.close()

    def join_exchange(self) -> None:
        for thread in threading.enumerate():
            if thread.name.startswith("paramserver-"):
                thread.join(HANG_S)
                assert not thread.is_alive(), f"{thread.name} hangs"


Start = Callable[..., Job]  # the arguments of a job, without a schedule if any will do


def schedule_of(*, workers: int = 2, steps: int = 8, slot_ms: int = 5) -> Schedule:
    return Schedule(slot_ms=slot_ms, steps=steps, workers=workers, steps_per_epoch=4)


def constant_rate(peak: float = 0.1, steps: int = 10_000) -> LearningRate:
    return LearningRate(peak, RateShape.CONSTANT, warmup_steps=0, steps=steps)


def quick(parameters: Float32Array, gradient: Float32Array, step: int) -> float:
    gradient[:] = 0.5 * parameters + np.arange(parameters.size) - step % 3
    return float(step)


def failing(_parameters: Float32Array, _gradient: Float32Array, _step: int) -> float:
    raise RuntimeError("secret of the guest")


def leaving(_parameters: Float32Array, _gradient: Float32Array, _step: int) -> float:
    raise SystemExit(3)


def endless(release: threading.Event) -> Compute:
    def compute(parameters: Float32Array, gradient: Float32Array, step: int) -> float:
        release.wait(HANG_S)
        return quick(parameters, gradient, step)

    return compute


class FailingOptimiser:
    def apply(self, parameters: Float32Array, gradient: Float32Array, *, step: int) -> None:
        raise MemoryError("secret of the optimiser", parameters.size, gradient.size, step)


def gradient_slots(job: Job) -> list[int]:
    frames = [frame for worker in job.workers for frame in worker.channel.frames()]
    return [frame.slot for frame in frames if frame.kind is Kind.GRADIENT]


def gradient_frame(vector: Float32Array, *, step: int = 0, loss: float = 0.0) -> Frame:
    return FORMAT.decode(FORMAT.encode(Kind.GRADIENT, step=step, slot=0, vector=vector, loss=loss))


def training_of(schedule: Schedule, optimiser: Optimiser | None = None) -> SynchronousTraining:
    return SynchronousTraining(
        np.zeros(SIZE, np.float32), optimiser=optimiser or SGD(SIZE, rate=constant_rate()), schedule=schedule
    )


class Broken:
    """A channel that carries nothing."""

    def send(self, data: memoryview) -> None:
        raise KeyError(len(data))

    def recv_exactly(self, n: int) -> bytes:
        raise KeyError(n)


def serve_broken(channels: int = 1, initial: Float32Array | None = None) -> Result:
    return serve(
        [Broken()] * channels,
        np.zeros(SIZE, np.float32) if initial is None else initial,
        optimiser=SGD(SIZE, rate=constant_rate()),
        schedule=schedule_of(workers=1),
        clock=HurriedClock(),
        frame=FORMAT,
        on_slot=lambda _slot: None,
    )


def work_broken(parameters: Float32Array, gradient: Float32Array) -> None:
    work(
        Broken(),
        lambda _parameters, _step: 0.0,
        worker=0,
        parameters=parameters,
        gradient=gradient,
        schedule=schedule_of(workers=1),
        clock=HurriedClock(),
        frame=FORMAT,
    )
