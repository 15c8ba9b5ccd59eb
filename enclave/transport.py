"""TLS bytes over a socket with a deadline: pyOpenSSL's non-blocking calls made blocking, for two threads."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from OpenSSL import SSL

from enclave.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
REFUSED = "whose Evidence may not match its reference values"
RECORD_BYTES = 1 << 14  # a TLS record's content (RFC 8446, section 5.1): OpenSSL takes and gives one a call
_MILLISECOND = 1000
_LONGEST_WAIT_S = 1.0  # a waiter looks again at least this often: its socket may have been closed meanwhile


class Transport:
    """One TLS connection. One thread may send while another receives."""

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        self._socket = sock
        sock.setblocking(False)  # noqa: FBT003  the socket module's own signature
        self.tls = SSL.Connection(context, sock)
        self._lock = threading.Lock()
        self._timeout_s: float | None = None
        self._deadline: float | None = None
        self._closed = False

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later call as a whole; None waits for ever."""
        self._timeout_s = seconds

    def start_set_up(self, timeout_s: float) -> None:
        """Bound all later calls together, however many and however slowly the peer feeds them."""
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s

    def end_set_up(self) -> None:
        """Let later calls wait for ever."""
        self._timeout_s = self._deadline = None

    def handshake(self) -> None:
        """Complete the TLS handshake."""
        self._complete(self.tls.do_handshake, self._until())

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes.

        Raises:
            ChannelError: the connection broke or timed out.
        """
        view, until = memoryview(data).cast("B"), self._until()
        while view:
            piece = bytes(view[:RECORD_BYTES])
            view = view[self._complete(partial(self.tls.send, piece), until) :]

    def recv(self, size: int) -> bytes:
        """Return at least one byte and at most `size`, or b"" once the peer has ended.

        Raises:
            ChannelError: the connection broke or timed out. A connection that was cut is never taken for one
                that the peer ended (RFC 8446, section 6.1).
        """
        try:
            return self._complete(lambda: self.tls.recv(size), self._until())
        except PeerEndedError:
            return b""

    def recv_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            ChannelError: the connection ended or broke before.
        """
        out = bytearray(size)
        view, until = memoryview(out), self._until()
        while view:
            count = self._complete(partial(self.tls.recv_into, view, min(len(view), RECORD_BYTES)), until)
            view = view[count:]
        return bytes(out)

    def close(self) -> None:
        """End the connection; a call that waits in another thread fails. Closing again does nothing."""
        with self._lock:
            if self._closed:  # the descriptor may be another connection's by now
                return
            self._closed = True
            with suppress(SSL.Error):  # the peer need not hear a farewell from a broken connection
                self.tls.shutdown()
        with suppress(OSError):  # it is closed already, which is what is wanted
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _until(self) -> float | None:
        if self._deadline is not None or self._timeout_s is None:
            return self._deadline
        return time.monotonic() + self._timeout_s

    def _complete(self, call: Callable[[], Value], deadline: float | None) -> Value:
        while True:
            if deadline is not None and time.monotonic() >= deadline:
                raise ChannelError(f"the peer did not answer within {self._timeout_s} s")
            try:
                with self._lock:
                    if self._closed:
                        raise ChannelError("the channel is closed")
                    return call()
            except SSL.WantReadError:
                self._wait(select.POLLIN, deadline)
            except SSL.WantWriteError:
                self._wait(select.POLLOUT, deadline)
            except SSL.ZeroReturnError as error:
                raise PeerEndedError("the peer ended the connection") from error
            except SSL.SysCallError as error:
                raise ChannelError("the peer's process or network went away") from error
            except SSL.Error as error:
                raise ChannelError(_reason(error)) from error

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        try:
            poll.register(self._socket, event)
        except ValueError as error:
            raise ChannelError("the channel is closed") from error
        left = _LONGEST_WAIT_S if deadline is None else max(0.0, deadline - time.monotonic())
        poll.poll(min(left, _LONGEST_WAIT_S) * _MILLISECOND)


class PeerEndedError(ChannelError):
    """The peer ended the connection in due form: at a message's end that is no error."""


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words, which hold no data; an alert is the peer's verdict on this end."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    words = "; ".join(str(entry[-1]) for entry in entries) or "no reason given"
    return f"the peer refuses this end, {REFUSED}: {words}" if " alert " in words else f"TLS failed: {words}"
