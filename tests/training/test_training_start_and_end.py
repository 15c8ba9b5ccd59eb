"""How training starts and ends between lead, server and workers, whoever fails or is gone."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import pytest
from agreed import DATASET, HEADER, JOB, KEY, SIGNER, network, offer
from deployments import POLICY, node_of
from scripted import ScriptedChannel

from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.transforms import Transforms
from chiron.policy import kernel
from chiron.training import exchange, server, worker
from chiron.training.errors import TrainingError
from chiron.training.exchange import Team, train
from chiron.training.node import Role
from chiron.training.server import ServerNode
from chiron.training.submission import Kind, draft_manifest, write_submission
from chiron.training.wire import pad, parse_map, unpad
from enclave import ChannelError, generate_hpke_key
from paramserver import DeferredFaultError, ExchangeError

if TYPE_CHECKING:
    from pathlib import Path

ROOM = 4096  # for transforms
STATE = kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={})


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


def test_an_enclave_that_is_not_ready_ends_the_job() -> None:
    with pytest.raises(TrainingError, match="not ready"):
        exchange._ask_ready(ScriptedChannel(Role.SERVER, {"ready": False}).as_channel, {"do": "prepare"})


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
