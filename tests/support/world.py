"""A lead and a worker on one simulated CPU, and what makes them meet over real sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from enclave import (
    Channel,
    ChannelError,
    Identity,
    Measurement,
    ReferenceValues,
    SimulatedAttester,
    accept,
    connect,
    create_simulated_cpu,
    make_identity,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_S = 5.0
Ends = tuple[Channel | Exception, Channel | Exception]


class World:
    """A simulated CPU with a lead and a worker on it."""

    def __init__(self, folder: Path) -> None:
        create_simulated_cpu(folder / "cpu")
        self.attester = SimulatedAttester(folder / "cpu", Measurement("ab" * 32))
        self.reference = self.attester.own_reference()
        now = self.attester._now()
        self.lead = make_identity(self.attester, {"role": b"lead"}, now=int(now))
        self.worker = make_identity(self.attester, {"role": b"worker"}, now=int(now))

    def meet(
        self,
        *,
        client: Identity | None,
        server: Identity | None = None,
        anonymous: bool = False,
        server_reference: ReferenceValues | None = None,
        client_reference: ReferenceValues | None = None,
        expect: dict[str, bytes] | None = None,
    ) -> Ends:
        """Return both ends, each a channel or the error it got."""

        def serve(sock: socket.socket) -> Channel:
            return accept(
                sock,
                identity=server or self.lead,
                reference=server_reference or self.reference,
                allow_anonymous=anonymous,
                timeout_s=TIMEOUT_S,
            )

        def dial(address: tuple[str, int]) -> Channel:
            return connect(
                address,
                identity=client,
                reference=client_reference or self.reference,
                timeout_s=TIMEOUT_S,
                expect=expect or {},
            )

        return self.both(serve, dial)

    @staticmethod
    def both(serve: Callable[[socket.socket], Any], dial: Callable[[tuple[str, int]], Any]) -> Ends:
        results: list[Any] = [None]

        def server(listener: socket.socket) -> None:
            sock, _ = listener.accept()
            results[0] = World.attempt(lambda: serve(sock))

        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            thread = threading.Thread(target=server, args=(listener,))
            thread.start()
            client = World.attempt(lambda: dial(listener.getsockname()))
            thread.join(timeout=2 * TIMEOUT_S)
        return client, results[0]

    @staticmethod
    def attempt(action: Callable[[], Any]) -> Any:  # noqa: ANN401  a channel or an error
        try:
            return action()
        except (ChannelError, SSL.Error, OSError) as error:
            return error

    @staticmethod
    def opened(ends: Ends) -> tuple[Channel, Channel]:
        client, server = ends
        assert isinstance(client, Channel), client
        assert isinstance(server, Channel), server
        return client, server

    @staticmethod
    def refused(ends: Ends, end: int, words: str) -> None:
        for each in ends:
            assert isinstance(each, Exception)
        error = ends[end]
        assert isinstance(error, ChannelError)
        assert words in str(error)
