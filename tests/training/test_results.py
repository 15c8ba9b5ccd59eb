"""What a training is worth and what is released of it: outcome, accuracy and eight bits a loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from agreed import DATASET, HEADER, network
from deployments import CLASSES, VALUES
from hypothesis import given
from hypothesis import strategies as st

from chiron.guest_api.dataset import as_float
from chiron.training.exchange import Trained
from chiron.training.results import LOSS_TOP, Result, evaluate, quantise, quantise_loss
from chiron.training.sealed import Model


@pytest.mark.parametrize(
    ("loss", "released"),
    [
        (0.0, 0), (-0.0, 0), (-3.0, 0), (1 / 32, 1), (0.5, 16), (7.96875, 255), (7.98, 255), (1e308, 255),
        (math.nan, LOSS_TOP), (math.inf, LOSS_TOP), (-math.inf, LOSS_TOP),
    ],
)  # fmt: skip
def test_a_loss_is_released_in_eight_bits(loss: float, released: int) -> None:
    assert quantise_loss(loss) == released


@given(losses=st.lists(st.floats(), max_size=12), epochs=st.sampled_from([1, 2, 3, 5, 10]))
def test_always_as_many_losses_as_epochs_are_released(losses: list[float], epochs: int) -> None:
    quantised = quantise(Result(None, 0.0, tuple(losses)), epochs=epochs)
    assert len(quantised.losses) == epochs
    assert all(0 <= loss <= LOSS_TOP for loss in quantised.losses)
    assert quantised.losses[len(losses) :] == (LOSS_TOP,) * max(0, epochs - len(losses))


def test_outcome_and_accuracy_are_released_once() -> None:
    model = Model(b"graph", np.zeros(10, np.float32))
    assert quantise(Result(model, 0.9876, ()), epochs=1).trusted == {"outcome": 1, "accuracy": 988}
    assert quantise(Result(None, 0.0, ()), epochs=1).trusted == {"outcome": 0, "accuracy": 0}


def trained(*, complete: bool = True) -> Trained:
    parameters = np.zeros(HEADER.parameters, np.float32)
    weights = np.zeros((VALUES, CLASSES), np.float32)
    weights[np.arange(CLASSES), np.arange(CLASSES)] = 1
    parameters[: weights.size] = weights.ravel()
    return Trained(parameters, (0.5,), complete=complete)


def test_a_trained_network_is_measured_on_the_held_out_rows() -> None:
    result = evaluate(network(), trained(), DATASET)
    expected = np.argmax(as_float(DATASET.held_out_rows)[:, :CLASSES], axis=1) == DATASET.held_out_targets
    assert result.accuracy == expected.mean()
    assert result.losses == (0.5,)


def test_an_incomplete_training_has_no_model_whatever_there_is() -> None:
    nothing = Result(None, 0.0, ())
    assert evaluate(None, trained(), DATASET) == nothing
    assert evaluate(network(), trained(complete=False), DATASET) == nothing


def test_parameters_of_another_count_give_no_model() -> None:
    short = dataclasses.replace(trained(), parameters=np.zeros(3, np.float32))
    assert evaluate(network(), short, DATASET) == Result(None, 0.0, ())
