"""A whole job whose workers read chunks from disk, ahead of their compute, and hold no data set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from deployments import CLASSES, POLICY, Deployment, deployment
from graphs import linear
from guests import guest
from jobs import Job

from chiron.guest_api.chunks import layout_of
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest
from chiron.training import worker
from chiron.training.batches import Ahead, Batches, Resident

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HEADER = (2, 256, 2, 4096, 100, 2000)  # epochs, batch, workers, parameters, slot_ms, create_ms
VALUES, ROWS = 1024, 6144
GUEST = guest(graph=linear(VALUES, CLASSES), header=HEADER)


def dataset_of_many_chunks() -> Dataset:
    random, targets = np.random.default_rng(1), np.arange(ROWS) % CLASSES
    values = random.normal(size=(ROWS, VALUES)).astype(np.float32)
    values[np.arange(ROWS), targets] += 5
    return make_dataset(values, targets, held_out=(values[:30], targets[:30]), classes=CLASSES)


def metrics_of(
    running: Deployment, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, set[type]]:
    """Run a job whose workers keep so much of the data; return its metrics and how chunks were kept."""
    kinds: set[type] = set()
    opened = partial(worker.opened_chunks, memory_bytes=memory_bytes, window_bytes=900)

    def noted(kept: Any, *rest: Any, **options: Any) -> Any:  # noqa: ANN401
        kinds.add(type(kept))
        return Batches(kept, *rest, **options)

    with monkeypatch.context() as changed:
        changed.setattr(worker, "opened_chunks", opened)
        changed.setattr(worker, "Batches", noted)
        dataset, job = dataset_of_many_chunks(), new_job_id()
        operator, user = running.home(), running.home()
        submit_guest(running.platform(), operator, policy=POLICY, guest=GUEST, job=job, seed=7)
        submit_dataset(running.platform(), user, dataset=dataset, job=job)
        mine = Job(running, job, operator, user, dataset)
        ended = mine.run()
        assert ended.get("outcome") == "sealed", ended
        return mine.ask(operator, "metrics"), kinds


def test_a_job_that_streams_its_data_gives_what_one_gives_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layout_of(dataset_of_many_chunks().schema).train > 20  # of which a worker keeps 15
    with deployment(tmp_path) as running:
        streamed, ahead = metrics_of(running, 0, monkeypatch)
        held, resident = metrics_of(running, 1 << 30, monkeypatch)
    assert (ahead, resident) == ({Ahead}, {Resident})
    assert streamed == held
    assert streamed["losses"][-1] < streamed["losses"][0]
