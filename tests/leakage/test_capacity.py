"""The estimate of a channel's capacity is right for channels whose capacity is known; all of it runs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capacity import Channel, as_table, capacity, closed, declared, entropy


def test_entropy_is_in_bits() -> None:
    assert entropy([1, 1, 1]) == 0
    assert entropy([0, 1] * 5) == pytest.approx(1)
    assert entropy(range(8)) == pytest.approx(3)


def test_classes_that_never_overlap_carry_their_number() -> None:
    samples = [np.full(200, float(place)) + np.linspace(0, 0.1, 200) for place in range(4)]
    assert capacity(samples) == pytest.approx(2, abs=0.05)


def test_classes_that_are_alike_carry_nothing() -> None:
    random = np.random.default_rng(3)
    assert capacity(list(random.normal(size=(8, 500)))) < 0.02


def test_a_binary_symmetric_channel_has_its_capacity() -> None:
    """Cover and Thomas, Elements of Information Theory, 7.1.4: 1 - H(p); here with p = 0.11, a half bit."""
    random = np.random.default_rng(4)
    flips = random.random((2, 20_000)) < 0.11
    samples = [np.where(flip, 1 - sent, sent) + 0.0 for sent, flip in enumerate(flips)]
    assert capacity(samples) == pytest.approx(0.5, abs=0.02)


def test_releases_carry_no_more_than_they_declare() -> None:
    for channel in declared(30):
        assert channel.declared is not None
        assert 0 <= channel.bits <= channel.declared


def test_what_is_closed_carries_nothing() -> None:
    channels = closed(40)
    assert [channel.bits for channel in channels if channel.declared is None] == [0.0] * 3


def test_the_table_has_a_line_a_channel() -> None:
    text = as_table(
        [Channel("outcome", 1, 0.98765, 1000, "entropy"), Channel("sizes", None, 0, 5, "two runs")]
    )
    assert text.splitlines()[2:] == [
        "| outcome | 1 | 0.988 | 1,000 | entropy |",
        "| sizes | none | 0 | 5 | two runs |",
    ]
