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
RECORD_BYTES = 1 << 14  # a TLS record's content (RFC 8446, section 5.1): OpenSSL takes and gives one a call
_MILLISECOND = 1000


class Transport:
    """One TLS connection. One thread may send while another receives."""

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        self._socket = sock
        sock.setblocking(False)  # noqa: FBT003  the socket module's own signature
        self.tls = SSL.Connection(context, sock)
        self._lock = threading.Lock()
        self._timeout_s: float | None = None
        self._closed = False

    def set_timeout(self, seconds: float | None) -> None:
        """Bound every later call; None waits for ever."""
        self._timeout_s = seconds

    def handshake(self) -> None:
        """Complete the TLS handshake."""
        self._complete(self.tls.do_handshake)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes.

        Raises:
            ChannelError: the connection broke or timed out.
        """
        view = memoryview(data).cast("B")
        while view:
            piece = bytes(view[:RECORD_BYTES])
            view = view[self._complete(partial(self.tls.send, piece)) :]

    def recv(self, size: int) -> bytes:
        """Return at least one byte and at most `size`, or b"" once the peer has ended.

        Raises:
            ChannelError: the connection broke or timed out.
        """
        try:
            return self._complete(lambda: self.tls.recv(size))
        except _PeerEndedError:
            return b""

    def recv_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            ChannelError: the connection ended or broke before.
        """
        out = bytearray(size)
        view = memoryview(out)
        while view:
            count = self._complete(partial(self.tls.recv_into, view, min(len(view), RECORD_BYTES)))
            view = view[count:]
        return bytes(out)

    def close(self) -> None:
        """End the connection; a call that waits in another thread fails."""
        self._closed = True
        with self._lock, suppress(SSL.Error):  # the peer need not hear a farewell from a broken connection
            self.tls.shutdown()
        with suppress(OSError):  # it is closed already, which is what is wanted
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _complete(self, call: Callable[[], Value]) -> Value:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
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
                raise _PeerEndedError("the peer ended the connection") from error
            except SSL.SysCallError as error:
                raise _PeerEndedError("the peer's process or network went away") from error
            except SSL.Error as error:
                raise ChannelError(f"TLS failed: {_reason(error)}") from error

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        try:
            poll.register(self._socket, event)
        except ValueError as error:
            raise ChannelError("the channel is closed") from error
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * _MILLISECOND
        if not poll.poll(left):
            raise ChannelError(f"the peer did not answer within {self._timeout_s} s")


class _PeerEndedError(ChannelError):
    """The peer is gone: at a message's end that is no error."""


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words, which hold no data."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries) or "no reason given"
