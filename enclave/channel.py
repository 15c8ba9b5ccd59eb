"""The attested channel: TLS 1.3 whose ends appraise each other before the first application byte.

Each certificate carries Evidence for its key, appraised in the handshake. A preamble then makes it fresh: the
server sends a nonce, for which the client waits, since a TLS 1.3 client finishes before it has been judged;
the client answers with a nonce of its own and, if it is an enclave, Evidence over the server's nonce and the
connection's exporter value; the server ends with Evidence over the client's nonce and the same value.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from OpenSSL import SSL, crypto

from enclave.errors import AppraisalError, ChannelError, EnclaveError
from enclave.evidence import MAX_EVIDENCE_BYTES, Evidence
from enclave.identity import check_key_binding, evidence_in
from enclave.transport import REFUSED, PeerEndedError, Transport
from enclave.verifier import NONCE, Claims, appraise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

    from enclave.identity import Identity
    from enclave.reference import ReferenceValues

EXPORTER_STATEMENT = "tls-exporter"
EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266, section 2
EXPORTER_BYTES = NONCE_BYTES = 32
MAX_MESSAGE_BYTES = 1 << 30
_LENGTH_BYTES = 4
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Channel:
    """An appraised connection. One thread may send while another receives; a context manager.

    `peer` holds the peer's claims, None for a party that carries no Evidence; `exporter` 32 bytes that only
    the two ends of this connection know.
    """

    def __init__(self, transport: Transport, *, peer: Claims | None, exporter: bytes) -> None:
        self._transport = transport
        self.peer = peer
        self.exporter = exporter
        self.send = transport.send
        self.recv = transport.recv
        self.recv_exactly = transport.recv_exactly
        self.set_timeout = transport.set_timeout
        self.close = transport.close

    def send_message(self, message: bytes) -> None:
        """Send a message behind its length (4 bytes, big endian)."""
        self.send(len(message).to_bytes(_LENGTH_BYTES, "big") + message)

    def recv_message(self, *, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return one message.

        Raises:
            ChannelError: it is longer than `max_bytes`, or the connection broke.
        """
        length = int.from_bytes(self.recv_exactly(_LENGTH_BYTES), "big")
        if length > max_bytes:
            raise ChannelError(f"a message of {length} bytes is over the limit of {max_bytes}")
        return self.recv_exactly(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def connect(
    address: tuple[str, int],
    *,
    identity: Identity | None,
    reference: ReferenceValues,
    timeout_s: float,
    expect: Mapping[str, bytes] = _NOTHING,
) -> Channel:
    """Connect to an enclave and appraise it.

    Args:
        address: host and port.
        identity: this process's, or None for a party that is no enclave.
        reference: what the server must show.
        timeout_s: bound of the whole set-up, in seconds.
        expect: statements that the server must make besides, with exactly these values.

    Raises:
        ChannelError: it cannot be reached, or the appraisal failed (then from an AppraisalError).
    """
    demanded = replace(reference, require={**reference.require, **expect})
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise ChannelError(
            f"no enclave answers at {address[0]}:{address[1]}: {error.strerror or error}"
        ) from error
    return _Setup(sock, identity, demanded, timeout_s=timeout_s, is_server=False, anonymous=False).run()


def accept(
    sock: socket.socket,
    *,
    identity: Identity,
    reference: ReferenceValues,
    allow_anonymous: bool,
    timeout_s: float,
) -> Channel:
    """Take a connection; the socket is closed on failure.

    Args:
        sock: an accepted connection.
        identity: this enclave's.
        reference: what a client with Evidence must show.
        allow_anonymous: whether a client may come without Evidence.
        timeout_s: bound of the whole set-up, in seconds.

    Raises:
        ChannelError: the client is not what is demanded, or went away.
    """
    return _Setup(
        sock, identity, reference, timeout_s=timeout_s, is_server=True, anonymous=allow_anonymous
    ).run()


class _Setup:
    """The handshake and preamble of one connection."""

    def __init__(
        self,
        sock: socket.socket,
        identity: Identity | None,
        reference: ReferenceValues,
        *,
        timeout_s: float,
        is_server: bool,
        anonymous: bool,
    ) -> None:
        self._identity = None if identity is None else identity.renewed(now=int(time.time()))
        self._reference = reference
        self._is_server = is_server
        self._refusal: AppraisalError | None = None
        with suppress(OSError):  # a matter of speed alone; a broken connection shows at the handshake
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = Transport(sock, self._context(anonymous=anonymous))
        self._transport.start_set_up(timeout_s)

    def run(self) -> Channel:
        """Return the channel, or close the socket and raise."""
        try:
            channel = self._run()
        except EnclaveError as error:
            self._transport.close()
            if self._refusal is not None:
                raise ChannelError(f"the peer is refused: {self._refusal}") from self._refusal
            if isinstance(error, AppraisalError):
                raise ChannelError(f"the peer is refused: {error}") from error
            if isinstance(error, PeerEndedError):
                raise ChannelError(
                    f"no attested channel: {error}: it may refuse this end, {REFUSED}"
                ) from error
            raise ChannelError(f"no attested channel: {error}") from error
        except BaseException:
            self._transport.close()
            raise
        self._transport.end_set_up()
        return channel

    def _run(self) -> Channel:
        tls = self._transport.tls
        tls.set_accept_state() if self._is_server else tls.set_connect_state()
        self._transport.handshake()
        exporter = tls.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, b"")
        certificate = tls.get_peer_certificate(as_cryptography=True)
        peer = (self._greet if self._is_server else self._introduce)(certificate, exporter)  # ATT-1
        return Channel(self._transport, peer=peer, exporter=exporter)

    def _greet(self, certificate: x509.Certificate | None, exporter: bytes) -> Claims | None:
        """The server's half of the preamble."""
        nonce = os.urandom(NONCE_BYTES)
        self._transport.send(nonce)
        client_nonce = self._transport.recv_exactly(NONCE_BYTES)
        shown = self._receive_evidence()
        if (certificate is None) != (shown == b""):
            raise AppraisalError(0, "the client shows a certificate without fresh Evidence, or the reverse")
        peer = (
            None
            if certificate is None
            else self._appraise(shown, certificate, nonce=nonce, exporter=exporter)
        )
        self._send_evidence(client_nonce, exporter)
        return peer

    def _introduce(self, certificate: x509.Certificate | None, exporter: bytes) -> Claims:
        """The client's half of the preamble."""
        if certificate is None:
            raise AppraisalError(0, "the server shows no certificate")
        server_nonce = self._transport.recv_exactly(NONCE_BYTES)
        nonce = os.urandom(NONCE_BYTES)
        self._transport.send(nonce)
        self._send_evidence(server_nonce, exporter)
        return self._appraise(self._receive_evidence(), certificate, nonce=nonce, exporter=exporter)

    def _send_evidence(self, nonce: bytes, exporter: bytes) -> None:
        raw = b""
        if self._identity is not None:
            extra = {NONCE: nonce, EXPORTER_STATEMENT: exporter}
            raw = self._identity.fresh_evidence(extra).to_bytes()
        self._transport.send(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw)

    def _receive_evidence(self) -> bytes:
        length = int.from_bytes(self._transport.recv_exactly(_LENGTH_BYTES), "big")
        if length > MAX_EVIDENCE_BYTES:
            raise EnclaveError(f"Evidence of {length} bytes is over the limit of {MAX_EVIDENCE_BYTES}")
        return self._transport.recv_exactly(length)

    def _appraise(
        self, raw: bytes, certificate: x509.Certificate, *, nonce: bytes, exporter: bytes
    ) -> Claims:
        """Appraise fresh Evidence: made for this nonce, this key and this very connection."""
        demanded = replace(self._reference, require={**self._reference.require, EXPORTER_STATEMENT: exporter})
        claims = appraise(Evidence.from_bytes(raw), demanded, nonce=nonce, now=int(time.time()))  # ATT-2
        check_key_binding(claims, certificate)
        return claims

    def _context(self, *, anonymous: bool) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # a resumed session would skip the appraisal
        context.set_options(SSL.OP_NO_TICKET)
        mode = SSL.VERIFY_PEER | (0 if anonymous else SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        context.set_verify(mode, self._verify)
        if self._identity is not None:
            context.use_privatekey(self._identity.key)
            context.use_certificate(self._identity.certificate)
        return context

    def _verify(self, _: SSL.Connection, shown: crypto.X509, __: int, depth: int, ___: int) -> bool:
        """Appraise the Evidence in the peer's certificate; OpenSSL's verdict on a self-signed one is moot."""
        try:
            self._judge(shown.to_cryptography(), depth)
        except AppraisalError as error:
            self._refusal = error
            return False
        except Exception as error:  # noqa: BLE001  nothing may pass through OpenSSL's callback; it is raised later
            text = f"the peer's certificate cannot be read ({type(error).__name__})"
            self._refusal = AppraisalError(0, text)
            self._refusal.__cause__ = error
            return False
        return True

    def _judge(self, certificate: x509.Certificate, depth: int) -> None:
        if depth != 0:
            raise AppraisalError(0, "the peer shows a chain of certificates")
        claims = appraise(evidence_in(certificate), self._reference, nonce=None, now=int(time.time()))
        check_key_binding(claims, certificate)
