"""Our side of the accuracy benchmark does the arithmetic that it says, on a few random rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.training.accuracy import initial_of, lesson_of, order_of
from benchmarks.training.chiron_learner import DECAY, MOMENTUM, PEAK_RATE, ChironLearner
from benchmarks.training.lesson import Lesson, learn, scaled
from chiron.guest_api.dataset import as_float

if TYPE_CHECKING:
    from pathlib import Path

ROWS, BATCH, EPOCHS = 40, 8, 4
SIZES = ((512, 784), (512,), (10, 512), (10,))

Float64Array = NDArray[np.float64]


@pytest.fixture
def lesson() -> Lesson:
    random = np.random.default_rng(3)
    rows, held_out = (random.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8) for n in (ROWS, 12))
    targets, held_out_targets = (random.integers(0, 10, n) for n in (ROWS, 12))
    parts = (rows, targets, held_out, held_out_targets)
    return lesson_of(parts, "mlp", seed=5, epochs=EPOCHS, batch=BATCH)


def split(flat: Float64Array) -> list[Float64Array]:
    ends = np.cumsum([np.prod(size) for size in SIZES])[:-1]
    return [part.reshape(size) for part, size in zip(np.split(flat, ends), SIZES, strict=True)]


def forward(p: Float64Array, x: Float64Array) -> tuple[Float64Array, Float64Array]:
    w, b, u, c = split(p)
    hidden = np.maximum(x @ w.T + b, 0)
    logits = hidden @ u.T + c
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return hidden, shifted / shifted.sum(1, keepdims=True)


def gradient(p: Float64Array, x: Float64Array, y: NDArray[np.int64]) -> Float64Array:
    hidden, answer = forward(p, x)
    answer[np.arange(len(y)), y] -= 1
    last = answer / len(y)
    inner = (last @ split(p)[2]) * (hidden > 0)
    return np.concatenate(
        [part.ravel() for part in (inner.T @ x, inner.sum(0), last.T @ hidden, last.sum(0))]
    )


def reference(lesson: Lesson) -> Float64Array:
    """Every step in float64, the momentum as PyTorch documents it: its first value is the gradient itself."""
    p = lesson.initial.astype(np.float64)
    v: Float64Array | None = None
    for chosen, rate in zip(lesson.order, lesson.rates, strict=True):
        x = lesson.rows[chosen].reshape(len(chosen), -1) / 255
        g = gradient(p, x, lesson.targets[chosen]) + DECAY * p
        v = g if v is None else MOMENTUM * v + g
        p = p - rate * v
    return p


def test_every_step_is_that_of_a_float64_reference(lesson: Lesson) -> None:
    learner, expected = ChironLearner(lesson), reference(lesson)
    learn(lesson, learner)
    moved = np.abs(expected - lesson.initial).max()
    assert moved > 0.01
    np.testing.assert_allclose(learner.parameters, expected, rtol=1e-4, atol=1e-4 * moved)


def test_accuracy_is_the_share_of_held_out_rows_that_the_reference_answers_so(lesson: Lesson) -> None:
    x = lesson.held_out_rows.reshape(len(lesson.held_out_rows), -1) / 255
    right = forward(reference(lesson), x)[1].argmax(1)
    some_wrong = np.where(np.arange(len(right)) < 3, (right + 1) % 10, right)
    taught = replace(lesson, held_out_targets=some_wrong)
    assert learn(taught, ChironLearner(taught)).accuracy == 1 - 3 / len(right)


def test_the_loss_at_the_start_is_that_of_the_first_batch_and_the_initial_parameters(lesson: Lesson) -> None:
    first = lesson.order[0]
    x, y = lesson.rows[first].reshape(BATCH, -1) / 255, lesson.targets[first]
    answer = forward(lesson.initial.astype(np.float64), x)[1]
    expected = -np.log(answer[np.arange(BATCH), y]).mean()
    assert learn(lesson, ChironLearner(lesson)).loss_at_start == pytest.approx(expected, rel=1e-5)


def test_the_rate_warms_up_and_falls_to_zero_over_the_whole_lesson(lesson: Lesson) -> None:
    steps = EPOCHS * (ROWS // BATCH)
    assert lesson.rates.shape == (steps,)
    assert lesson.rates.max() == PEAK_RATE == lesson.rates[steps // 10]
    assert 0 < lesson.rates[-1] < PEAK_RATE / 20


def test_an_epoch_takes_no_row_twice_and_leaves_out_less_than_a_batch() -> None:
    order = order_of(45, seed=1, epochs=3, batch=8)
    assert order.shape == (15, 8)
    for epoch in np.split(order, 3):
        assert len(np.unique(epoch)) == 40
        assert set(epoch.ravel()) < set(range(45))
    assert not np.array_equal(order[:5], order[5:10])


def test_the_seed_decides_order_and_initial_parameters() -> None:
    for made in (
        lambda seed: order_of(64, seed=seed, epochs=1, batch=8),
        lambda seed: initial_of("lenet", seed=seed),
    ):
        assert np.array_equal(made(1), made(1))
        assert not np.array_equal(made(1), made(2))


def test_a_lesson_comes_back_from_its_file(lesson: Lesson, tmp_path: Path) -> None:
    lesson.save(tmp_path / "lesson.npz")
    found = Lesson.load(tmp_path / "lesson.npz")
    for name in Lesson.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(lesson, name))
        assert np.asarray(getattr(found, name)).dtype == np.asarray(getattr(lesson, name)).dtype


def test_rows_reach_both_sides_as_a_job_scales_them() -> None:
    rows = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(scaled(rows), as_float(rows))
