"""The exchange over real sockets and threads: frames and ticks are the schedule's, whatever the content."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import paramserver.server
from paramserver import (
    SGD,
    AdamW,
    Channel,
    Clock,
    DeferredFaultError,
    ExchangeError,
    Float32Array,
    Frame,
    FrameError,
    FrameFormat,
    Kind,
    LearningRate,
    MonotonicClock,
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


Start = Callable[..., Job]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def make(computes: Sequence[Compute], schedule: Schedule | None = None, **more: object) -> Job:
            job = Job(computes, schedule or schedule_of(workers=len(computes)), **more)  # type: ignore[arg-type]
            stack.callback(job.close)
            return job

        yield make


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


def exploding(_parameters: Float32Array, gradient: Float32Array, _step: int) -> float:
    gradient[:] = np.inf
    return float("nan")


class FailingOptimiser:
    def apply(self, parameters: Float32Array, gradient: Float32Array, *, step: int) -> None:
        raise MemoryError("secret of the optimiser", parameters.size, gradient.size, step)


# --- what the platform sees: frames and ticks are functions of the schedule -------------------------------


def endless(release: threading.Event) -> Compute:
    def compute(parameters: Float32Array, gradient: Float32Array, step: int) -> float:
        release.wait(HANG_S)
        return quick(parameters, gradient, step)

    return compute


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


def gradient_slots(job: Job) -> list[int]:
    frames = [frame for worker in job.workers for frame in worker.channel.frames()]
    return [frame.slot for frame in frames if frame.kind is Kind.GRADIENT]


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


# --- what training comes to -------------------------------------------------------------------------------


def sequential(initial: Float32Array, computes: Sequence[Compute], *, steps: int) -> Float32Array:
    """Plain training without a server: mean of the gradients in order of the workers, plain descent."""
    parameters = initial.copy()
    for step in range(steps):
        gradients = [np.zeros_like(parameters) for _ in computes]
        for compute, gradient in zip(computes, gradients, strict=True):
            compute(parameters.copy(), gradient, step)
        total = gradients[0]
        for gradient in gradients[1:]:
            total = total + gradient
        parameters -= total / np.float32(len(computes)) * np.float32(0.1)
    return parameters


def rough(worker: int) -> Compute:
    """Gradients whose float32 sum depends on the order of summation."""

    def compute(parameters: Float32Array, gradient: Float32Array, step: int) -> float:
        noise = np.random.default_rng([worker, step]).standard_normal(parameters.size)
        gradient[:] = noise * 10.0**worker + parameters
        return float(noise[0])

    return compute


def delayed(compute: Compute, channel: SocketChannel, *, slots: Sequence[int]) -> Compute:
    """Like `compute`, but each step ends only when so many more slots have gone by."""

    def late(parameters: Float32Array, gradient: Float32Array, step: int) -> float:
        channel.wait_for_more_slots(slots[step])
        return compute(parameters, gradient, step)

    return late


def test_the_result_has_the_same_bits_whatever_slots_gradients_arrive_in(start: Start) -> None:
    steps, workers = 10, 3
    schedule = PatientSchedule(slot_ms=1, steps=steps, workers=workers, steps_per_epoch=steps)
    outcomes, arrivals = set(), set()
    for seed in range(4):
        delays = np.random.default_rng(seed).integers(0, 6, size=(workers, steps))
        job = start([quick] * workers, schedule)
        for index, worker in enumerate(job.workers):
            worker.compute = delayed(rough(index), worker.channel, slots=delays[index].tolist())
        result = job.run()
        assert result.steps_done == steps
        outcomes.add((result.parameters.tobytes(), tuple(result.epoch_losses)))
        arrivals.add(tuple(gradient_slots(job)))
    assert len(arrivals) == 4
    computes = [rough(worker) for worker in range(workers)]
    expected = sequential(np.zeros(SIZE, np.float32), computes, steps=steps)
    assert [parameters for parameters, _ in outcomes] == [expected.tobytes()]


def gradient_frame(vector: Float32Array, *, step: int = 0, loss: float = 0.0) -> Frame:
    return FORMAT.decode(FORMAT.encode(Kind.GRADIENT, step=step, slot=0, vector=vector, loss=loss))


def training_of(schedule: Schedule, optimiser: Optimiser | None = None) -> SynchronousTraining:
    return SynchronousTraining(
        np.zeros(SIZE, np.float32), optimiser=optimiser or SGD(SIZE, rate=constant_rate()), schedule=schedule
    )


@given(order=st.permutations(range(4)), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_a_step_has_the_same_bits_in_every_order_of_arrival(order: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    sent = [(generator.standard_normal(SIZE) * 10.0**w).astype(np.float32) for w in range(4)]
    results = []
    for arrival in (order, range(4)):
        training = training_of(schedule_of(workers=4))
        completed = [training.offer(w, gradient_frame(sent[w], loss=0.1 * w)) for w in arrival]
        assert completed == [False, False, False, True]
        results.append(training.parameters.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_least_squares_converge_to_the_solution(start: Start, make: Callable[..., Optimiser]) -> None:
    generator = np.random.default_rng(3)
    matrix = generator.standard_normal((64, SIZE)).astype(np.float32)
    target = matrix @ np.arange(SIZE, dtype=np.float32) + 0.1 * generator.standard_normal(64).astype(
        np.float32
    )

    def half(worker: int) -> Compute:
        rows, wanted = matrix[worker::2], target[worker::2]

        def compute(parameters: Float32Array, gradient: Float32Array, _step: int) -> float:
            residual = rows @ parameters - wanted
            gradient[:] = rows.T @ residual / len(rows)
            return float(np.mean(residual**2) / 2)

        return compute

    steps = 120
    rate = LearningRate(0.4 if make is AdamW else 0.2, RateShape.COSINE, warmup_steps=5, steps=steps)
    optimiser = make(SIZE, rate=rate) if make is AdamW else make(SIZE, rate=rate, momentum=0.8)
    schedule = PatientSchedule(slot_ms=1, steps=steps, workers=2, steps_per_epoch=30)
    result = start([half(0), half(1)], schedule, optimiser=optimiser).run()
    solution, *_ = np.linalg.lstsq(matrix, target)
    np.testing.assert_allclose(result.parameters, solution, atol=2e-2 if make is AdamW else 1e-4)
    assert result.steps_done == steps
    assert result.epoch_losses[0] > 10 * result.epoch_losses[3]
    assert not result.diverged


def test_epoch_losses_are_means_over_steps_and_workers_of_complete_epochs() -> None:
    training = training_of(schedule_of(workers=2, steps=10))  # 4 steps an epoch: the last 2 complete none
    for step, worker in itertools.product(range(10), range(2)):
        training.offer(
            worker, gradient_frame(np.zeros(SIZE, np.float32), step=step, loss=step + 0.5 * worker)
        )
    assert training.is_done
    assert training.result().epoch_losses == [1.75, 5.75]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_told_at_the_end(start: Start, value: float) -> None:
    def compute(_parameters: Float32Array, gradient: Float32Array, step: int) -> float:
        gradient[:] = 0.0
        gradient[SIZE - 1] = value if step == 2 else 0.0
        return 0.0

    schedule = PatientSchedule(slot_ms=1, steps=8, workers=1, steps_per_epoch=4)
    result = start([compute], schedule, optimiser=AdamW(SIZE, rate=constant_rate())).run()
    assert result.diverged
    assert result.steps_done == 8


def test_a_slow_worker_leaves_steps_undone_and_the_result_says_so(start: Start) -> None:
    release = threading.Event()
    job = start([quick, endless(release)])
    result = job.run()
    release.set()
    assert result.steps_done == 0
    assert isinstance(job.workers[1].error, DeferredFaultError)
    assert "longer slot" in str(job.workers[1].error)


# --- faults -----------------------------------------------------------------------------------------------


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


class Broken:
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


# --- use that does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worker", "step", "size"), [(0, 1, SIZE), (1, 0, SIZE), (0, 0, SIZE + 1), (0, 0, 1)]
)
def test_a_gradient_of_another_step_or_size_or_sent_twice_is_refused(
    worker: int, step: int, size: int
) -> None:
    training = training_of(schedule_of())
    training.offer(1, gradient_frame(np.zeros(SIZE, np.float32)))
    with pytest.raises(ValueError, match="gradient"):
        training.offer(worker, gradient_frame(np.zeros(size, np.float32), step=step))


def test_a_gradient_after_the_last_step_is_refused() -> None:
    training = training_of(schedule_of(workers=1, steps=1))
    training.offer(0, gradient_frame(np.zeros(SIZE, np.float32)))
    with pytest.raises(ValueError, match="another step"):
        training.offer(0, gradient_frame(np.zeros(SIZE, np.float32), step=1))


MISFITS = [
    np.zeros(FORMAT.parameters + 1, np.float32),
    np.zeros(0, np.float32),
    np.zeros((2, 2), np.float32),
    np.zeros(2, np.float64),
]


@pytest.mark.parametrize("misfit", MISFITS)
def test_initial_parameters_that_do_not_fit_are_refused(misfit: Float32Array) -> None:
    with pytest.raises(ValueError, match="initial"):
        serve_broken(initial=misfit)


@pytest.mark.parametrize("misfit", MISFITS)
def test_buffers_that_do_not_fit_are_refused(misfit: Float32Array) -> None:
    with pytest.raises(ValueError, match="buffers"):
        work_broken(misfit, misfit.copy())


def test_buffers_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="buffers"):
        work_broken(np.zeros(2, np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize("channels", [0, 2])
def test_another_number_of_channels_than_workers_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels"):
        serve_broken(channels)
