"""What an exchange comes to: the bits of plain training, however its gradients arrive."""

import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from exchanges import (
    SIZE,
    Compute,
    PatientSchedule,
    SocketChannel,
    Start,
    constant_rate,
    endless,
    gradient_frame,
    gradient_slots,
    quick,
    schedule_of,
    training_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from paramserver import SGD, AdamW, DeferredFaultError, Float32Array, LearningRate, Optimiser, RateShape


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
