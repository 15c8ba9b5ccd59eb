"""Attack: the network counts bytes to learn how large the user's data and the operator's guest really are.

Traffic analysis by sizes: Dyer et al., "Peek-a-boo, I still see you", S&P 2012. Submissions have the size of
their public class; a guest's exact length and a data set's exact row count show nowhere on the wire.
"""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING

import pytest
from deployments import POLICY, Deployment, deployment, small_dataset
from guests import guest

from chiron.leaktest.relay import Relays
from chiron.parties.platform import Platform
from chiron.parties.submit import new_job_id, submit_dataset, submit_guest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chiron.training.node import Role

TLS_NOISE = 8  # bytes: an ECDSA signature in DER is 70 to 72 bytes long


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes what is uploaded, as a platform does."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("transfer-encoding") == "chunked":
            while (size := int(self.rfile.readline(), 16)) or self.rfile.readline() is None:
                self.rfile.read(size + 2)
        self.send_response(201)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Relayed(Platform):
    def __init__(self, running: Deployment, relays: Relays, place: tuple[str, int]) -> None:
        host, port = relays.to("http", place)
        super().__init__(f"http://{host}:{port}")
        self._running, self._relays = running, relays

    def address(self, role: Role) -> tuple[str, int]:
        return self._relays.to(role.value, self._running.addresses[role])


@pytest.fixture
def uploads() -> Iterator[tuple[str, int]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield str(server.server_address[0]), server.server_address[1]
        server.shutdown()
        thread.join()


def crossed(
    running: Deployment, uploads: tuple[str, int], *, rows: int, binary: bytes
) -> list[tuple[str, int, int]]:
    """Return what crosses the network when both halves of a job are submitted."""
    job = new_job_id()
    with Relays() as relays:
        with relays.step("submit"):
            platform = _Relayed(running, relays, uploads)
            submit_guest(platform, running.home(), policy=POLICY, guest=binary, job=job, seed=7)
            submit_dataset(platform, running.home(), dataset=small_dataset(rows), job=job)
            platform.close()
        return [(each.way, each.sent, each.received) for each in relays.crossings]


def test_sizes_are_those_of_the_public_classes(tmp_path: Path, uploads: tuple[str, int]) -> None:
    small, large = guest(), guest(graph=bytes(300_000))
    assert len(large) > len(small) + 300_000
    with deployment(tmp_path, workers=1) as running:
        seen = [
            crossed(running, uploads, rows=rows, binary=binary)
            for rows, binary in ((60, small), (57, small), (60, large), (57, large))
        ]
    ways = [[way for way, _, _ in each] for each in seen]
    assert ways == [ways[0]] * len(seen)
    for columns in zip(*seen, strict=True):
        noise = 0 if columns[0][0] == "http" else TLS_NOISE
        for place in (1, 2):
            sizes = [column[place] for column in columns]
            assert max(sizes) - min(sizes) <= noise, columns
    assert sum(sent for way, sent, _ in seen[0] if way == "http") > 1 << 20
