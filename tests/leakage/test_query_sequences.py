"""Two query enclaves with other weights are asked the same things in the same order: only answers differ.

Hypothesis writes the sequence: good and bad questions, of the user and of others, several to a connection.
Both runs must give the same statuses, sizes and heads, and charge the same; an answer's 16 bits are declared.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import CLASSES, POLICY_BYTES, VALUES, Events, listening, make_attester
from graphs import linear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queries import HEADER, JOB, KEYS, OTHER_JOB, OTHER_USER, ROW, USER, Reply, Service, ask, handover, tensor

from chiron.policy.loader import parse_policy
from chiron.serving.query import QueryNode
from chiron.training.node import Role, make_node
from chiron.training.sealed import Model, seal_model
from enclave import ChannelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FAST = POLICY_BYTES.replace(b"grid_ms = 50", b"grid_ms = 5")
WEIGHTS = ((3.0, 0.0), (1e38, 1e38))  # an ordinary model, and one that overflows at every row
BODIES = {
    "a row": tensor(ROW),
    "three rows": tensor(ROW, ROW, ROW),
    "an ordinary row": tensor([9.0] + [0.0] * (VALUES - 1)),
    "large values": tensor([3e38] * VALUES),
    "sixteen rows": tensor(*[ROW] * 16),
    "seventeen rows": tensor(*[ROW] * 17),
    "no JSON": b"{",
    "no numbers": b'{"inputs":[{"shape":[1,8],"data":["a"]}]}',
    "nothing": b"",
}
PATHS = ("/v2", f"/v2/models/{JOB}", f"/v2/models/{JOB}/ready", f"/v2/models/{OTHER_JOB}", "/nothing")
ASKED = st.one_of(
    st.tuples(st.just("POST"), st.just(f"/v2/models/{JOB}/infer"), st.sampled_from(sorted(BODIES))),
    st.tuples(st.just("GET"), st.sampled_from(PATHS), st.just("nothing")),
)
WHO: dict[str, Ed25519PrivateKey | None] = {"user": USER, "another": OTHER_USER, "nobody": None}
SEQUENCES = st.lists(st.tuples(ASKED, st.sampled_from([*["user"] * 3, *WHO])), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Service, Service]]:
    policy = parse_policy(FAST)
    with ExitStack() as stack:
        made = []
        for diagonal, rest in WEIGHTS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            node = make_node(
                Role.QUERY, policy, policy_bytes=FAST, attester=make_attester(folder), emit=Events()
            )
            serving = QueryNode(node)
            address = stack.enter_context(listening(node, serving.handle, anonymous=True))
            made.append(Service(folder, serving, address))
            message = handover(folder)
            message["offer"]["policy"] = policy.digest
            weights = np.full((VALUES, CLASSES), rest, np.float32)
            weights[np.arange(CLASSES), np.arange(CLASSES)] = diagonal
            blob = seal_model(
                Model(linear(VALUES, CLASSES), weights.ravel()), key=KEYS["model_key"], job=JOB, header=HEADER
            )
            (folder / f"{JOB}.model").write_bytes(blob)
            assert serving._take(message) is True
        yield made[0], made[1]


def observed(service: Service, sequence: list[Any]) -> list[object]:
    """Return what the network and the user see of a sequence, without the answers' own content."""
    seen: list[object] = []
    before = service.node.models[JOB].budget.used
    with service.dial() as channel:
        for (method, path, body), who in sequence:
            try:
                reply = ask(channel, method, path, body=BODIES[body], signer=WHO[who])
            except ChannelError as error:
                seen.append(type(error).__name__)
                break
            seen.append((reply.status, len(reply.raw), reply.head, _shape(reply)))
    return [*seen, service.node.models[JOB].budget.used - before]


def _shape(reply: Reply) -> object:
    """Return an answer without its 16 declared bits a row."""
    value = reply.value
    outputs = value.get("outputs") if isinstance(value, dict) else None
    if outputs is None:
        return value
    return [{key: len(each[key]) if key == "data" else each[key] for key in each} for each in outputs]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(SEQUENCES)
def test_two_models_are_told_apart_by_their_answers_alone(
    services: tuple[Service, Service], sequence: list[Any]
) -> None:
    one, other = (observed(service, sequence) for service in services)
    assert one == other


def test_the_answers_do_differ(services: tuple[Service, Service]) -> None:
    rows = [9.0] + [0.0] * (VALUES - 1)
    told = [service.infer(rows).value["outputs"] for service in services]
    assert told[0] != told[1]


def test_a_body_that_tells_the_score_in_its_status_is_noticed(
    services: tuple[Service, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: an error where the model failed, which a released answer already tells."""
    answer = QueryNode._answer

    def leaky(self: QueryNode, request: Any, exporter: bytes) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
        status, body = answer(self, request, exporter)
        failed = "outputs" in body and not any(body["outputs"][1]["data"])
        return (500, {"error": "the model failed"}) if failed else (status, body)

    monkeypatch.setattr(QueryNode, "_answer", leaky)
    sequence = [(("POST", f"/v2/models/{JOB}/infer", "an ordinary row"), "user")]
    one, other = (observed(service, sequence) for service in services)
    assert one != other
