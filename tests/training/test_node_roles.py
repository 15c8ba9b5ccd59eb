"""Who may talk to whom: a node serves, obeys and dials attested peers in the right roles alone."""

from __future__ import annotations

import dataclasses
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from deployments import POLICY, Events, listening, make_attester, node_of
from scripted import ScriptedChannel

from chiron.policy.types import PolicyDigest
from chiron.training import worker
from chiron.training.errors import TrainingError
from chiron.training.node import Role, make_node, peer_role
from chiron.training.server import ServerNode
from chiron.training.wire import canonical
from enclave import ChannelError, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
