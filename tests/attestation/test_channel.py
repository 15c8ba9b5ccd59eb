"""The attested channel over real sockets, between enclaves and parties, and impostors."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from enclave import (
    AppraisalError,
    Channel,
    ChannelError,
    Identity,
    Measurement,
    SimulatedAttester,
    accept,
    connect,
    make_identity,
)
from enclave.identity import EVIDENCE_OID, PUBKEY_HASH, pubkey_statement

if TYPE_CHECKING:
    from pathlib import Path

    from world import World

TIMEOUT_S = 5.0


def test_two_enclaves_know_each_other_and_share_an_exporter_that_is_new_each_time(world: World) -> None:
    exporters = set()
    for _ in range(2):
        client, server = world.opened(world.meet(client=world.worker, expect={"role": b"lead"}))
        with client, server:
            assert client.peer is not None
            assert server.peer is not None
            assert (client.peer.statements["role"], server.peer.statements["role"]) == (b"lead", b"worker")
            assert client.exporter == server.exporter
            exporters.add(client.exporter)
    assert len(exporters) == 2


def test_a_party_without_evidence_is_served_where_that_is_allowed_and_refused_elsewhere(world: World) -> None:
    client, server = world.opened(world.meet(client=None, anonymous=True))
    with client, server:
        assert server.peer is None
    world.refused(world.meet(client=None, anonymous=False), 1, "peer did not return a certificate")


def test_messages_of_every_size_arrive_whole_in_both_directions_at_once(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    sizes = [0, 1, 16383, 16384, 16385, 3_000_000]
    received: list[bytes] = []
    with client, server:
        echo = threading.Thread(target=echo_all, args=(server, len(sizes)))
        reader = threading.Thread(target=lambda: received.extend(client.recv_message() for _ in sizes))
        echo.start()
        reader.start()
        for size in sizes:
            client.send_message(bytes([size % 251]) * size)
        for thread in (echo, reader):
            thread.join(timeout=20)
    assert received == [bytes([size % 251]) * size for size in sizes]


def echo_all(channel: Channel, count: int) -> None:
    for _ in range(count):
        channel.send_message(channel.recv_message())


def test_a_peer_with_another_measurement_is_refused_by_either_side(world: World) -> None:
    other = replace(world.reference, measurement=Measurement("cd" * 32))
    world.refused(world.meet(client=world.worker, client_reference=other), 0, "step 4")
    ends = world.meet(client=world.worker, server_reference=other)
    world.refused(ends, 1, "step 4")
    world.refused(ends, 0, "the peer refuses this end")  # it learns that it was refused, and where to look
    assert isinstance(ends[1], Exception)
    assert isinstance(ends[1].__cause__, AppraisalError)


def test_a_server_in_another_role_is_refused(world: World) -> None:
    world.refused(world.meet(client=world.worker, expect={"role": b"query"}), 0, "step 7")


def test_evidence_that_is_relayed_under_another_tls_key_is_refused(world: World) -> None:
    """A man in the middle shows the lead's certificate extension under a key of its own."""
    thief = make_identity(world.attester, {"role": b"lead"}, now=int(world.attester._now()))
    relayed = replace(thief, evidence=world.lead.evidence)
    forged = forge_certificate(relayed, world.lead)
    world.refused(world.meet(client=world.worker, server=forged), 0, "step 10")


def forge_certificate(thief: Identity, victim: Identity) -> Identity:

    stolen = victim.certificate.extensions.get_extension_for_oid(EVIDENCE_OID).value
    mine = thief.certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(mine.subject)
        .issuer_name(mine.issuer)
        .public_key(thief.key.public_key())
        .serial_number(mine.serial_number)
        .not_valid_before(mine.not_valid_before_utc)
        .not_valid_after(mine.not_valid_after_utc)
        .add_extension(stolen, critical=False)
        .sign(thief.key, hashes.SHA256())
    )
    return replace(thief, certificate=certificate)


class Replaying(SimulatedAttester):
    """An attester whose fresh quotes are all the first one."""

    first: bytes | None = None

    def attest(self, report_data: bytes) -> bytes:
        self.first = self.first or super().attest(report_data)
        return self.first


def test_fresh_evidence_that_is_replayed_from_before_is_refused(world: World, tmp_path: Path) -> None:
    attester = Replaying(tmp_path / "cpu", Measurement("ab" * 32))
    replayer = make_identity(attester, {"role": b"lead"}, now=int(attester._now()))
    client, server = world.meet(client=world.worker, server=replayer)
    assert isinstance(client, ChannelError)
    assert "step 5" in str(client)
    assert isinstance(server, Channel)  # it has no reason to complain; it meets the end of the connection
    assert server.recv(1) == b""
    server.close()


def test_a_stale_certificate_is_refused(world: World, tmp_path: Path) -> None:
    now = world.attester._now()
    old = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: now - 90_000)
    stale = make_identity(old, {"role": b"lead"}, now=int(now))
    world.refused(world.meet(client=world.worker, server=stale), 0, "step 9")


def test_a_certificate_without_evidence_is_refused(world: World) -> None:
    def serve(sock: socket.socket) -> None:

        mine = world.lead.certificate
        plain = (
            x509.CertificateBuilder()
            .subject_name(mine.subject)
            .issuer_name(mine.issuer)
            .public_key(world.lead.key.public_key())
            .serial_number(1)
            .not_valid_before(mine.not_valid_before_utc)
            .not_valid_after(mine.not_valid_after_utc)
            .sign(world.lead.key, hashes.SHA256())
        )
        accept(
            sock,
            identity=replace(world.lead, certificate=plain),
            reference=world.reference,
            allow_anonymous=True,
            timeout_s=TIMEOUT_S,
        )

    ends = world.both(
        serve,
        lambda address: connect(address, identity=None, reference=world.reference, timeout_s=TIMEOUT_S),
    )
    world.refused(ends, 0, "carries no Evidence")


def test_an_older_tls_is_refused(world: World) -> None:
    def dial(address: tuple[str, int]) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        with closing(socket.create_connection(address)) as sock:
            connection = SSL.Connection(context, sock)
            connection.set_connect_state()
            connection.do_handshake()

    def serve(sock: socket.socket) -> Channel:
        return accept(
            sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=TIMEOUT_S
        )

    refused_server = world.both(serve, dial)[1]
    assert isinstance(refused_server, ChannelError)
    assert "protocol" in str(refused_server)


def test_a_peer_that_says_nothing_is_dropped_when_the_time_is_up(world: World) -> None:
    done = threading.Event()

    def dial(address: tuple[str, int]) -> None:
        with closing(socket.create_connection(address)):
            done.wait(TIMEOUT_S)

    def serve(sock: socket.socket) -> Channel:
        try:
            return accept(
                sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=0.3
            )
        finally:
            done.set()

    assert "did not answer within 0.3 s" in str(world.both(serve, dial)[1])


def test_nobody_listening_is_a_channel_error_that_names_the_address(world: World) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = listener.getsockname()
    with pytest.raises(ChannelError, match=f"no enclave answers at 127.0.0.1:{address[1]}"):
        connect(address, identity=None, reference=world.reference, timeout_s=TIMEOUT_S)


def test_closing_wakes_a_receiver_and_the_peer_sees_the_end(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    seen: list[Any] = []
    waiting = threading.Thread(target=lambda: seen.append(world.attempt(lambda: client.recv(1))))
    waiting.start()
    server.close()
    waiting.join(timeout=TIMEOUT_S)
    assert seen == [b""]
    with pytest.raises(ChannelError):
        client.recv_exactly(1)
    client.close()
    with pytest.raises(ChannelError, match="closed"):
        client.send(b"x")


def test_a_message_over_the_limit_is_refused_before_it_is_read(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    with client, server:
        client.send_message(bytes(100))
        with pytest.raises(ChannelError, match="100 bytes is over the limit of 99"):
            server.recv_message(max_bytes=99)


def test_a_process_older_than_the_allowed_age_is_still_spoken_to(world: World, tmp_path: Path) -> None:
    clock = [world.attester._now() - 90_000]
    attester = SimulatedAttester(tmp_path / "cpu", Measurement("ab" * 32), now=lambda: clock[0])
    old = make_identity(attester, {"role": b"lead"}, now=int(clock[0]))
    clock[0] = world.attester._now()
    client, server = world.opened(world.meet(client=world.worker, server=old))
    with client, server:
        assert client.peer is not None
        assert client.peer.statements[PUBKEY_HASH] == pubkey_statement(old.key.public_key())
