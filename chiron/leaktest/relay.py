"""A network in between: forwards connections and counts what crosses, as somebody on the wire could."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]
CHUNK_BYTES, SETTLE_S, CONNECT_S = 1 << 16, 10.0, 30.0


@dataclass(slots=True)
class Crossing:
    """One connection: where to, during which step, bytes each way, and whether it is still open."""

    way: str
    step: str
    sent: int = 0
    received: int = 0
    pumps: int = 2


class Relays:
    """Relays to the addresses that are asked for. A context manager; `step` names what is going on."""

    def __init__(self) -> None:
        self.crossings: list[Crossing] = []
        self._step = ""
        self._stack = ExitStack()
        self._known: dict[Address, Address] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def to(self, way: str, target: Address) -> Address:
        """Return the address of a relay to a target; `way` names it in the crossings."""
        if target not in self._known:
            listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            accepting = threading.Thread(target=self._accept, args=(listener, way, target), daemon=True)
            self._stack.callback(accepting.join)
            self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
            accepting.start()
            host, port = listener.getsockname()
            self._known[target] = (host, port)
        return self._known[target]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the connections that are opened in the block as this step's; wait until all have ended."""
        self._step = name
        yield
        deadline = time.monotonic() + SETTLE_S
        with self._changed:
            self._changed.wait_for(lambda: not any(each.pumps for each in self.crossings), SETTLE_S)
        if time.monotonic() > deadline:
            raise TimeoutError(f"a connection of the step {name!r} stays open: nothing can be compared")

    def _accept(self, listener: socket.socket, way: str, target: Address) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                near, _ = listener.accept()
                crossing = Crossing(way, self._step)
                self.crossings.append(crossing)
                self._join(near, target, crossing)

    def _join(self, near: socket.socket, target: Address, crossing: Crossing) -> None:
        try:
            far = socket.create_connection(target, CONNECT_S)
        except OSError:
            near.close()
            self._end(crossing, 2)
            return
        far.settimeout(None)
        for source, sink, outward in ((near, far, True), (far, near, False)):
            threading.Thread(
                target=self._pump, args=(source, sink, crossing), kwargs={"outward": outward}, daemon=True
            ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, crossing: Crossing, *, outward: bool) -> None:
        with suppress(OSError):  # an end that was reset has ended
            while chunk := source.recv(CHUNK_BYTES):
                if outward:
                    crossing.sent += len(chunk)
                else:
                    crossing.received += len(chunk)
                sink.sendall(chunk)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if self._end(crossing, 1):
            source.close()
            sink.close()

    def _end(self, crossing: Crossing, pumps: int) -> bool:
        with self._changed:
            crossing.pumps -= pumps
            self._changed.notify_all()
            return not crossing.pumps
