"""Which rows a step takes: every row once a pass, and the same for the same seed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from agreed import DATASET, HEADER
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.dataset import make_dataset
from chiron.policy.header import Header, size_class
from chiron.training.batches import batches_of


def rows_of(step: int, *, rows: int, header: Header, seed: int, index: int) -> list[int]:
    """Return which rows a worker takes at a step, by numbering them."""
    values = np.arange(rows, dtype=np.float32)[:, np.newaxis]
    data = make_dataset(values, np.arange(rows) % 2, held_out=(values[:1], np.arange(1)), classes=2)
    x, y = batches_of(data, header, seed=seed, index=index)(step)
    assert (x.dtype.name, x.shape) == ("float32", (header.batch, 1))
    assert (y.dtype.name, y.shape) == ("int64", (header.batch,))
    chosen = x[:, 0].astype(int).tolist()
    assert (y == np.array(chosen) % 2).all()
    return list(chosen)


@given(rows=st.integers(1, 300), workers=st.sampled_from([1, 2]), seed=st.integers(0, (1 << 64) - 1))
@settings(max_examples=40, deadline=None)
def test_a_pass_takes_every_row_once_and_fills_its_places_with_other_rows(
    rows: int, workers: int, seed: int
) -> None:
    header = dataclasses.replace(HEADER, workers=workers)
    places = size_class(rows)  # one chunk
    stream: list[int] = []
    for step in range(2 * math.ceil(places / (16 * workers))):
        for index in range(workers):
            stream += rows_of(step, rows=rows, header=header, seed=seed, index=index)
    for a_pass in (stream[:places], stream[places : 2 * places]):
        assert sorted(a_pass[:rows]) == list(range(rows))
        assert len(set(a_pass[rows:])) == places - rows


def test_the_stream_is_the_same_for_a_seed_and_another_for_another() -> None:
    def stream(seed: int) -> list[int]:
        return [r for step in range(4) for r in rows_of(step, rows=100, header=HEADER, seed=seed, index=0)]

    assert stream(7) == stream(7)
    assert stream(7) != stream(8)


def test_two_epochs_have_another_order() -> None:
    header = dataclasses.replace(HEADER, batch=64)
    first, second = (rows_of(step, rows=64, header=header, seed=7, index=0) for step in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_step_computed_again_takes_the_same_rows() -> None:
    batches = batches_of(DATASET, HEADER, seed=7, index=0)
    first = batches(3)[0]
    for step in (9, 3, 30):
        batches(step)
    assert np.array_equal(batches(3)[0], first)
