"""The query enclave over real attested connections: who is answered, in which size, when, and how often."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deployments import (
    CLASSES,
    POLICY,
    VALUES,
    Events,
    listening,
    make_attester,
    new_node,
)
from queries import (
    GRID_S,
    JOB,
    KEYS,
    LIMIT,
    OTHER_JOB,
    OTHER_USER,
    ROW,
    SIZE,
    USER,
    Reply,
    Service,
    ask,
    authorization,
    handover,
    offer,
    serving_state,
    tensor,
)

from chiron.graph import GraphError
from chiron.serving import budget as budgets
from chiron.serving import query
from chiron.serving.blackbox import BlackBox, open_monitor
from chiron.serving.budget import Budget
from chiron.serving.errors import Fault, FaultError, ServingError
from chiron.serving.query import QueryNode
from chiron.training.agreement import sign_request
from chiron.training.node import Role
from enclave import Channel, ChannelError, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h11

    from chiron.guest_api.dataset import Float32Array


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    node = QueryNode(new_node(Role.QUERY, make_attester(tmp_path), Events()))
    with listening(node.node, node.handle, anonymous=True) as address:
        service = Service(tmp_path, node, address)
        assert service.hand_over(handover(tmp_path)) is True
        yield service


def test_the_model_answers_with_class_and_score(service: Service) -> None:
    rows = [[9.0 if place == target else 0.0 for place in range(VALUES)] for target in range(CLASSES)]
    outputs = service.infer(*rows).value["outputs"]
    assert [output["data"] for output in outputs] == [[0, 1, 2], [1.0, 1.0, 1.0]]


def test_public_paths_answer_without_a_signature(service: Service) -> None:
    assert service.ask(path="/v2", signer=None).value["simulated"] is True
    assert service.ask(path="/v2/health/live", signer=None).value == {"live": True}
    assert service.ask(path="/v2/health/ready", signer=None).value == {"ready": True}


def test_the_user_reads_metadata_and_readiness(service: Service) -> None:
    assert service.ask(path=f"/v2/models/{JOB}").value["inputs"][0]["shape"] == [-1, VALUES]
    assert service.ask(path=f"/v2/models/{JOB}/ready").value == {"name": JOB, "ready": True}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("POST", "/v2"),
        ("PUT", f"/v2/models/{JOB}/infer"),
        ("GET", "/v2/models"),
    ],
)
def test_another_path_is_not_found(service: Service, method: str, path: str) -> None:
    reply = service.ask(method, path)
    assert (reply.status, reply.value) == (404, {"error": Fault.NOT_FOUND.text})


def test_several_requests_go_over_one_connection(service: Service) -> None:
    with service.dial() as channel:
        statuses = [ask(channel, "GET", "/v2").status for _ in range(3)]
    assert statuses == [200, 200, 200]


def test_the_connection_closes_when_the_caller_asks_for_it(service: Service) -> None:
    with service.dial() as channel:
        assert ask(channel, "GET", "/v2", more=(("connection", "close"),)).status == 200
        assert channel.recv(1) == b""


# Size and time


def outcomes(service: Service) -> dict[str, Reply]:
    """One reply for each outcome that a caller can bring about."""
    model, infer = f"/v2/models/{JOB}", f"/v2/models/{JOB}/infer"
    return {
        "one row": service.infer(ROW),
        "many rows": service.infer(*[[5.0] * VALUES] * 16),
        "server": service.ask(path="/v2"),
        "metadata": service.ask(path=model),
        "bad request": service.ask("POST", infer, body=b"no json"),
        "wrong shape": service.ask("POST", infer, body=b'{"inputs":[{"shape":[1],"data":[1]}]}'),
        "too many rows": service.infer(*[ROW] * 17),
        "not finite": service.infer([float("nan")] * VALUES),
        "not the user": service.infer(ROW, signer=OTHER_USER),
        "not found": service.ask(path="/nothing"),
    }


def test_every_outcome_has_one_size_and_the_same_head_but_for_the_status(service: Service) -> None:
    replies = outcomes(service)
    assert {len(reply.raw) for reply in replies.values()} == {SIZE}
    assert len({reply.head.replace(str(reply.status).encode(), b"___") for reply in replies.values()}) == 1
    expected = (200, 200, 200, 200, 400, 400, 400, 400, 403, 404)
    assert tuple(reply.status for reply in replies.values()) == expected


def test_an_error_is_a_constant_text_of_the_closed_list(service: Service) -> None:
    told = {reply.value["error"] for reply in outcomes(service).values() if "error" in reply.value}
    assert len(told) > 2
    assert told <= {fault.text for fault in Fault}


def test_no_outcome_comes_before_the_grids_first_point(service: Service) -> None:
    for name, reply in outcomes(service).items():
        assert reply.after_s >= GRID_S, name


class Clock:
    """A clock that only moves when it is slept on."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@pytest.mark.parametrize(
    ("took", "points"), [(0.0, 1), (0.001, 1), (0.0499, 1), (0.0501, 2), (0.12, 3), (1.0, 20)]
)
def test_an_answer_leaves_on_the_next_point_of_the_grid(
    took: float, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(100.0 + took)
    monkeypatch.setattr(query, "time", clock)
    query._wait_for_grid(100.0, 0.05)
    assert clock.now == pytest.approx(100.0 + points * 0.05)


# Who is answered


def test_an_unknown_model_and_a_wrong_user_look_the_same(service: Service) -> None:
    service.hand_over(handover(service.folder, OTHER_JOB, OTHER_USER))
    wrong, unknown = service.infer(ROW, job=OTHER_JOB), service.infer(ROW, job="2" * 32)
    nonsense = service.infer(ROW, job="nonsense")
    assert wrong.status == 403
    assert (wrong.raw, wrong.head) == (unknown.raw, unknown.head) == (nonsense.raw, nonsense.head)


def test_a_signature_from_another_connection_is_refused(service: Service) -> None:
    path = f"/v2/models/{JOB}"
    with service.dial() as one, service.dial() as other:
        stolen = authorization(USER, one.exporter)
        assert ask(other, "GET", path, header=stolen).status == 403
        assert ask(one, "GET", path, header=stolen).status == 200


def test_the_users_key_with_anothers_signature_is_refused(service: Service) -> None:
    with service.dial() as channel:
        key = USER.public_key().public_bytes_raw().hex()
        forged = sign_request(OTHER_USER, channel.exporter, b"").hex()
        assert ask(channel, "GET", f"/v2/models/{JOB}", header=f"Chiron {key}:{forged}").status == 403


@pytest.mark.parametrize(
    "header", [None, "", "Chiron", "Chiron :", "Chiron zz:zz", "Chiron 00:00", "Bearer x"]
)
def test_authorization_of_another_form_is_refused(service: Service, header: str | None) -> None:
    assert service.ask(path=f"/v2/models/{JOB}", signer=None, header=header).status == 403


def test_another_scheme_is_refused(service: Service) -> None:
    with service.dial() as channel:
        header = authorization(USER, channel.exporter).replace("Chiron", "Basic")
        assert ask(channel, "GET", f"/v2/models/{JOB}", header=header).status == 403


def test_a_stranger_learns_nothing_of_how_a_request_would_have_failed(service: Service) -> None:
    path = f"/v2/models/{JOB}/infer"
    replies = [service.ask("POST", path, body=b, signer=OTHER_USER) for b in (b"", b"no json", tensor(ROW))]
    assert len({reply.raw for reply in replies}) == 1


def test_a_request_over_the_limit_is_refused_and_not_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MAX_BODY_BYTES", 1000)
    path = f"/v2/models/{JOB}/infer"
    assert service.ask("POST", path, body=bytes(1001)).status == 413
    assert service.ask("POST", path, body=bytes(300_000)).status == 413
    assert service.ask("POST", path, body=tensor(ROW).ljust(1000)).status == 200


# Garbage


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HEAD /v2 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"A" * 100_000,
    ],
)
def test_what_is_no_http_closes_the_connection_without_an_answer(service: Service, raw: bytes) -> None:
    with service.dial() as channel, suppress(ChannelError):  # it may be closed before all is sent
        channel.send(raw)
        assert channel.recv(1 << 16) == b""
    assert service.ask().status == 200


@pytest.mark.parametrize(
    "raw", [b"", b"GET /v2 HTT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab"]
)
def test_a_caller_that_hangs_up_is_forgotten(service: Service, raw: bytes) -> None:
    with service.dial() as channel:
        channel.send(raw)
    assert service.ask().status == 200


def test_an_enclave_that_is_not_the_lead_is_not_answered(service: Service) -> None:
    with pytest.raises(ChannelError):
        service.hand_over(handover(service.folder, OTHER_JOB), Role.WORKER)
    assert OTHER_JOB not in service.node.models


# The hand-over


@pytest.mark.parametrize(
    "change",
    [{"model_key": bytes(31) + b"\7"}, {"model": "/nonexistent"}, {"offer": offer(OTHER_JOB).as_dict()}],
)
def test_a_model_that_does_not_open_is_not_served(service: Service, change: dict[str, Any]) -> None:
    before = dict(service.node.models)
    assert service.hand_over(handover(service.folder) | change) is False
    assert service.node.models == before


# Budgets


def test_the_count_is_on_disk_before_the_answer_leaves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    write, respond = write_atomically, query._write_response

    def written(path: Path, data: bytes) -> None:
        write(path, data)
        steps.append("disk")

    def responded(connection: h11.Connection, channel: Channel, status: int, body: bytes) -> None:
        steps.append("answer")
        respond(connection, channel, status, body)

    monkeypatch.setattr(budgets, "write_atomically", written)
    monkeypatch.setattr(query, "_write_response", responded)
    assert service.infer(ROW, ROW).status == 200
    assert steps == ["disk", "answer"]
    assert reopened(service).used == 2


def reopened(service: Service) -> Budget:
    return Budget(service.folder / f"{JOB}.budget", key=KEYS["budget_key"], job=JOB)


def test_a_disk_that_refuses_gives_no_answer_and_costs_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(budgets, "write_atomically", full)
        reply = service.infer([9.0, *ROW[1:]])
    assert (reply.status, reply.value) == (503, {"error": Fault.UNAVAILABLE.text})
    assert service.infer(ROW).status == 200
    assert reopened(service).used == 1


def test_a_refused_request_costs_nothing(service: Service) -> None:
    service.infer(ROW, signer=OTHER_USER)
    service.infer(*[ROW] * 17)
    assert reopened(service).used == 0


def test_the_budget_survives_a_new_query_enclave(service: Service) -> None:
    service.infer(*[ROW] * 5)
    fresh = QueryNode(new_node(Role.QUERY, make_attester(service.folder)))
    with listening(fresh.node, fresh.handle, anonymous=True) as address:
        again = Service(service.folder, fresh, address)
        assert again.hand_over(handover(service.folder)) is True
        assert fresh.models[JOB].budget.used == 5
        assert fresh.models[JOB].monitor.state.uses["answer"] == 5


def test_a_spent_budget_answers_none_of_the_rows(service: Service) -> None:
    Budget(service.folder / f"{JOB}.budget", key=KEYS["budget_key"], job=JOB).commit(LIMIT - 2)
    assert service.hand_over(handover(service.folder)) is True
    assert service.infer(*[ROW] * 3).status == 429
    assert service.infer(*[ROW] * 2).status == 200
    spent = service.infer(ROW)
    assert (spent.status, len(spent.raw)) == (429, SIZE)
    assert reopened(service).used == LIMIT


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "other job", "other key"])
def test_a_tampered_budget_is_refused(tmp_path: Path, change: str) -> None:
    path, key, job = tmp_path / "budget", bytes(32), JOB
    Budget(path, key=key, job=job).commit(7)
    raw = path.read_bytes()
    changed = {"flip": raw[:-1] + bytes([raw[-1] ^ 1]), "cut": raw[:-1], "empty": b""}
    path.write_bytes(changed.get(change, raw))
    with pytest.raises(ServingError, match=r"^the budget file was changed or is another job's: restore it$"):
        Budget(
            path,
            key=bytes(31) + b"\1" if change == "other key" else key,
            job=OTHER_JOB if change == "other job" else job,
        )


def test_a_tampered_budget_is_not_served(service: Service) -> None:
    service.infer(ROW)
    path = service.folder / f"{JOB}.budget"
    path.write_bytes(path.read_bytes()[:-1])
    assert service.hand_over(handover(service.folder)) is False


class BrokenPredictor:
    """A network that fails on every row, or computes NaN."""

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails

    def predict(self, rows: Float32Array) -> Float32Array:
        if self._fails:
            raise GraphError("a prediction failed")
        return np.full((len(rows), CLASSES), np.nan, np.float32)


@pytest.mark.parametrize("fails", [True, False])
def test_a_network_that_fails_answers_zeros_which_are_counted(service: Service, fails: bool) -> None:  # noqa: FBT001
    service.node.models[JOB].predictor = BrokenPredictor(fails=fails)  # type: ignore[assignment]
    reply = service.infer(ROW, ROW)
    assert (reply.status, reply.value["outputs"][0]["data"]) == (200, [0, 0])
    assert reply.value["outputs"][1]["data"] == [0.0, 0.0]
    assert reopened(service).used == 2


class Untransformed:
    """The transforms of a guest that has none: nothing runs."""

    exports = ()


def test_a_model_with_transforms_that_fails_is_one_fault_and_one_that_does_not_answers(
    service: Service,
) -> None:
    box, rows = service.node.models[JOB], np.zeros((2, VALUES), np.float32)
    box.transformer = Untransformed()  # type: ignore[assignment]
    assert len(box.answer(rows)) == 2
    box.predictor = BrokenPredictor(fails=True)  # type: ignore[assignment]
    with pytest.raises(FaultError) as caught:
        box.answer(rows)
    assert caught.value.fault is Fault.NOT_ANSWERED
    assert reopened(service).used == 4


def test_a_monitor_that_releases_nothing_answers_nothing(service: Service) -> None:
    box = service.node.models[JOB]
    box.monitor.state = replace(box.monitor.state, uses={"answer": LIMIT})
    assert service.infer(ROW).status == 429


def test_two_callers_at_once_never_exceed_the_budget(service: Service) -> None:
    box: BlackBox = service.node.models[JOB]
    box.budget.commit(LIMIT - 10)
    box.monitor = open_monitor(POLICY, serving_state(), used=LIMIT - 10)
    answered: list[int] = []

    def spend() -> None:
        for _ in range(8):
            with suppress(FaultError):
                answered.append(len(box.answer(np.zeros((1, VALUES), np.float32))))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answered) == 10
    assert reopened(service).used == LIMIT
