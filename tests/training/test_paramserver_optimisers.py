import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paramserver import SGD, AdamW, Float32Array, LearningRate, Optimiser, RateShape
from paramserver.optimisers import BLOCK

Float64Array = NDArray[np.float64]
STEPS = 12
ABOVE_ONE_BLOCK = BLOCK + 3


def rate_of(peak: float = 0.05) -> LearningRate:
    return LearningRate(peak, RateShape.COSINE, warmup_steps=3, steps=STEPS)


def gradients(size: int) -> list[Float32Array]:
    generator = np.random.default_rng(7)
    return [generator.standard_normal(size).astype(np.float32) for _ in range(STEPS)]


def trained(optimiser: Optimiser, size: int) -> Float32Array:
    parameters = np.linspace(-1, 1, size, dtype=np.float32)
    for step, gradient in enumerate(gradients(size)):
        optimiser.apply(parameters, gradient.copy(), step=step)
    return parameters


def sgd_reference(size: int, *, momentum: float, weight_decay: float) -> Float64Array:
    p = np.linspace(-1, 1, size, dtype=np.float32).astype(np.float64)
    v = np.zeros(size)
    for step, g in enumerate(gradients(size)):
        v = momentum * v + (g + weight_decay * p)
        p = p - rate_of().at(step) * v
    return p


def adamw_reference(size: int, *, weight_decay: float) -> Float64Array:
    p = np.linspace(-1, 1, size, dtype=np.float32).astype(np.float64)
    m, v = np.zeros(size), np.zeros(size)
    for step, gradient in enumerate(gradients(size)):
        g, rate, t = gradient.astype(np.float64), rate_of().at(step), step + 1
        p = p - rate * weight_decay * p
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        p = p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


@pytest.mark.parametrize("size", [1, 100, BLOCK, ABOVE_ONE_BLOCK])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_follows_its_formula(size: int, momentum: float, weight_decay: float) -> None:
    optimiser = SGD(size, rate=rate_of(), momentum=momentum, weight_decay=weight_decay)
    expected = sgd_reference(size, momentum=momentum, weight_decay=weight_decay)
    np.testing.assert_allclose(trained(optimiser, size), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [1, 100, BLOCK, ABOVE_ONE_BLOCK])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_adamw_follows_its_formula(size: int, weight_decay: float) -> None:
    optimiser = AdamW(size, rate=rate_of(), weight_decay=weight_decay)
    expected = adamw_reference(size, weight_decay=weight_decay)
    np.testing.assert_allclose(trained(optimiser, size), expected, rtol=1e-5, atol=2e-6)


def test_momentum_goes_on_where_the_gradient_has_vanished() -> None:
    constant = LearningRate(1.0, RateShape.CONSTANT, warmup_steps=0, steps=2)
    optimiser = SGD(1, rate=constant, momentum=0.5)
    parameters = np.zeros(1, np.float32)
    optimiser.apply(parameters, np.ones(1, np.float32), step=0)
    optimiser.apply(parameters, np.zeros(1, np.float32), step=1)
    assert parameters[0] == -1.5


def test_weight_decay_shrinks_parameters_without_a_gradient() -> None:
    constant = LearningRate(0.5, RateShape.CONSTANT, warmup_steps=0, steps=2)
    for optimiser in (SGD(1, rate=constant, weight_decay=0.5), AdamW(1, rate=constant, weight_decay=0.5)):
        parameters = np.ones(1, np.float32)
        optimiser.apply(parameters, np.zeros(1, np.float32), step=0)
        assert parameters[0] == 0.75


def test_the_first_step_of_adamw_has_the_rate_as_its_length() -> None:
    constant = LearningRate(0.125, RateShape.CONSTANT, warmup_steps=0, steps=2)
    parameters = np.zeros(2, np.float32)
    AdamW(2, rate=constant).apply(parameters, np.array([1e-3, -50.0], np.float32), step=0)
    np.testing.assert_allclose(parameters, [-0.125, 0.125], rtol=1e-4)


Maker = Callable[[int], Optimiser]
MAKERS: list[Maker] = [
    lambda n: SGD(n, rate=rate_of(), momentum=0.9, weight_decay=0.1),
    lambda n: AdamW(n, rate=rate_of(), weight_decay=0.1),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_step_allocates_no_vector(make: Maker) -> None:
    size = 1 << 20
    optimiser, parameters, gradient = make(size), np.ones(size, np.float32), np.ones(size, np.float32)
    tracemalloc.start()
    try:
        optimiser.apply(parameters, gradient, step=0)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 1024


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "gradient", [np.ones(2, np.float32), np.ones((3, 1), np.float32), np.ones(3, np.float64)]
)
def test_a_gradient_of_another_shape_or_type_is_refused(make: Maker, gradient: Float32Array) -> None:
    with pytest.raises(ValueError, match="built for 3"):
        make(3).apply(np.ones(3, np.float32), gradient, step=0)


@given(
    peak=st.floats(0, 10),
    warmup=st.integers(0, 50),
    more=st.integers(1, 50),
    shape=st.sampled_from(RateShape),
)
@example(peak=5e-324, warmup=2, more=1, shape=RateShape.COSINE)
def test_the_rate_rises_to_its_peak_and_never_beyond(
    peak: float, warmup: int, more: int, shape: RateShape
) -> None:
    rate = LearningRate(peak, shape, warmup_steps=warmup, steps=warmup + more)
    values = [rate.at(step) for step in range(warmup + more)]
    assert values[: warmup + 1] == sorted(values[: warmup + 1])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[warmup] == peak == max(values)


def test_a_constant_rate_stays() -> None:
    rate = LearningRate(0.1, RateShape.CONSTANT, warmup_steps=4, steps=10)
    assert [rate.at(step) for step in (0, 3, 4, 9)] == pytest.approx([0.02, 0.08, 0.1, 0.1])


def test_a_cosine_rate_halves_midway_and_ends_at_zero() -> None:
    rate = LearningRate(0.8, RateShape.COSINE, warmup_steps=10, steps=110)
    assert [rate.at(step) for step in (10, 60, 110, 500)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert rate.at(35) == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_hyper_parameter_out_of_range_is_refused_without_naming_its_value(value: float) -> None:
    rate = rate_of()
    for make in (
        lambda: LearningRate(value, RateShape.CONSTANT, warmup_steps=0, steps=1),
        lambda: SGD(1, rate=rate, momentum=value),
        lambda: SGD(1, rate=rate, weight_decay=value),
        lambda: AdamW(1, rate=rate, weight_decay=value),
        lambda: AdamW(1, rate=rate, beta1=value),
        lambda: AdamW(1, rate=rate, beta2=value),
        lambda: AdamW(1, rate=rate, epsilon=value),
    ):
        with pytest.raises(ValueError, match="must be at least") as caught:
            make()
        assert "nan" not in str(caught.value)
        assert "-0.1" not in str(caught.value)


@pytest.mark.parametrize("momentum", [1.0, 2.0])
def test_momentum_that_never_fades_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum"):
        SGD(1, rate=rate_of(), momentum=momentum)


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_a_warm_up_that_leaves_no_step_is_refused(warmup_steps: int) -> None:
    with pytest.raises(ValueError, match="warm-up"):
        LearningRate(0.1, RateShape.CONSTANT, warmup_steps=warmup_steps, steps=10)
