"""Vectors, buffers, steps and channels that do not fit the exchange are refused at once."""

import numpy as np
import pytest
from exchanges import FORMAT, SIZE, gradient_frame, schedule_of, serve_broken, training_of, work_broken

from paramserver import Float32Array


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
