"""Attack: a stranger, or another job's user, asks which models there are and of what shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployments import Events, listening, make_attester, new_node
from queries import JOB, OTHER_JOB, OTHER_USER, ROW, Service, handover

from chiron.serving.query import QueryNode
from chiron.training.node import Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    node = QueryNode(new_node(Role.QUERY, make_attester(tmp_path), Events()))
    with listening(node.node, node.handle, anonymous=True) as address:
        service = Service(tmp_path, node, address)
        assert service.hand_over(handover(tmp_path)) is True
        yield service


def test_a_model_that_is_not_ones_own_and_none_at_all_look_the_same(service: Service) -> None:
    asked = [
        *(service.ask(path=f"/v2/models/{job}", signer=OTHER_USER) for job in (JOB, OTHER_JOB)),
        *(service.ask(path=f"/v2/models/{job}/ready", signer=OTHER_USER) for job in (JOB, OTHER_JOB)),
        *(service.infer(ROW, signer=OTHER_USER, job=job) for job in (JOB, OTHER_JOB)),
        *(service.ask(path=f"/v2/models/{job}", signer=None) for job in (JOB, OTHER_JOB)),
    ]
    assert len({(reply.status, reply.raw, reply.head) for reply in asked}) == 1
    assert asked[0].status == 403


@pytest.mark.parametrize(
    "path", ["/v2/models", "/v2/models/", "/v2/repository/index", "/metrics", "/debug", "/.."]
)
def test_there_is_no_list_of_models(service: Service, path: str) -> None:
    assert service.ask(path=path, signer=OTHER_USER).status == 404
