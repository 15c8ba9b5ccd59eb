"""The benchmarks of gradient graphs measure what they say: whose gradient, how far, of which network."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training.build import row_of
from benchmarks.training.precision import SIDES, distances, sample_of


def test_a_distance_is_relative_and_each_sides_own() -> None:
    exact = np.array([3.0, 4.0])
    sides = {"ours": exact + np.array([0, 0.05]), "channels_last": exact, "contiguous": 2 * exact}
    found = distances({"float64": exact, **sides})
    assert found == pytest.approx({"ours": 0.01, "channels_last": 0.0, "contiguous": 1.0})
    assert tuple(found) == SIDES


def test_a_sample_has_our_gradient_of_its_rows() -> None:
    sample = sample_of("mlp", seed=3, batch=4)
    first, bias, last, end = np.split(sample["parameters"].astype(np.float64), [401408, 401920, 407040])
    hidden = np.maximum(sample["x"].reshape(4, -1) @ first.reshape(512, 784).T + bias, 0)
    logits = hidden @ last.reshape(10, 512).T + end
    slope = np.exp(logits - logits.max(1, keepdims=True))
    slope /= slope.sum(1, keepdims=True)
    slope[np.arange(4), sample["y"]] -= 1
    np.testing.assert_allclose(sample["ours"][-10:], slope.sum(0) / 4, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        sample["ours"][401920:407040].reshape(10, 512), slope.T @ hidden / 4, rtol=1e-3, atol=1e-5
    )


def test_a_row_of_the_table_counts_the_network_that_it_names() -> None:
    cells = [cell.strip() for cell in row_of("resnet20.dynamo.train.plain").split("|")[1:-1]]
    assert cells[:3] == ["resnet20.dynamo.train.plain", "3x32x32", "271,098"]
    assert cells[3].startswith("256 / 75 / ")
    admission, gradient, both = map(float, cells[4:7])
    assert both >= max(admission, gradient)
    assert cells[7] in {"reached", "not reached"}
