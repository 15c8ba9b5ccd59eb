"""Clients that speak the channel's protocol themselves, and wrongly; time limits and endings."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
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
    Evidence,
    Identity,
    accept,
)
from enclave import channel as channel_module
from enclave.channel import EXPORTER_BYTES, EXPORTER_LABEL, EXPORTER_STATEMENT
from enclave.identity import EVIDENCE_OID
from enclave.verifier import NONCE

if TYPE_CHECKING:
    from world import World

TIMEOUT_S = 5.0
Speech = Callable[[bytes, bytes], bytes]  # the server's nonce and the exporter value to the client's Evidence


def speak(world: World, speech: Speech | None, *, shown: Identity | None, chain: bool = False) -> Exception:
    """Return the server's error when a client shows this certificate and then sends what `speech` says."""
    done = threading.Event()

    def dial(address: tuple[str, int]) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        if shown is not None:
            context.use_privatekey(shown.key)
            context.use_certificate(shown.certificate)
        if chain:
            context.add_extra_chain_cert(world.lead.certificate)
        with closing(socket.create_connection(address)) as sock:
            tls = SSL.Connection(context, sock)
            tls.set_connect_state()
            tls.do_handshake()
            nonce = receive(tls, 32)
            said = (
                b""
                if speech is None
                else speech(nonce, tls.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, b""))
            )
            tls.sendall(bytes(32) + len(said).to_bytes(4, "big") + said)
            done.wait(TIMEOUT_S)

    def serve(sock: socket.socket) -> Channel:
        try:
            return accept(
                sock,
                identity=world.lead,
                reference=world.reference,
                allow_anonymous=True,
                timeout_s=TIMEOUT_S,
            )
        finally:
            done.set()

    error = world.both(serve, dial)[1]
    assert isinstance(error, ChannelError), error
    return error


def receive(tls: SSL.Connection, size: int) -> bytes:
    out = b""
    while len(out) < size:
        out += tls.recv(size - len(out))
    return out


def test_a_client_with_a_certificate_must_show_fresh_evidence_too(world: World) -> None:
    error = speak(world, None, shown=world.worker)
    assert "a certificate without fresh Evidence" in str(error)


def test_a_client_without_a_certificate_cannot_show_evidence(world: World) -> None:
    def speech(nonce: bytes, exporter: bytes) -> bytes:
        return world.worker.fresh_evidence({NONCE: nonce, EXPORTER_STATEMENT: exporter}).to_bytes()

    assert "or the reverse" in str(speak(world, speech, shown=None))


def test_fresh_evidence_with_the_nonce_of_another_connection_is_refused(world: World) -> None:
    def speech(_: bytes, exporter: bytes) -> bytes:
        return world.worker.fresh_evidence({NONCE: bytes(32), EXPORTER_STATEMENT: exporter}).to_bytes()

    assert "step 8" in str(speak(world, speech, shown=world.worker))


def test_fresh_evidence_from_another_connection_with_this_ones_nonce_is_refused(world: World) -> None:
    """A man in the middle passes on the nonce, but cannot have both connections' exporter values be one."""

    def speech(nonce: bytes, _: bytes) -> bytes:
        return world.worker.fresh_evidence({NONCE: nonce, EXPORTER_STATEMENT: bytes(32)}).to_bytes()

    assert "does not state the required 'tls-exporter'" in str(speak(world, speech, shown=world.worker))


def test_fresh_evidence_for_another_enclaves_key_is_refused(world: World) -> None:
    def speech(nonce: bytes, exporter: bytes) -> bytes:
        return world.lead.fresh_evidence({NONCE: nonce, EXPORTER_STATEMENT: exporter}).to_bytes()

    assert "step 10" in str(speak(world, speech, shown=world.worker))


def test_fresh_evidence_without_a_nonce_is_refused_even_where_the_certificate_holds(world: World) -> None:
    def speech(_: bytes, exporter: bytes) -> bytes:
        return world.worker.fresh_evidence({EXPORTER_STATEMENT: exporter}).to_bytes()

    assert "step 8" in str(speak(world, speech, shown=world.worker))


@pytest.mark.parametrize("said", [b"\x80", b"\xff" * 100, bytes(1 << 16), b"x" * ((1 << 16) + 1)])
def test_bytes_that_are_no_evidence_are_refused(said: bytes, world: World) -> None:
    assert "no attested channel: Evidence" in str(speak(world, lambda *_: said, shown=world.worker))


def test_a_chain_of_certificates_is_refused(world: World) -> None:
    """The lead's certificate poses as the authority that issued the thief's, with the thief's own key."""
    mine, name = world.worker.certificate, world.lead.certificate.subject
    issued = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key(world.worker.key.public_key())
        .serial_number(mine.serial_number)
        .not_valid_before(mine.not_valid_before_utc)
        .not_valid_after(mine.not_valid_after_utc)
        .add_extension(mine.extensions.get_extension_for_oid(EVIDENCE_OID).value, critical=False)
        .sign(world.lead.key, hashes.SHA256())
    )
    leaf = replace(world.worker, certificate=issued)
    assert "a chain of certificates" in str(speak(world, None, shown=leaf, chain=True))


def test_a_fault_while_a_certificate_is_judged_refuses_the_peer_and_is_kept_as_the_cause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Evidence:
        raise ZeroDivisionError

    monkeypatch.setattr(channel_module, "evidence_in", broken)
    client, _ = world.meet(client=None, anonymous=True)
    assert isinstance(client, ChannelError)
    assert "cannot be read (ZeroDivisionError)" in str(client)
    assert isinstance(client.__cause__, AppraisalError)
    assert isinstance(client.__cause__.__cause__, ZeroDivisionError)


def test_simulated_evidence_does_not_pass_where_another_format_is_demanded(world: World) -> None:
    other = type("Format", (), {"value": "sgx-dcap"})()
    ends = world.meet(client=world.worker, client_reference=replace(world.reference, format=other))
    world.refused(ends, 0, "step 1 failed: the simulated Evidence")


# Time and endings


def test_a_peer_that_feeds_single_bytes_cannot_stretch_the_set_up(world: World) -> None:
    done = threading.Event()

    def dial(address: tuple[str, int]) -> None:
        with closing(socket.create_connection(address)) as sock:
            tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), sock)
            tls.set_connect_state()
            tls.do_handshake()
            for _ in range(32):
                tls.send(b"x")
                if done.wait(0.05):
                    return

    def serve(sock: socket.socket) -> Channel:
        try:
            return accept(
                sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=0.4
            )
        finally:
            done.set()

    assert "did not answer within 0.4 s" in str(world.both(serve, dial)[1])


def test_a_time_limit_bounds_a_whole_call_and_leaves_the_channel_usable(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    with client, server:
        client.set_timeout(0.1)
        with pytest.raises(ChannelError, match=r"within 0\.1 s"):
            client.recv(1)
        server.send(b"late")
        client.set_timeout(TIMEOUT_S)
        assert client.recv_exactly(4) == b"late"
        client.set_timeout(0.2)
        feeder = threading.Thread(target=feed, args=(server, stop := threading.Event()))
        feeder.start()
        with pytest.raises(ChannelError, match=r"within 0\.2 s"):
            client.recv_exactly(40)
        stop.set()
        feeder.join(timeout=TIMEOUT_S)


def feed(channel: Channel, stop: threading.Event) -> None:
    for _ in range(39):
        channel.send(b"x")
        if stop.wait(0.05):
            return


def test_sending_to_a_peer_that_does_not_read_ends_at_the_time_limit(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    with client, server:
        client.set_timeout(0.2)
        with pytest.raises(ChannelError, match=r"within 0\.2 s"):
            client.send(bytes(64 << 20))


def test_a_connection_that_is_cut_is_not_taken_for_one_that_ended(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    server.send(b"half of")
    server._transport._socket.shutdown(socket.SHUT_WR)  # the network ends it; the peer did not say so
    with client, server:
        assert client.recv_exactly(7) == b"half of"
        with pytest.raises(ChannelError, match="went away"):
            client.recv(1)


def test_closing_twice_leaves_the_next_connection_with_the_same_descriptor_alone(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    number = client._transport._socket.fileno()
    client.close()
    others = [socket.socketpair()]
    while number not in {each.fileno() for pair in others for each in pair}:
        others.append(socket.socketpair())
    (heir, far) = next(
        pair if pair[0].fileno() == number else pair[::-1]
        for pair in others
        if number in {each.fileno() for each in pair}
    )
    far.sendall(b"\x17\x03\x03\x00\x05another's")
    client.close()
    assert heir.recv(100) == b"\x17\x03\x03\x00\x05another's"
    for each in (end for pair in others for end in pair):
        each.close()
    server.close()


def test_closing_fails_a_call_that_waits_in_another_thread(world: World) -> None:
    client, server = world.opened(world.meet(client=world.worker))
    seen: list[Any] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        seen.append(world.attempt(lambda: client.recv_exactly(1)))

    waiting = threading.Thread(target=wait)
    waiting.start()
    started.wait(TIMEOUT_S)
    client.close()
    waiting.join(timeout=TIMEOUT_S)
    assert [type(each) for each in seen] == [ChannelError]
    server.close()


def test_a_connection_is_never_resumed(world: World) -> None:
    """A resumed connection would skip the certificates and with them the appraisal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sessions: list[ssl.SSLSession | None] = [None]
    reused: list[bool | None] = []

    def dial(address: tuple[str, int]) -> None:
        with (
            socket.create_connection(address) as sock,
            context.wrap_socket(sock, session=sessions[-1]) as tls,
        ):
            assert len(tls.recv(32)) == 32
            sessions.append(tls.session)
            reused.append(tls.session_reused)

    def serve(sock: socket.socket) -> Channel:
        return accept(
            sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=TIMEOUT_S
        )

    for _ in range(3):
        world.both(serve, dial)
    assert reused == [False, False, False]
