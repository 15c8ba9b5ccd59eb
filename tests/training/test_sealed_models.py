"""A sealed model has one size a header, hides its content and opens for its job alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from agreed import HEADER, JOB, KEY

from chiron.training.errors import TrainingError
from chiron.training.sealed import Model, graph_message_bytes, seal_model, unseal_model
from enclave import SealError

if TYPE_CHECKING:
    from chiron.policy.header import Header


def model(graph: bytes = b"graph", parameters: int = 10) -> Model:
    return Model(graph, np.arange(parameters, dtype=np.float32))


def seal_it(content: Model, header: Header = HEADER) -> bytes:
    return seal_model(content, key=KEY, job=JOB, header=header)


def test_a_model_opens_again() -> None:
    again = unseal_model(seal_it(model()), key=KEY, job=JOB, header=HEADER)
    assert again.graph == b"graph"
    assert np.array_equal(again.parameters, model().parameters)


def test_a_sealed_model_has_one_size_a_header() -> None:
    sizes = {len(seal_it(model(b"g" * length, count))) for length, count in ((0, 0), (5, 10), (9000, 4096))}
    assert len(sizes) == 1
    assert len(seal_it(model(), dataclasses.replace(HEADER, parameters=16384))) not in sizes


def test_a_sealed_model_hides_its_parameters() -> None:
    assert model().parameters.tobytes() not in seal_it(model())


@pytest.mark.parametrize(
    "change", [{"key": bytes(31) + b"\1"}, {"job": "1" * 32}, {"cut": 1}, {"flip": 40}, {"cut": 10_000_000}]
)
def test_a_model_under_another_key_or_job_or_changed_does_not_open(change: dict[str, Any]) -> None:
    blob = bytearray(seal_it(model()))
    if "flip" in change:
        blob[change["flip"]] ^= 1
    raw = bytes(blob[: max(0, len(blob) - change.get("cut", 0))])
    with pytest.raises(SealError):
        unseal_model(raw, key=change.get("key", KEY), job=change.get("job", JOB), header=HEADER)


def test_a_graph_beyond_its_room_does_not_fit() -> None:
    with pytest.raises(TrainingError, match="do not fit"):
        seal_it(model(bytes(graph_message_bytes(HEADER))))
