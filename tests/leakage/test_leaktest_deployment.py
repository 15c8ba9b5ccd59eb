"""`chiron leaktest --deployment`: what a network in between sees of jobs on two data sets."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from graphs import linear
from guests import guest
from realjob import chiron, make_parties, platform

from chiron.cli.main import main
from chiron.leaktest.deployment import Found, Seen, _other_bytes, _times_apart
from chiron.leaktest.relay import Relays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEN = Seen(
    [("submit", "lead", 100, 3446), ("receipt", "lead", 50, 900)], {"phase Create": 1.0}, [], "sealed"
)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that answers each connection's bytes twice."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while chunk := connection.recv(1 << 16):
                    connection.sendall(chunk + chunk)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_relay_forwards_and_counts_each_way(echo: tuple[str, int]) -> None:
    with Relays() as relays:
        address = relays.to("lead", echo)
        assert relays.to("lead", echo) == address
        with relays.step("first"), socket.create_connection(address) as connection:
            connection.sendall(b"x" * 1000)
            connection.shutdown(socket.SHUT_WR)
            assert sum(len(chunk) for chunk in iter(lambda: connection.recv(4096), b"")) == 2000
    (crossing,) = relays.crossings
    assert (crossing.step, crossing.way, crossing.sent, crossing.received) == ("first", "lead", 1000, 2000)


def test_a_relay_to_nobody_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    with (
        Relays() as relays,
        relays.step("first"),
        socket.create_connection(relays.to("lead", nobody)) as connection,
    ):
        assert connection.recv(1) == b""


def test_equal_runs_and_tls_noise_are_no_difference() -> None:
    noisy = replace(SEEN, bytes=[("submit", "lead", 100, 3448), SEEN.bytes[1]])
    assert _other_bytes([SEEN, noisy], [noisy]) == _times_apart([SEEN], [noisy]) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(SEEN, bytes=[("submit", "lead", 100, 3456), SEEN.bytes[1]]),
        replace(SEEN, bytes=[SEEN.bytes[0]]),
        replace(SEEN, bytes=[*SEEN.bytes, ("more", "http", 1, 1)]),
        replace(SEEN, refused=["metrics: refused"]),
    ],
)
def test_other_bytes_connections_and_refusals_are_differences(other: Seen) -> None:
    assert _other_bytes([SEEN, SEEN], [SEEN, other]) != []


def test_one_byte_over_plain_http_is_a_difference() -> None:
    left, right = (replace(SEEN, bytes=[("submit", "http", 100, size)]) for size in (10, 11))
    assert _other_bytes([left], [right]) == [
        "(step, way, bytes sent, received): ('submit', 'http', 100, 10) against ('submit', 'http', 100, 11)"
    ]


def test_what_follows_another_outcome_is_not_compared() -> None:
    failed = replace(SEEN, outcome="failed", bytes=SEEN.bytes[:1], refused=["receipt: refused"])
    assert _other_bytes([SEEN], [failed]) == []


def test_times_are_apart_only_where_they_never_overlap() -> None:
    def lasting(seconds: float) -> Seen:
        return replace(SEEN, seconds={"phase Create": seconds})

    assert _times_apart([lasting(1.0), lasting(1.3)], [lasting(1.2), lasting(1.5)]) == []
    assert _times_apart([lasting(1.0), lasting(1.1)], [lasting(1.15)]) == []
    (apart,) = _times_apart([lasting(1.0), lasting(1.1)], [lasting(1.3), lasting(1.4)])
    assert apart == "phase Create: 1.000 to 1.100 s against 1.300 to 1.400 s"
    found = Found(4, [apart], [lasting(1.0)], [lasting(1.3)])
    assert found.describe().startswith("LEAK: the network can tell two data sets apart, in 4 jobs")


def test_reference_values_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaktest", str(tmp_path / "guest.wasm"), "--deployment", "http://127.0.0.1:1"]) == 2
    assert "--deployment needs --reference FILE" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.long
def test_a_real_platform_shows_no_difference(tmp_path: Path) -> None:
    file = tmp_path / "guest.wasm"
    file.write_bytes(guest(graph=linear(8, 3)))
    with platform(tmp_path / "platform", workers=1) as running:
        make_parties(tmp_path, tmp_path / "platform", running.url)
        reference = str(tmp_path / "reference.json")
        done = chiron(
            "leaktest", str(file), "--deployment", running.url, "--reference", reference, measured=False
        )
    assert done.code == 0, done.error or done.lines
    found = done.lines[-1]
    assert (found["verdict"], found["runs"], found["simulated"]) == ("no difference found", 6, True)
    seen = [*found["seen"]["first"], *found["seen"]["second"]]
    assert {each["outcome"] for each in seen} == {"sealed"}
    assert all({"phase Create", "phase Train", "query 2"} <= set(each["seconds"]) for each in seen)
    json.dumps(found)
