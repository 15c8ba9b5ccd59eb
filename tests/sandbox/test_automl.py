"""The guest that chooses its network: which one each data set gets, and that it is admitted and learns."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import POLICY_BYTES, compiled

from chiron.graph import StockEngine
from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.dataset import make_dataset
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.process import GuestProcess
from chiron.parties.build import build
from chiron.parties.dry_run import dry_run
from chiron.parties.errors import PartyError
from chiron.policy import kernel
from chiron.policy.loader import parse_policy
from chiron.training.batches import batches_of
from chiron.training.create import admit_network, run_configure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset
    from chiron.policy.header import Header
    from chiron.training.create import Network

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
POLICY = parse_policy(POLICY_BYTES)
TABLE, SMALL_IMAGE, LARGE_IMAGE = (13,), (1, 28, 28), (3, 32, 32)
RATES = (0.01, 0.03, 0.1)


@cache
def built() -> bytes:
    with TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("build")
        project = shutil.copytree(
            REPOSITORY / "examples" / "automl-c", Path(folder) / "automl", ignore=ignore
        )
        return build(project, sdk=REPOSITORY / "spec" / "sdk" / "c").read_bytes()


@cache
def synthetic(shape: tuple[int, ...], rows: int, *, common: int = 1, noise: float = 0.2) -> Dataset:
    """Return rows around one random centre a target; target 0 is `common` times as frequent as each other."""
    random = np.random.default_rng(3)
    weights = np.array([common, 1, 1, 1], dtype=np.float64)
    # neighbouring pixels agree, as they do in pictures: averaging them keeps what tells targets apart
    sides = tuple(-(-side // 4) for side in shape) if len(shape) == 3 else shape
    coarse = random.uniform(0.2, 0.8, size=(4, *sides))
    for axis, side in enumerate(shape if len(shape) == 3 else (), start=1):
        coarse = coarse.repeat(4, axis=axis).take(range(side), axis=axis)

    def part(count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        targets = random.choice(4, size=count, p=weights / weights.sum())
        values = random.normal(size=(count, *shape), scale=noise).astype(np.float32)
        return np.clip(255 * (coarse[targets] + values), 0, 255).astype(np.uint8), targets

    return make_dataset(*part(rows), held_out=part(64), classes=4)


def created(dataset: Dataset, seed: int = 7) -> tuple[Network, Header, int]:
    """Run both exports; return the admitted network, the header and the fuel of `create`."""
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=dataset.schema.rows_class, spent={}))
    raw = seed.to_bytes(8, "little")
    assert run_configure(POLICY_BYTES, compiled(built()), dataset.schema, monitor=monitor, seed=raw).ok
    monitor.finish_phase()
    header = monitor.header
    assert header is not None
    monitor.finish_phase()
    encoded = encode_dataset(dataset)
    with GuestProcess(
        compiled(built()), policy=POLICY_BYTES, schema=dataset.schema, dataset=encoded
    ) as process:
        report = process.run("create", monitor, seed=raw, deadline_ms=60_000)
    assert report.ok, report.explain("create")
    return admit_network(monitor, header, dataset.schema), header, report.fuel


def kind_of(network: Network) -> str:
    """Tell the four apart by their operators."""
    operators = [node.operator for node in network.admitted.nodes]
    counts = (operators.count("Conv"), operators.count("Gemm"), operators.count("Add"))
    return {(0, 2, 0): "MLP", (2, 3, 0): "LeNet", (6, 3, 0): "VGG-9", (21, 1, 9): "ResNet-20"}[counts]


def losses(network: Network, header: Header, dataset: Dataset, *, steps: int) -> list[float]:
    """Train on one batch with the plan's rate and momentum."""
    engine = StockEngine(network.admitted, batch=header.batch, threads=1)
    engine.parameters[:] = network.admitted.initial
    velocity = np.zeros_like(engine.parameters)
    rows, targets = batches_of(dataset, header, seed=7, index=0)(0)
    seen = []
    for _ in range(steps):
        seen.append(engine.run(rows, targets))
        velocity = network.plan.momentum * velocity + engine.gradient
        np.subtract(engine.parameters, network.plan.learning_rate * velocity, out=engine.parameters)
    return seen


CASES = [
    ("MLP", TABLE, 600, 1),
    ("LeNet", SMALL_IMAGE, 1000, 1),
    pytest.param("VGG-9", LARGE_IMAGE, 600, 1, marks=pytest.mark.nightly),
    pytest.param("ResNet-20", LARGE_IMAGE, 6000, 1, marks=pytest.mark.nightly),
    pytest.param("VGG-9", LARGE_IMAGE, 6000, 9, marks=pytest.mark.nightly),  # most are of one target
]


@pytest.mark.parametrize(("kind", "shape", "rows", "common"), CASES)
def test_each_data_set_gets_its_network_and_training_lowers_the_loss(
    kind: str, shape: tuple[int, ...], rows: int, common: int
) -> None:
    dataset = synthetic(shape, rows, common=common)
    network, header, fuel = created(dataset)
    assert kind_of(network) == kind
    assert header.parameters // 8 < network.admitted.parameter_count <= header.parameters
    assert fuel < POLICY.limits.fuel / 4
    seen = losses(network, header, dataset, steps=15)
    assert seen[-1] < 0.9 * seen[0]


def test_the_search_takes_what_suits_the_data() -> None:
    plain, noisy = (created(synthetic(TABLE, 600, noise=noise))[0].plan for noise in (0.1, 3.0))
    assert plain.learning_rate > noisy.learning_rate
    assert {round(plan.learning_rate, 3) for plan in (plain, noisy)} <= set(RATES)


def test_the_same_data_and_seed_give_the_same_graph_plan_and_fuel() -> None:
    runs = [created(synthetic(TABLE, 64), seed) for seed in (7, 7, 8)]
    assert (runs[0][0].graph, runs[0][0].plan, runs[0][2]) == (runs[1][0].graph, runs[1][0].plan, runs[1][2])
    assert runs[0][0].graph != runs[2][0].graph


def test_data_that_are_all_alike_still_give_a_network() -> None:
    rows, targets = np.full((40, *TABLE), 7, dtype=np.uint8), np.arange(40) % 2
    network, _, _ = created(make_dataset(rows, targets, held_out=(rows, targets), classes=2))
    assert np.isfinite(network.admitted.initial).all()


def test_rows_that_no_network_takes_are_declined_with_a_reason() -> None:
    rows, targets = np.zeros((4, 3, 256, 256), dtype=np.uint8), np.arange(4) % 2
    dataset = make_dataset(rows, targets, held_out=(rows, targets), classes=2)
    with pytest.raises(PartyError, match="returned 2"):
        dry_run(built(), dataset, policy_bytes=POLICY_BYTES, seed=7, steps=0)
