"""What files of this folder share: a folder for a simulated CPU, and exchanges closed after the test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from exchanges import Compute, Job, Start, schedule_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from paramserver import Schedule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def make(computes: Sequence[Compute], schedule: Schedule | None = None, **more: object) -> Job:
            job = Job(computes, schedule or schedule_of(workers=len(computes)), **more)  # type: ignore[arg-type]
            stack.callback(job.close)
            return job

        yield make
