"""Augmentation in trusted code: crop, flip, normalise; how a plan declares it; its choice shows nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import CLASSES, POLICY, POLICY_BYTES, VALUES, small_dataset
from graphs import linear
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.augmentation import MAX_PADDING, NOTHING, Augmentation
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.plan import AUGMENTATION, PLAN, Plan, parse_plan
from chiron.policy.header import Header
from chiron.training.batches import batches_of
from chiron.training.create import Network, admit_graph
from chiron.training.exchange import Trained
from chiron.training.results import evaluate
from chiron.training.sealed import Model, pack_augmentation, seal_model, unpack_augmentation, unseal_model
from chiron.training.transformed import Transformed, transformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER = Header(1, 16, 2, 4096, 5, 1000)
DATASET, KEY = small_dataset(), bytes(range(32))
IMAGES = np.arange(6 * 3 * 5 * 4, dtype=np.float32).reshape(6, 3, 5, 4) + 1
BOTH = Augmentation(crop_padding=2, flip=True)


def vary(augmentation: Augmentation, rows: NDArray[Any] = IMAGES, **place: int) -> NDArray[Any]:
    return augmentation.vary(rows, **{"seed": 7, "step": 3, "worker": 0} | place)


def test_every_picture_becomes_a_part_of_itself_with_zeros_around_and_perhaps_mirrored() -> None:
    seen = set()
    for step in range(60):
        for before, after in zip(IMAGES, vary(BOTH, step=step), strict=True):
            wide = np.pad(before, ((0, 0), (2, 2), (2, 2)))
            found = [
                (top, left, mirror)
                for top in range(5)
                for left in range(5)
                for mirror in (False, True)
                if np.array_equal(
                    wide[:, top : top + 5, left : left + 4][:, :, :: -1 if mirror else 1], after
                )
            ]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) == 50  # every part, mirrored and not


@given(seed=st.integers(0, (1 << 64) - 1), step=st.integers(0, 1 << 40), worker=st.sampled_from([0, 1]))
@settings(deadline=None)
def test_the_same_job_step_and_worker_give_the_same_and_others_others(
    seed: int, step: int, worker: int
) -> None:
    rows = IMAGES.repeat(10, axis=0)
    one = vary(BOTH, rows, seed=seed, step=step, worker=worker)
    assert np.array_equal(one, vary(BOTH, rows, seed=seed, step=step, worker=worker))
    for other in (
        {"seed": seed ^ 1, "step": step, "worker": worker},
        {"seed": seed, "step": step + 1, "worker": worker},
        {"seed": seed, "step": step, "worker": 1 - worker},
    ):
        assert not np.array_equal(one, vary(BOTH, rows, **other))


def test_rows_are_normalised_by_channel_or_all_together() -> None:
    by_channel = Augmentation(mean=(1.0, 2.0, 3.0), deviation=(2.0, 4.0, 8.0)).normalise(IMAGES)
    for channel in range(3):
        expected = (IMAGES[:, channel] - (channel + 1)) / 2 ** (channel + 1)
        assert by_channel[:, channel] == pytest.approx(expected)
    flat = np.ones((2, 8), np.float32)
    assert (Augmentation(mean=(3.0,), deviation=(0.5,)).normalise(flat) == -4).all()
    assert by_channel.dtype == np.float32


@pytest.mark.parametrize(
    ("augmentation", "shape", "field"),
    [
        (Augmentation(crop_padding=MAX_PADDING + 1), (3, 5, 4), "crop_padding"),
        (Augmentation(crop_padding=1), (20,), "crop_padding"),
        (Augmentation(flip=True), (5, 4), "flip"),
        (Augmentation(mean=(1.0, 1.0), deviation=(1.0, 1.0)), (3, 5, 4), "mean"),
        (Augmentation(mean=(1.0, 1.0), deviation=(1.0, 1.0)), (2,), "mean"),
        (Augmentation(mean=(float("nan"),), deviation=(1.0,)), (3, 5, 4), "mean"),
        (Augmentation(mean=(1.0,), deviation=(0.0,)), (3, 5, 4), "deviation"),
        (Augmentation(mean=(1.0,), deviation=(float("inf"),)), (3, 5, 4), "deviation"),
        (Augmentation(mean=(1.0,)), (3, 5, 4), "deviation"),
    ],
)
def test_what_cannot_be_done_to_rows_is_refused_by_field(
    augmentation: Augmentation, shape: tuple[int, ...], field: str
) -> None:
    with pytest.raises(GuestApiError, match=field):
        augmentation.check(shape)


def raw_plan(
    *,
    padding: int = 4,
    flip: int = 1,
    channels: int = 3,
    numbers: tuple[float, ...] = (0.5,) * 6,
    rest: int = 0,
) -> bytes:
    return PLAN.pack(2, 0, 0.1, 0.9, 0.0, 0, 0, 0) + AUGMENTATION.pack(
        padding, flip, channels, *numbers, rest
    )


def test_a_plan_of_version_2_declares_it_within_the_policys_sink() -> None:
    assert parse_plan(raw_plan()).augmentation == Augmentation(4, True, (0.5,) * 3, (0.5,) * 3)  # noqa: FBT003
    assert parse_plan(raw_plan(channels=0)).augmentation == Augmentation(4, flip=True)
    assert len(raw_plan()) <= POLICY.sinks["plan"].capacity_bytes


@pytest.mark.parametrize("change", [{"flip": 2}, {"channels": 4}, {"rest": 1}])
def test_an_augmentation_out_of_range_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(GuestApiError, match="augmentation is out of its range"):
        parse_plan(raw_plan(**change))  # type: ignore[arg-type]


@given(st.binary(min_size=60, max_size=60))
def test_any_bytes_are_an_augmented_plan_or_refused_in_words(raw: bytes) -> None:
    try:
        plan = parse_plan(b"\x02\0\0\0" + raw)
        plan.augmentation.check((3, 8, 8))
    except GuestApiError:
        return
    assert np.isfinite(plan.augmentation.normalise(IMAGES)).any()


def test_what_carries_it_has_one_size_and_comes_back() -> None:
    full = Augmentation(64, True, (1.1, 2.2, 3.3), (1e-30, 1e30, 1.5))  # noqa: FBT003
    messages = [pack_augmentation(each) for each in (NOTHING, full, BOTH)]
    assert len({len(message) for message in messages}) == 1
    assert [unpack_augmentation(message) for message in messages] == [NOTHING, full, BOTH]


def test_the_sealed_model_has_one_size_and_keeps_it() -> None:
    graph, parameters = linear(8, 3), np.zeros(27, np.float32)
    models = [Model(graph, parameters, None, each) for each in (NOTHING, BOTH)]
    blobs = [seal_model(model, key=KEY, job="job", header=HEADER) for model in models]
    assert len(blobs[0]) == len(blobs[1])
    assert [unseal_model(b, key=KEY, job="job", header=HEADER).augmentation for b in blobs] == [NOTHING, BOTH]


def test_training_rows_are_normalised_and_without_an_augmentation_left_alone() -> None:
    own = batches_of(DATASET, HEADER, seed=7, index=0)
    options: dict[str, Any] = {"policy": POLICY_BYTES, "schema": DATASET.schema, "state": None}
    halved = Augmentation(mean=(1.0,), deviation=(2.0,))
    with transformed(own, None, deadline_ms=1, augmentation=halved, **options) as prepared:
        assert isinstance(prepared, Transformed)
        assert np.array_equal(prepared(2)[0], (own(2)[0] - 1) / 2)
    with transformed(own, None, deadline_ms=1, augmentation=NOTHING, **options) as prepared:
        assert prepared is own


def test_held_out_rows_are_normalised_before_they_are_measured() -> None:
    graph = linear(VALUES, CLASSES)
    admitted = admit_graph(graph, HEADER, DATASET.schema)
    networks = [
        Network(graph, admitted, Plan("sgd", 0.1, 0, 0, "constant", 0, each))
        for each in (NOTHING, Augmentation(mean=(1.0,), deviation=(2.0,)))
    ]
    parameters = np.zeros(HEADER.parameters, np.float32)
    weights = np.eye(VALUES, CLASSES, dtype=np.float32)
    weights[:, 0] += 1  # the first target gets the sum of all values, unless their mean is taken off
    parameters[: VALUES * CLASSES] = weights.ravel()
    trained = Trained(parameters, (0.5,), complete=True)
    results = [evaluate(network, trained, DATASET) for network in networks]
    assert results[0].accuracy < results[1].accuracy
    assert results[1].model is not None
    assert results[1].model.augmentation.deviation == (2.0,)
