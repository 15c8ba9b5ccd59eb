"""The example with transforms in C: what it trains on, and what it makes of rows and scores."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import POLICY, POLICY_BYTES, compiled

from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.dataset import make_dataset
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.process import GuestProcess
from chiron.guest_api.transforms import AUGMENT, EXPORTS, INPUT, OUTPUT, Transformer, TransformError
from chiron.parties.build import build
from chiron.parties.dry_run import dry_run
from chiron.policy import kernel
from chiron.training.create import run_configure, transforms_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.guest_api.dataset import Dataset, Float32Array

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE, CLASSES, SEED = (2, 5), 3, bytes(8)


@cache
def built() -> bytes:
    with TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("build")
        source = REPOSITORY / "examples" / "transforms-c"
        project = shutil.copytree(source, Path(folder) / "transforms", ignore=ignore)
        return build(project, sdk=REPOSITORY / "spec" / "sdk" / "c").read_bytes()


def data() -> Dataset:
    """Return float rows with a scale and an offset a column; half of them have target 0."""
    random = np.random.default_rng(5)
    targets = random.choice(CLASSES, size=240, p=(0.5, 0.25, 0.25))
    rows = random.normal(size=(240, *SHAPE))
    rows[np.arange(240), 0, targets] += 3
    rows = (rows * np.arange(1, 11).reshape(SHAPE) * 10 + 50).astype(np.float32)
    return make_dataset(rows[:200], targets[:200], held_out=(rows[200:], targets[200:]), classes=CLASSES)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Transformer, kernel.State]]:
    """Run both exports on the data, and start the transforms with what they kept."""
    dataset = data()
    first = kernel.initial(POLICY, rows_class=dataset.schema.rows_class, spent={})
    monitor = Monitor(POLICY, first)
    assert run_configure(POLICY_BYTES, compiled(built()), dataset.schema, monitor=monitor, seed=SEED).ok
    monitor.finish_phase()
    monitor.finish_phase()
    with GuestProcess(
        compiled(built()), policy=POLICY_BYTES, schema=dataset.schema, dataset=encode_dataset(dataset)
    ) as process:
        assert process.run("create", monitor, seed=SEED, deadline_ms=60_000).ok
    transforms = transforms_of(monitor, built(), process.exports)
    assert transforms is not None
    assert transforms.exports == EXPORTS
    with Transformer(transforms, policy=POLICY_BYTES, schema=dataset.schema) as transformer:
        monitor.finish_phase()
        yield transformer, monitor.state


def transformed(
    started: tuple[Transformer, kernel.State], export: str, rows: Float32Array, *, seed: bytes = b""
) -> Float32Array:
    transformer, state = started
    return transformer.apply(export, rows, state=state, deadline_ms=20_000, seed=seed)


def test_rows_come_out_with_mean_0_and_deviation_1_in_each_column(
    started: tuple[Transformer, kernel.State],
) -> None:
    rows = transformed(started, INPUT, np.asarray(data().rows))
    assert np.allclose(rows.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(rows.std(axis=0), 1, atol=1e-5)


def test_a_row_alone_comes_out_as_among_others(started: tuple[Transformer, kernel.State]) -> None:
    rows = np.asarray(data().rows[:4])
    alone = [transformed(started, INPUT, rows[i : i + 1]) for i in range(4)]
    assert np.array_equal(np.concatenate(alone), transformed(started, INPUT, rows))


def test_jitter_is_small_seeded_and_other_at_each_step(started: tuple[Transformer, kernel.State]) -> None:
    rows = np.zeros((400, *SHAPE), dtype=np.float32)
    same, again, other = (transformed(started, AUGMENT, rows, seed=seed) for seed in (b"a", b"a", b"b"))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)
    assert abs(float(same.std()) - 0.1) < 0.005


def test_scores_are_corrected_for_rare_targets(started: tuple[Transformer, kernel.State]) -> None:
    scores = np.array([[0.5, 0.3, 0.2], [1, 0, 0]], dtype=np.float32)
    counts = np.bincount(data().targets, minlength=CLASSES) + 1
    expected = scores / (counts / counts.sum())
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(transformed(started, OUTPUT, scores), expected, atol=1e-6)
    assert np.argmax(expected[0]) == 1  # the rarer target wins


def test_a_dry_run_trains_on_transformed_rows() -> None:
    shown = dry_run(built(), data(), policy_bytes=POLICY_BYTES, seed=7, steps=30)
    assert shown.losses[0] == pytest.approx(np.log(CLASSES), abs=1e-5)
    assert shown.losses[-1] < 0.8  # rows as they were submitted, of up to 150, would diverge


def test_a_dry_run_says_how_a_transform_failed() -> None:
    state = replace(kernel.initial(POLICY, rows_class=200, spent={}), phase="Train")
    dataset = data()
    carried = transforms_of(Monitor(POLICY, state), built(), frozenset(EXPORTS))  # nothing was kept
    assert carried is not None
    with (
        Transformer(carried, policy=POLICY_BYTES, schema=dataset.schema) as transformer,
        pytest.raises(TransformError, match=r"transform_input\(\) returned 1"),
    ):
        transformer.apply(INPUT, np.asarray(dataset.rows), state=state, deadline_ms=20_000)
