"""The operator's transforms in serving: what rows and scores go through, and how that may fail."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import (
    CLASSES,
    POLICY,
    POLICY_BYTES,
    VALUES,
    listening,
    make_attester,
    new_node,
    small_dataset,
)
from graphs import linear
from guests import LOOP, TRAP
from transforming import GIVE, ROWS, SEEN, TAKE, each, scaled, transforming

from chiron.graph import Predictor
from chiron.guest_api.monitor import Monitor, state_to_dict
from chiron.guest_api.transforms import INPUT, OUTPUT, Transformer, TransformError, Transforms, carried_bytes
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.serving import blackbox
from chiron.serving.blackbox import BlackBox
from chiron.serving.budget import Budget
from chiron.serving.errors import Fault, FaultError
from chiron.serving.query import QueryNode
from chiron.training.agreement import Offer, make_offer, sign_request
from chiron.training.create import admit_graph
from chiron.training.node import Role
from chiron.training.sealed import Model, seal_model
from chiron.training.submission import JobId, Kind, draft_manifest
from chiron.training.wire import receive_map, send_map
from enclave import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chiron.guest_api.dataset import Float32Array

JOB = JobId("0" * 32)
HEADER = Header(1, 16, 1, 4096, 5, 1000)
SCHEMA = small_dataset().schema
USER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SLOT_MS = 20_000  # of a transform in these tests; nothing sleeps it out
PATIENT = replace(POLICY, serving=replace(POLICY.serving, transform_ms=SLOT_MS))
KEYS = {"model_key": bytes(32), "budget_key": bytes(31) + b"\1"}
WEIGHTS = np.zeros((VALUES, CLASSES), np.float32)
WEIGHTS[np.arange(CLASSES), np.arange(CLASSES)] = 3
REMEMBER = f"""{TAKE}
  (if (f32.ne (f32.load (i32.const {SEEN})) (f32.const 0))
    (then (f32.store (i32.const {ROWS}) (f32.load (i32.const {SEEN})))))
  (f32.store (i32.const {SEEN}) (f32.load (i32.const {ROWS + 4})))
  {GIVE}"""  # answers with a value of the request before, where it can


def row(target: int) -> Float32Array:
    """Return one row that the untransformed network gives this class, with score 0.905."""
    rows = np.zeros((1, VALUES), np.float32)
    rows[0, target] = 1
    return rows


def offer() -> Offer:
    guest = draft_manifest(Kind.GUEST, JOB, signer=USER, seed=7)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=USER, schema=SCHEMA)
    return make_offer(POLICY, guest, dataset=dataset, header=HEADER)


def serving_state() -> kernel.State:
    first = kernel.initial(POLICY, rows_class=SCHEMA.rows_class, spent={})
    uses = POLICY.declassifiers["answer"].uses
    return replace(first, phase="Serve", ticks_left=uses, header=encode_header(POLICY.menus, HEADER))


@pytest.fixture
def unslept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Skip the sleeps of the slots, and return them."""
    slept: list[float] = []
    monkeypatch.setattr(blackbox, "time", cast("Any", Skipping(slept)))
    return slept


@dataclass
class Skipping:
    """The real clock, without sleeping."""

    slept: list[float]

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def make(tmp_path: Path, unslept: list[float]) -> Iterator[Callable[..., BlackBox]]:  # noqa: ARG001
    opened: list[Transformer] = []

    def black_box(**exports: str) -> BlackBox:
        predictor = Predictor(
            admit_graph(linear(VALUES, CLASSES), HEADER, SCHEMA), WEIGHTS.ravel(), threads=1
        )
        box = BlackBox(
            offer(),
            predictor,
            Monitor(PATIENT, serving_state()),
            Budget(tmp_path / "b", key=bytes(32), job=JOB),
        )
        if exports:
            carried = Transforms(transforming(exports), b"", tuple(exports))
            opened.append(Transformer(carried, policy=POLICY_BYTES, schema=SCHEMA))
            box.transformer = opened[-1]
        return box

    yield black_box
    for transformer in opened:
        transformer.close()


def answered(box: BlackBox, rows: Float32Array) -> list[tuple[int, float]]:
    return [(answer.target, answer.score) for answer in box.answer(rows)]


def test_rows_go_through_the_input_transform(make: Callable[..., BlackBox]) -> None:
    plain, lifted = answered(make(), row(1)), answered(make(transform_input=scaled(3)), row(1))
    assert plain == [(1, 0.91)]
    assert lifted == [(1, 1.0)]


def test_scores_go_through_the_output_transform(make: Callable[..., BlackBox]) -> None:
    assert answered(make(transform_output=scaled(0.5)), row(1)) == [(1, 0.455)]


def test_both_transforms_work_on_all_rows_of_a_request(make: Callable[..., BlackBox]) -> None:
    box = make(transform_input=scaled(3), transform_output=scaled(0.5))
    assert answered(box, np.concatenate([row(2), row(0)])) == [(2, 0.498), (0, 0.498)]


def test_a_request_sees_nothing_of_the_one_before(make: Callable[..., BlackBox]) -> None:
    box = make(transform_input=REMEMBER, transform_output=REMEMBER)
    alone = answered(box, row(2))
    answered(box, 7 * row(1))  # what the guest would give back in the next request
    assert answered(box, row(2)) == alone == answered(make(), row(2))
    remembering = f"(f32.store (i32.const {SEEN}) (f32.const 7))" + REMEMBER
    assert answered(make(transform_input=remembering), row(2)) != alone  # it would show


FAULTS = {
    "trap": TRAP,
    "gives nothing": TAKE,
    "gives too much": TAKE + GIVE + GIVE,
    "not finite": TAKE + each("(f32.store (local.get $i) (f32.const nan))") + GIVE,
    "gives up": TAKE + GIVE + "(return (i32.const 1))",
    "not granted": "(drop (call $random (i32.const 8192) (i32.const 4)))" + TAKE + GIVE,
}


@pytest.mark.parametrize("export", [INPUT, OUTPUT])
@pytest.mark.parametrize("code", FAULTS.values(), ids=list(FAULTS))
def test_a_transform_that_fails_is_one_fault_and_charged_as_answers(
    make: Callable[..., BlackBox], export: str, code: str
) -> None:
    box = make(**{export: code})
    with pytest.raises(FaultError) as error:
        box.answer(np.concatenate([row(0), row(1)]))
    assert error.value.fault is Fault.NOT_ANSWERED
    assert box.budget.used == box.monitor.state.uses["answer"] == 2


def test_an_endless_transform_is_the_same_fault(
    make: Callable[..., BlackBox], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make(transform_input=LOOP)
    assert box.transformer is not None
    box.transformer.wait()
    monkeypatch.setattr(box.monitor, "policy", replace(PATIENT, serving=POLICY.serving))
    with pytest.raises(FaultError) as error:
        box.answer(row(0))
    assert error.value.fault is Fault.NOT_ANSWERED


def test_what_is_told_of_a_failure_is_a_function_of_what_was_released(make: Callable[..., BlackBox]) -> None:
    failing, zero = make(transform_output=TRAP), make(transform_output=scaled(0))
    for box in (failing, zero):
        with pytest.raises(FaultError) as error:
            box.answer(row(0))
        assert error.value.fault is Fault.NOT_ANSWERED


@dataclass
class Scripted:
    """A transformer that takes a given time on a clock of its own, and may fail."""

    took_s: float
    fails: bool
    exports: frozenset[str] = frozenset({INPUT, OUTPUT})
    now: float = 100.0
    running: int = 0
    most: int = 0
    gate: threading.Lock = field(default_factory=threading.Lock)

    def apply(self, export: str, rows: Float32Array, **_: object) -> Float32Array:
        with self.gate:
            self.running += 1
            self.most = max(self.most, self.running)
        self.now += self.took_s
        with self.gate:
            self.running -= 1
        if self.fails:
            raise TransformError(export)
        return rows

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("took_s", [0.0, 0.001, SLOT_MS / 2000, SLOT_MS / 1000])
def test_a_transforms_slot_ends_on_time_whatever_the_guest_does(
    make: Callable[..., BlackBox],
    monkeypatch: pytest.MonkeyPatch,
    took_s: float,
    fails: bool,  # noqa: FBT001
) -> None:
    box, scripted = make(), Scripted(took_s, fails)
    box.transformer = cast("Transformer", scripted)
    monkeypatch.setattr(blackbox, "time", scripted)
    box._predict(row(0))
    assert scripted.now == pytest.approx(100 + 2 * SLOT_MS / 1000)


def test_requests_at_once_have_a_whole_slot_each(make: Callable[..., BlackBox]) -> None:
    box, scripted = make(), Scripted(0.0, fails=False)
    box.transformer = cast("Transformer", scripted)
    threads = [threading.Thread(target=box.answer, args=(row(0),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scripted.most == 1
    assert box.budget.used == 8


# Through the query enclave


@dataclass(frozen=True, slots=True)
class Service:
    """A query enclave that was handed a model with transforms."""

    folder: Path
    node: QueryNode
    address: tuple[str, int]

    def hand_over(self, **exports: str) -> BlackBox:
        guest = transforming(exports)
        carried = Transforms(guest, b"", tuple(exports))
        model = Model(linear(VALUES, CLASSES), WEIGHTS.ravel(), carried)
        path = self.folder / "model"
        path.write_bytes(
            seal_model(model, key=KEYS["model_key"], job=JOB, header=HEADER, room=carried_bytes(len(guest)))
        )
        message = {
            "do": "serve", "offer": offer().as_dict(), "state": state_to_dict(serving_state()),
            "model": str(path), "budget": str(self.folder / "budget"), **KEYS,
        }  # fmt: skip
        lead = new_node(Role.LEAD, make_attester(self.folder))
        with lead.dial(self.address, Role.QUERY) as channel:
            send_map(channel, message)
            assert receive_map(channel) == {"ready": True}
        box = self.node.models[JOB]
        box.monitor.policy = PATIENT
        return box

    def infer(self, rows: Float32Array) -> tuple[bytes, bytes]:
        """Return head and body of an answer as they were on the wire."""
        body = json.dumps({"inputs": [{"shape": list(rows.shape), "data": rows.ravel().tolist()}]}).encode()
        reference = make_attester(self.folder).own_reference()
        with connect(self.address, identity=None, reference=reference, timeout_s=5) as channel:
            signature = sign_request(USER, channel.exporter, b"").hex()
            key = USER.public_key().public_bytes_raw().hex()
            head = (
                f"POST /v2/models/{JOB}/infer HTTP/1.1\r\nhost: chiron\r\ncontent-length: {len(body)}\r\n"
                f"authorization: Chiron {key}:{signature}\r\n\r\n"
            )
            channel.send(head.encode() + body)
            raw = b""
            while b"\r\n\r\n" not in raw:
                raw += channel.recv(1 << 16)
            start, _, rest = raw.partition(b"\r\n\r\n")
            return start, rest + channel.recv_exactly(POLICY.serving.answer_bytes - len(rest))


@pytest.fixture
def service(tmp_path: Path, unslept: list[float]) -> Iterator[Service]:  # noqa: ARG001
    node = QueryNode(new_node(Role.QUERY, make_attester(tmp_path)))
    with listening(node.node, node.handle, anonymous=True) as address:
        yield Service(tmp_path, node, address)
    for box in node.models.values():
        if box.transformer is not None:
            box.transformer.close()


def test_a_sealed_model_is_served_with_its_transforms(service: Service) -> None:
    service.hand_over(transform_input=scaled(3), transform_output=scaled(0.5))
    head, body = service.infer(row(1))
    assert head.startswith(b"HTTP/1.1 200")
    assert [output["data"] for output in json.loads(body)["outputs"]] == [[1], [0.498]]


def test_a_fault_has_the_size_and_head_of_an_answer_but_for_the_status(service: Service) -> None:
    service.hand_over(transform_output=scaled(1))
    good = service.infer(row(1))
    service.hand_over(transform_output=TRAP)
    bad = service.infer(row(1))
    assert len(good[1]) == len(bad[1]) == POLICY.serving.answer_bytes
    assert bad[0].replace(b"500", b"200") == good[0]
    assert json.loads(bad[1]) == {"error": Fault.NOT_ANSWERED.text}


def test_a_model_that_is_handed_over_again_ends_the_older_guest(service: Service) -> None:
    older = service.hand_over(transform_input=scaled(1)).transformer
    service.hand_over(transform_input=scaled(1))
    assert older is not None
    assert older._process is not None
    assert older._process._child.poll() is not None
