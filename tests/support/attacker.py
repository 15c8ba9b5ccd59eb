"""A network that does what it likes with the bytes of a connection, over real sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Address = tuple[str, int]
    Alter = Callable[[int, bytes], list[bytes]]


def as_it_is(_: int, record: bytes) -> list[bytes]:
    """Pass a record on."""
    return [record]


@contextmanager
def between(target: Address, *, outward: Alter = as_it_is, inward: Alter = as_it_is) -> Iterator[Address]:
    """Yield an address that leads to the target, through somebody who may alter each TLS record.

    Args:
        target: where the connection goes.
        outward: given the number of a record from the client and its bytes, returns what is sent instead.
        inward: the same for records from the target.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        ends: list[socket.socket] = []
        acceptor = threading.Thread(target=_accept, args=(listener, target, (outward, inward), threads, ends))
        acceptor.start()
        try:
            yield listener.getsockname()
        finally:  # also where the block raises: a thread that still accepts keeps pytest from ending
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()
            for end in ends:
                end.close()


def _accept(
    listener: socket.socket,
    target: Address,
    alters: tuple[Alter, Alter],
    threads: list[threading.Thread],
    ends: list[socket.socket],
) -> None:
    with suppress(OSError):  # the listener was shut down
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(target)
            ends += [near, far]
            for source, sink, alter in ((near, far, alters[0]), (far, near, alters[1])):
                threads.append(threading.Thread(target=_pump, args=(source, sink, alter)))
                threads[-1].start()


def _pump(source: socket.socket, sink: socket.socket, alter: Alter) -> None:
    number = 0
    with suppress(OSError):  # an end that was reset has ended
        while record := _record(source):
            for altered in alter(number, record):
                sink.sendall(altered)
            number += 1
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)


def _record(source: socket.socket) -> bytes:
    """Read one TLS record (RFC 8446, section 5.1): five bytes, the last two the length of the rest."""
    head = _exactly(source, 5)
    return head + _exactly(source, int.from_bytes(head[3:], "big")) if len(head) == 5 else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    raw = b""
    while len(raw) < count and (more := source.recv(count - len(raw))):
        raw += more
    return raw
