"""A channel that plays a script: what comes in was written before, what goes out is kept."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from chiron.training.node import ROLE, Role
from chiron.training.wire import canonical, parse_map
from enclave import ChannelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave import Channel


class ScriptedChannel:
    """Stands for an attested channel to a peer in this role, or to a party (None)."""

    def __init__(self, role: Role | None, *incoming: bytes | dict[str, object]) -> None:
        statements = {} if role is None else {ROLE: role.value.encode()}
        self.peer = None if role is None else SimpleNamespace(statements=statements)
        self.exporter = b"e" * 32
        self.sent: list[bytes] = []
        self._incoming = deque(m if isinstance(m, bytes) else canonical(m) for m in incoming)

    @property
    def as_channel(self) -> Channel:
        """This object, typed as what it stands for."""
        return cast("Channel", self)

    def messages(self) -> Iterable[dict[str, object]]:
        """What was sent, as maps."""
        return [parse_map(raw) for raw in self.sent]

    def recv_message(self, *, max_bytes: int) -> bytes:
        """Return the next message."""
        return self._next()[:max_bytes]

    def recv_exactly(self, count: int) -> bytes:
        """Return the next message, which must have this size."""
        raw = self._next()
        if len(raw) != count:
            raise ChannelError(f"{len(raw)} bytes in the script, {count} asked for")
        return raw

    def send_message(self, message: bytes) -> None:
        """Keep a message."""
        self.sent.append(message)

    def send(self, data: bytes) -> None:
        """Keep bytes."""
        self.sent.append(bytes(data))

    def _next(self) -> bytes:
        if not self._incoming:
            raise ChannelError("the script is over")
        return self._incoming.popleft()
