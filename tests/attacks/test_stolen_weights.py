"""Attack: the user asks until the answers tell the weights, or reads them out of error texts.

Tramer et al., "Stealing machine learning models via prediction APIs", USENIX Security 2016. An answer here
has 16 bits, and there are as many as the policy says, over all connections and restarts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployments import POLICY, VALUES, Events, listening, make_attester, new_node
from queries import JOB, LIMIT, ROW, SIZE, USER, Service, ask, authorization, handover, tensor

from chiron.serving.errors import Fault
from chiron.serving.query import QueryNode
from chiron.training.node import Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INFER = f"/v2/models/{JOB}/infer"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    node = QueryNode(new_node(Role.QUERY, make_attester(tmp_path), Events()))
    with listening(node.node, node.handle, anonymous=True) as address:
        service = Service(tmp_path, node, address)
        assert service.hand_over(handover(tmp_path)) is True
        yield service


def test_answers_end_with_their_budget_over_connections_and_a_restart(service: Service) -> None:
    service.node.models[JOB].budget.commit(LIMIT - 5)
    assert service.hand_over(handover(service.folder)) is True
    answered = 0
    for _ in range(8):
        reply = service.infer(ROW)
        answered += reply.status == 200
    assert answered == 5
    assert service.hand_over(handover(service.folder)) is True, "the platform starts it again"
    assert service.infer(ROW).value == {"error": Fault.BUDGET_SPENT.text}


def test_an_answer_has_sixteen_bits(service: Service) -> None:
    outputs = service.infer([0.123456789] * VALUES).value["outputs"]
    classes, scores = (output["data"] for output in outputs)
    assert 0 <= classes[0] < 256
    assert any(abs(scores[0] - level / 255) < 0.0006 for level in range(256)), "of 256 levels"
    assert POLICY.declassifiers["answer"].bits == 16


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{" * 10_000,
        b'{"inputs":[{"shape":[1,1e400],"data":[1]}]}',
        b'{"inputs":[{"shape":[1,8],"data":[[[1]]]}]}',
        tensor([float("inf")] * VALUES),
        tensor([1e38] * VALUES),
        b'{"inputs":[{"name":"../../model","shape":[1,8],"data":[0,0,0,0,0,0,0,0]}],"parameters":{"debug":1}}',
    ],
)
def test_no_question_gets_more_than_an_answer_or_a_constant_text(service: Service, body: bytes) -> None:
    reply = service.ask("POST", INFER, body=body)
    assert len(reply.raw) == SIZE
    if reply.status != 200:
        assert reply.value in [{"error": fault.text} for fault in Fault]


def test_a_refused_question_costs_nothing_and_an_answered_one_costs_all_its_rows(service: Service) -> None:
    with service.dial() as channel:
        header = authorization(USER, channel.exporter)
        for body in (b"no", tensor(ROW, ROW, ROW)):
            ask(channel, "POST", INFER, body=body, header=header)
    assert service.node.models[JOB].budget.used == 3
