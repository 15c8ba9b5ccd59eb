"""The parts of training: padding, sealed models, batches, results, and who may talk to whom."""

from __future__ import annotations

import dataclasses
import io
import math
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import (
    CLASSES,
    POLICY,
    VALUES,
    Events,
    compiled,
    content_of,
    listening,
    make_attester,
    new_node,
    small_dataset,
)
from graphs import linear
from guests import guest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedChannel

from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.dataset import as_float, make_dataset
from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.plan import OPTIMISERS, PLAN, SCHEDULES, Plan, parse_plan
from chiron.guest_api.process import GuestProcess
from chiron.guest_api.statistics import Statistics
from chiron.guest_api.transforms import Transforms
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header, size_class
from chiron.policy.loader import spec_folder
from chiron.policy.types import Content, PolicyDigest
from chiron.training import exchange, server, worker
from chiron.training.agreement import Offer, make_offer, sign_request
from chiron.training.batches import batches_of
from chiron.training.create import Network, admit_graph, admit_network, configure, create
from chiron.training.errors import REMEDIES, Code, TrainingError
from chiron.training.exchange import Cell, Team, Trained, parse_plan_message, train
from chiron.training.inputs import Inputs
from chiron.training.job import JobRun
from chiron.training.lead import Lead
from chiron.training.node import Node, Role, make_node, peer_role
from chiron.training.results import LOSS_TOP, Result, evaluate, quantise, quantise_loss
from chiron.training.sealed import Model, graph_message_bytes, seal_model, unseal_model
from chiron.training.server import ServerNode
from chiron.training.submission import JobId, Kind, PartyKey, draft_manifest, write_submission
from chiron.training.wire import canonical, pad, parse_map, unpad
from enclave import ChannelError, SealError, connect, generate_hpke_key
from paramserver import DeferredFaultError, ExchangeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = JobId("0" * 32)
HEADER = Header(1, 16, 1, 4096, 5, 1000)
KEY = bytes(32)
ROOM = 4096  # for transforms
DATASET = small_dataset()
STATE = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PARTY = PartyKey(SIGNER.public_key().public_bytes_raw())


def offer(header: Header = HEADER) -> Offer:
    manifest = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    dataset = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=DATASET.schema)
    return make_offer(POLICY, manifest, dataset=dataset, header=header, spent={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def node_of(role: Role, folder: Path, events: Events | None = None) -> Node:
    return new_node(role, make_attester(folder), events or Events())


# Padding and maps


@given(content=st.binary(max_size=100), room=st.integers(0, 50))
def test_what_is_padded_comes_back_in_one_size(content: bytes, room: int) -> None:
    message = pad(content, len(content) + 8 + room)
    assert len(message) == len(content) + 8 + room
    assert unpad(message) == content


def test_content_over_the_size_does_not_fit() -> None:
    with pytest.raises(TrainingError, match="11 bytes do not fit a message of 10"):
        pad(bytes(11), 18)


@given(st.binary(max_size=40))
def test_any_bytes_unpad_to_a_part_of_themselves_or_are_refused(raw: bytes) -> None:
    try:
        content = unpad(raw)
    except TrainingError:
        return
    assert raw[8 : 8 + len(content)] == content


@pytest.mark.parametrize("raw", [b"", bytes(7), b"\x01" + bytes(7), b"\xff" * 20])
def test_a_padded_message_that_does_not_hold_its_length_is_refused(raw: bytes) -> None:
    with pytest.raises(TrainingError):
        unpad(raw)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_map_with_text_keys_or_refused(raw: bytes) -> None:
    try:
        message = parse_map(raw)
    except TrainingError:
        return
    assert all(isinstance(name, str) for name in message)


@pytest.mark.parametrize("value", [[1], "text", 5, None, {1: 2}, {b"a": 1}])
def test_other_cbor_is_no_message(value: object) -> None:
    with pytest.raises(TrainingError, match="not a map with text keys"):
        parse_map(cbor2.dumps(value))


# The sealed model


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


# Batches


def rows_of(step: int, *, rows: int, header: Header, seed: int, index: int) -> list[int]:
    """Return which rows a worker takes at a step, by numbering them."""
    values = np.arange(rows, dtype=np.float32)[:, np.newaxis]
    data = make_dataset(values, np.arange(rows) % 2, held_out=(values[:1], np.arange(1)), classes=2)
    x, y = batches_of(data, header, seed=seed, index=index)(step)
    assert (x.dtype.name, x.shape) == ("float32", (header.batch, 1))
    assert (y.dtype.name, y.shape) == ("int64", (header.batch,))
    chosen = x[:, 0].astype(int).tolist()
    assert (y == np.array(chosen) % 2).all()
    return list(chosen)


@given(rows=st.integers(1, 300), workers=st.sampled_from([1, 2]), seed=st.integers(0, (1 << 64) - 1))
@settings(max_examples=40, deadline=None)
def test_a_pass_takes_every_row_once_and_fills_its_places_with_other_rows(
    rows: int, workers: int, seed: int
) -> None:
    header = dataclasses.replace(HEADER, workers=workers)
    places = size_class(rows)  # one chunk
    stream: list[int] = []
    for step in range(2 * math.ceil(places / (16 * workers))):
        for index in range(workers):
            stream += rows_of(step, rows=rows, header=header, seed=seed, index=index)
    for a_pass in (stream[:places], stream[places : 2 * places]):
        assert sorted(a_pass[:rows]) == list(range(rows))
        assert len(set(a_pass[rows:])) == places - rows


def test_the_stream_is_the_same_for_a_seed_and_another_for_another() -> None:
    def stream(seed: int) -> list[int]:
        return [r for step in range(4) for r in rows_of(step, rows=100, header=HEADER, seed=seed, index=0)]

    assert stream(7) == stream(7)
    assert stream(7) != stream(8)


def test_two_epochs_have_another_order() -> None:
    header = dataclasses.replace(HEADER, batch=64)
    first, second = (rows_of(step, rows=64, header=header, seed=7, index=0) for step in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_step_computed_again_takes_the_same_rows() -> None:
    batches = batches_of(DATASET, HEADER, seed=7, index=0)
    first = batches(3)[0]
    for step in (9, 3, 30):
        batches(step)
    assert np.array_equal(batches(3)[0], first)


# Results


@pytest.mark.parametrize(
    ("loss", "released"),
    [
        (0.0, 0), (-0.0, 0), (-3.0, 0), (1 / 32, 1), (0.5, 16), (7.96875, 255), (7.98, 255), (1e308, 255),
        (math.nan, LOSS_TOP), (math.inf, LOSS_TOP), (-math.inf, LOSS_TOP),
    ],
)  # fmt: skip
def test_a_loss_is_released_in_eight_bits(loss: float, released: int) -> None:
    assert quantise_loss(loss) == released


@given(losses=st.lists(st.floats(), max_size=12), epochs=st.sampled_from([1, 2, 3, 5, 10]))
def test_always_as_many_losses_as_epochs_are_released(losses: list[float], epochs: int) -> None:
    quantised = quantise(Result(None, 0.0, tuple(losses)), epochs=epochs)
    assert len(quantised.losses) == epochs
    assert all(0 <= loss <= LOSS_TOP for loss in quantised.losses)
    assert quantised.losses[len(losses) :] == (LOSS_TOP,) * max(0, epochs - len(losses))


def test_outcome_and_accuracy_are_released_once() -> None:
    assert quantise(Result(model(), 0.9876, ()), epochs=1).trusted == {"outcome": 1, "accuracy": 988}
    assert quantise(Result(None, 0.0, ()), epochs=1).trusted == {"outcome": 0, "accuracy": 0}


def network() -> Network:
    graph = linear(VALUES, CLASSES)
    plan = Plan("sgd", 0.1, 0.0, 0.0, "constant", 0)
    return Network(graph, admit_graph(graph, HEADER, DATASET.schema), plan)


def trained(*, complete: bool = True) -> Trained:
    parameters = np.zeros(HEADER.parameters, np.float32)
    weights = np.zeros((VALUES, CLASSES), np.float32)
    weights[np.arange(CLASSES), np.arange(CLASSES)] = 1
    parameters[: weights.size] = weights.ravel()
    return Trained(parameters, (0.5,), complete=complete)


def test_a_trained_network_is_measured_on_the_held_out_rows() -> None:
    result = evaluate(network(), trained(), DATASET)
    expected = np.argmax(as_float(DATASET.held_out_rows)[:, :CLASSES], axis=1) == DATASET.held_out_targets
    assert result.accuracy == expected.mean()
    assert result.losses == (0.5,)


def test_an_incomplete_training_has_no_model_whatever_there_is() -> None:
    nothing = Result(None, 0.0, ())
    assert evaluate(None, trained(), DATASET) == nothing
    assert evaluate(network(), trained(complete=False), DATASET) == nothing


def test_parameters_of_another_count_give_no_model() -> None:
    short = dataclasses.replace(trained(), parameters=np.zeros(3, np.float32))
    assert evaluate(network(), short, DATASET) == Result(None, 0.0, ())


# Plans and graphs


PLANS = st.builds(
    Plan,
    optimiser=st.sampled_from(OPTIMISERS),
    learning_rate=st.floats(0, 10, exclude_min=True, width=32),
    momentum=st.floats(0, 1, exclude_max=True, width=32),
    weight_decay=st.floats(0, 1, width=32),
    schedule=st.sampled_from(SCHEDULES),
    warmup_steps=st.integers(0, (1 << 32) - 1),
)


@given(plan=PLANS, steps=st.integers(1, 1000))
def test_every_plan_that_is_admitted_builds_an_optimiser_that_steps(plan: Plan, steps: int) -> None:
    fields = (
        1, OPTIMISERS.index(plan.optimiser), plan.learning_rate, plan.momentum, plan.weight_decay,
        SCHEDULES.index(plan.schedule), plan.warmup_steps, 0,
    )  # fmt: skip
    admitted = parse_plan(PLAN.pack(*fields))
    assert admitted == plan
    assert parse_plan_message(pad(canonical(exchange._of_server(plan)), 256)) == plan
    optimiser = server._optimiser(plan, 4, steps=steps)
    parameters = np.ones(4, np.float32)
    optimiser.apply(parameters, np.ones(4, np.float32), step=0)
    assert np.isfinite(parameters).all()


def test_without_a_plan_there_is_an_optimiser_that_changes_nothing() -> None:
    assert parse_plan_message(pad(b"", 256)) is None
    parameters = np.ones(4, np.float32)
    server._optimiser(None, 4, steps=1).apply(parameters, np.ones(4, np.float32), step=0)
    assert parameters.tolist() == [1, 1, 1, 1]


def creating(**sinks: bytes) -> Monitor:
    state = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})
    written = {name: Content.of(data) for name, data in sinks.items()}
    number = encode_header(POLICY.menus, HEADER)
    return Monitor(
        POLICY, dataclasses.replace(state, phase="Create", header=number, sinks={**state.sinks, **written})
    )


GOOD_PLAN = PLAN.pack(1, 0, 0.1, 0, 0, 0, 0, 0)


def test_a_graph_with_a_plan_is_a_network() -> None:
    monitor = creating(graph=linear(VALUES, CLASSES), plan=GOOD_PLAN)
    assert admit_network(monitor, HEADER, DATASET.schema).admitted.parameter_count == VALUES * CLASSES


@pytest.mark.parametrize(
    ("sinks", "words"),
    [
        ({"graph": linear(VALUES, CLASSES)}, "exactly once"),
        ({"graph": linear(VALUES, CLASSES), "plan": GOOD_PLAN * 2}, "exactly once"),
        ({"graph": bytes(graph_message_bytes(HEADER)), "plan": GOOD_PLAN}, "declare more parameters"),
    ],
)
def test_a_missing_plan_or_a_graph_over_its_room_is_refused(sinks: dict[str, bytes], words: str) -> None:
    with pytest.raises(GuestApiError, match=words):
        admit_network(creating(**sinks), HEADER, DATASET.schema)


def test_create_without_a_header_is_an_error(folder: Path) -> None:
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=1, spent={}))
    with pytest.raises(GuestApiError, match="after a header"):
        create(node_of(Role.LEAD, folder), None, monitor, guest=None)  # type: ignore[arg-type]


# Who may talk to whom


def test_a_party_has_no_role_and_an_enclave_its_own() -> None:
    assert peer_role(ScriptedChannel(None).as_channel) is None
    assert peer_role(ScriptedChannel(Role.WORKER).as_channel) is Role.WORKER


@pytest.mark.parametrize("role", [None, *sorted(set(Role) - {Role.LEAD})])
def test_a_worker_obeys_the_lead_alone(role: Role | None, folder: Path) -> None:
    channel = ScriptedChannel(role, {"do": "prepare"})
    with pytest.raises(TrainingError, match="only the lead"):
        worker.handle(node_of(Role.WORKER, folder), channel.as_channel)
    assert channel.sent == []


@pytest.mark.parametrize(
    ("role", "ask"),
    [
        (None, "prepare"),
        (Role.QUERY, "prepare"),
        (Role.WORKER, "prepare"),
        (Role.LEAD, "join"),
        (None, "join"),
    ],
)
def test_a_server_talks_to_the_lead_and_workers_alone(role: Role | None, ask: str, folder: Path) -> None:
    channel = ScriptedChannel(role, {"do": ask})
    with pytest.raises(TrainingError, match="only the lead and its workers"):
        ServerNode(node_of(Role.SERVER, folder)).handle(channel.as_channel)
    assert channel.sent == []


def test_a_worker_refuses_another_data_set_than_the_approved_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    draft = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=DATASET.schema)
    raw = encode_dataset(DATASET)
    with path.open("w+b") as sink:
        write_submission(
            sink,
            io.BytesIO(raw),
            draft=draft,
            signer=SIGNER,
            recipient=generate_hpke_key().public_bytes,
            padded_bytes=len(raw),
        )
    with (
        pytest.raises(TrainingError, match="another data set"),
        worker.opened_chunks(offer(), path, key=KEY),
    ):
        pass


def test_a_lead_learns_that_the_exchange_was_lost() -> None:
    channel = ScriptedChannel(Role.SERVER, {"lost": "worker 0"})
    with pytest.raises(TrainingError, match="the exchange ended early: worker 0"):
        train(
            Team(channel.as_channel, ()), offer(), None, transforms=None, transforms_bytes=ROOM, state=STATE
        )


def test_training_does_not_start_before_every_worker_listens() -> None:
    helpers = [ScriptedChannel(Role.WORKER, {"listening": True}), ScriptedChannel(Role.WORKER, {"else": 1})]
    server = ScriptedChannel(Role.SERVER)
    team = Team(server.as_channel, tuple(helper.as_channel for helper in helpers))
    with pytest.raises(TrainingError, match="could not prepare"):
        train(team, offer(), None, transforms=None, transforms_bytes=ROOM, state=STATE)
    assert server.sent == []


def test_the_messages_that_start_training_have_one_size_with_and_without_a_network() -> None:
    sizes = []
    transforms = Transforms(bytes(500), b"notes", ("augment",))
    for net, carried in ((network(), None), (network(), transforms), (None, None), (None, transforms)):
        helper, lost = (
            ScriptedChannel(Role.WORKER, {"listening": True}),
            ScriptedChannel(Role.SERVER, {"lost": ""}),
        )
        with pytest.raises(TrainingError):
            train(
                Team(lost.as_channel, (helper.as_channel,)),
                offer(),
                net,
                transforms=carried,
                transforms_bytes=ROOM,
                state=STATE,
            )
        sizes.append([len(raw) for raw in (*helper.sent, *lost.sent)])
    assert sizes == [sizes[0]] * 4


# The lead's door


@pytest.fixture
def lead(folder: Path) -> Lead:
    cell = Cell((), ("127.0.0.1", 1), ("127.0.0.1", 1), folder)
    lead = Lead(node_of(Role.LEAD, folder), cell)
    lead.jobs[JOB] = JobRun(lead.node, cell, JOB, lead.ledgers, parties=(PARTY, PARTY))
    return lead


def asked(lead: Lead, *requests: bytes | dict[str, object]) -> list[dict[str, object]]:
    channel = ScriptedChannel(None, *requests)
    lead.handle(channel.as_channel)
    return list(channel.messages())


def signed(body: object, *, exporter: bytes = b"e" * 32) -> dict[str, object]:
    return {"party": PARTY, "body": body, "signature": sign_request(SIGNER, exporter, canonical(body))}


def test_a_party_is_answered_what_is_its_own_and_no_more(lead: Lead) -> None:
    other = PartyKey(bytes(32))
    for question in ("log", "metrics"):
        lead.jobs[JOB].parties = (PARTY, other)
        assert asked(lead, signed({"ask": question, "job": JOB}))[0].get("error") != Code.BAD_REQUEST.value
        lead.jobs[JOB].parties = (other, PARTY)
        (answer,) = asked(lead, signed({"ask": question, "job": JOB}))
        assert answer["error"] == Code.BAD_REQUEST.value


def test_a_request_signed_for_another_connection_is_refused(lead: Lead) -> None:
    body = {"ask": "offer", "job": JOB}
    assert asked(lead, signed(body, exporter=b"f" * 32)) == [{"error": Code.NOT_A_PARTY.value}]
    assert asked(lead, signed(body)) == [{"error": Code.TOO_EARLY.value}]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"party": PARTY, "body": {}},
        {"party": PARTY, "body": {}, "signature": b""},
        {"party": 5, "body": {}, "signature": b""},
        signed({}),
        signed([]),
        signed("text"),
        signed({"job": [JOB], "ask": "offer"}),
        signed({"job": JOB}),
        signed({"job": JOB, "ask": ["offer"]}),
        signed({"job": JOB, "ask": "surprise"}),
    ],
)
def test_a_request_of_another_form_is_answered_with_a_code(lead: Lead, request_: dict[str, object]) -> None:
    (answer,) = asked(lead, request_)
    assert answer["error"] in {Code.BAD_REQUEST.value, Code.NOT_A_PARTY.value}


def test_a_body_that_refers_to_itself_is_answered_with_a_code(lead: Lead) -> None:
    body: dict[str, object] = {"job": JOB}
    body["self"] = body
    raw = cbor2.dumps({"party": PARTY, "body": body, "signature": b""}, value_sharing=True)
    assert [answer.keys() for answer in asked(lead, raw)] == [{"error"}]


@given(raw=st.binary(max_size=60))
@settings(deadline=None, max_examples=50)
def test_any_bytes_end_the_connection_or_get_a_code(raw: bytes, folder: Path) -> None:
    lead = Lead(_NODE.setdefault("lead", node_of(Role.LEAD, folder)), Cell((), ("", 1), ("", 1), folder))
    assert all(set(answer) == {"error"} for answer in asked(lead, raw))


_NODE: dict[str, Node] = {}


def test_every_code_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Code)


def test_a_job_goes_on_once_both_parties_approved(lead: Lead) -> None:
    other = PartyKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    run = JobRun(lead.node, lead.cell, JOB, lead.ledgers, parties=(PARTY, other))
    run.approve(PARTY, b"1")
    run.approve(PARTY, b"2")
    assert not run.decided.is_set()
    run.approve(other, b"3")
    assert run.decided.is_set()
    assert not run.refused


# Connections


@pytest.fixture
def worker_door(folder: Path) -> Iterator[tuple[tuple[str, int], Events]]:
    events = Events()
    node = node_of(Role.WORKER, folder, events)
    with listening(node, lambda channel: worker.handle(node, channel), anonymous=False) as address:
        yield address, events


def test_a_peer_without_evidence_is_rejected_by_a_worker(
    worker_door: tuple[tuple[str, int], Events], folder: Path
) -> None:
    address, events = worker_door
    with pytest.raises(ChannelError):
        connect(address, identity=None, reference=make_attester(folder).own_reference(), timeout_s=5)
    assert events.wait_for(event="rejected") == {"event": "rejected", "role": "worker"}


def test_an_enclave_of_another_role_is_dropped_by_a_worker_without_a_word(
    worker_door: tuple[tuple[str, int], Events], folder: Path
) -> None:
    address, events = worker_door
    with node_of(Role.QUERY, folder).dial(address, Role.WORKER) as channel:
        channel.send_message(canonical({"do": "prepare"}))
        assert channel.recv(1) == b""
    assert events.wait_for(event="dropped") == {"event": "dropped", "role": "worker"}


def test_a_node_does_not_talk_to_another_role_than_it_dialled(
    worker_door: tuple[tuple[str, int], Events], folder: Path
) -> None:
    with pytest.raises(ChannelError):
        node_of(Role.LEAD, folder).dial(worker_door[0], Role.SERVER)


def test_nodes_under_two_policies_do_not_meet(
    worker_door: tuple[tuple[str, int], Events], folder: Path
) -> None:
    other = dataclasses.replace(POLICY, digest=PolicyDigest("00" * 32))
    lead = make_node(Role.LEAD, other, policy_bytes=b"", attester=make_attester(folder), emit=lambda _: None)
    with pytest.raises(ChannelError):
        lead.dial(worker_door[0], Role.WORKER)


def test_garbage_on_the_wire_is_rejected_and_the_next_peer_served(
    worker_door: tuple[tuple[str, int], Events], folder: Path
) -> None:
    address, events = worker_door
    with socket.create_connection(address) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.settimeout(5)
        while raw.recv(1000):
            pass
    events.wait_for(event="rejected")
    with node_of(Role.LEAD, folder).dial(address, Role.WORKER):
        assert threading.active_count() >= 2
    events.wait_for(event="dropped")


# What the lead and the server do when a part of the deployment fails


def inputs_of(binary: bytes) -> Inputs:
    guest_manifest = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    manifest = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=DATASET.schema)
    statistics, content = Statistics.of(DATASET), content_of(DATASET)
    return Inputs(
        guest_manifest, manifest, DATASET.schema, bytes(8), binary, DATASET, encode_dataset(DATASET), KEY,
        spec_folder(), statistics, content,
    )  # fmt: skip


def test_a_guest_that_the_sandbox_refuses_declares_no_header_and_its_operator_reads_why(folder: Path) -> None:
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={}))
    log, _ = configure(node_of(Role.LEAD, folder), inputs_of(b"MZ"), monitor)
    assert log.startswith("refused: ")
    assert monitor.header is None
    assert monitor.state.phase == "Ended"


def test_the_guests_process_ends_at_half_slot_also_where_the_guest_is_done_before(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    ended: list[float] = []
    close = GuestProcess.close

    def noted(process: GuestProcess) -> None:
        close(process)
        ended.append(time.monotonic())

    monkeypatch.setattr(GuestProcess, "close", noted)
    binary, began = guest(), time.monotonic()
    create(node_of(Role.LEAD, folder), inputs_of(binary), creating(), guest=compiled(binary))
    assert ended[-1] - began >= HEADER.create_ms / 2000


@pytest.mark.parametrize("graph", [linear(VALUES, CLASSES), b"no graph", b""])
def test_creating_takes_the_whole_slot_whatever_comes_of_it(folder: Path, graph: bytes) -> None:
    monitor, began = creating(), time.monotonic()
    binary = guest(graph=graph)
    network, _ = create(node_of(Role.LEAD, folder), inputs_of(binary), monitor, guest=compiled(binary))
    assert time.monotonic() - began >= HEADER.create_ms / 1000
    assert (network is not None) == (len(graph) > 100)


def prepared(monkeypatch: pytest.MonkeyPatch, folder: Path, failure: Exception) -> list[bytes]:
    """Return what the lead is sent by a server whose exchange fails so."""

    def failing(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(server, "serve", failing)
    node = ServerNode(node_of(Role.SERVER, folder))
    helper = threading.Thread(
        target=node.handle,
        args=(ScriptedChannel(Role.WORKER, {"do": "join", "job": JOB, "index": 0}).as_channel,),
    )
    helper.start()
    plan, parameters = pad(b"", 256), pad(b"", 4 * HEADER.parameters + 8)
    lead = ScriptedChannel(Role.LEAD, {"do": "prepare", "offer": offer().as_dict()}, plan, parameters)
    node.handle(lead.as_channel)
    helper.join()
    assert node.joined == {}
    return lead.sent


def test_a_lost_worker_is_told_to_the_lead(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sent = prepared(monkeypatch, folder, ExchangeError(worker=0, slot=3, slots=9))
    assert set(parse_map(sent[-1])) == {"lost"}


def test_a_failed_optimiser_gives_a_result_of_the_usual_size_that_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    sent = prepared(monkeypatch, folder, DeferredFaultError("optimiser", step=0, detail="see the cause"))
    assert parse_map(sent[-2]) == {"done": True}
    assert len(sent[-1]) == 4096 + 4 * HEADER.parameters + 8
    assert parse_map(unpad(sent[-1][:4096])) == {"losses": [], "complete": False}


def test_a_worker_that_does_not_join_ends_the_job(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.01)
    with pytest.raises(TrainingError, match="did not join"):
        ServerNode(node_of(Role.SERVER, folder))._workers(offer())


def test_a_server_whose_lead_is_gone_ends_the_job() -> None:
    class Gone(ScriptedChannel):
        def send(self, data: bytes) -> None:
            raise ChannelError(f"{len(data)} bytes for nobody")

    with pytest.raises(TrainingError, match="lead was gone"):
        server._send_result(Gone(Role.LEAD).as_channel, offer(), None)


def test_an_enclave_that_is_not_ready_ends_the_job() -> None:
    with pytest.raises(TrainingError, match="not ready"):
        exchange._ask_ready(ScriptedChannel(Role.SERVER, {"ready": False}).as_channel, {"do": "prepare"})


def test_an_unexpected_end_of_a_job_is_the_platforms_fault(folder: Path) -> None:
    events = Events()
    node = node_of(Role.LEAD, folder, events)
    lead = Lead(node, Cell((), ("127.0.0.1", 1), ("127.0.0.1", 1), folder))
    lead.attach(JOB, guest=str(folder / "nothing"), dataset=str(folder / "nothing"))
    assert events.wait_for_end(JOB)["reason"] == kernel.StopReason.PLATFORM_FAULT.name
