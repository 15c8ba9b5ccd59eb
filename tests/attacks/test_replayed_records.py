"""Attack: the network repeats, drops, reorders or changes encrypted records between two enclaves.

Sequence and padding attacks on records (Vaudenay, EUROCRYPT 2002, and after): each must end the connection
and let nothing through that was not sent, in its order.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from attacker import between
from world import TIMEOUT_S, World

from enclave import Channel, ChannelError, accept, connect

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from attacker import Alter

MESSAGES = [bytes([number]) * 1000 for number in range(4)]


def once(altered: list[int], *, swap: bool = False, flip: int | None = None) -> Alter:
    """Return what alters the first whole message's record: repeats, drops, holds back or changes it."""
    held: list[bytes] = []

    def alter(_: int, record: bytes) -> list[bytes]:
        if len(record) < len(MESSAGES[0]) or altered[0] < 0:
            return [record]
        if swap and not held:
            held.append(record)
            return []
        copies, altered[0] = altered[0], -1
        if flip is not None:
            changed = bytearray(record)
            changed[flip] ^= 1
            return [bytes(changed)]
        return [record, *held] if swap else [record] * copies

    return alter


def received(tmp_path: Path, alter: Alter) -> list[bytes]:
    """Return the messages that arrive, before the receiver's end of the connection fails."""
    world = World(tmp_path)
    got: list[bytes] = []
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        channel = accept(
            sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=TIMEOUT_S
        )
        try:
            got.extend(channel.recv_message(max_bytes=2000) for _ in MESSAGES)
        finally:
            done.set()
            channel.close()

    def dial(address: tuple[str, int]) -> None:
        with between(address, outward=alter) as hostile:
            channel: Channel = connect(hostile, identity=None, reference=world.reference, timeout_s=TIMEOUT_S)
            for message in MESSAGES:
                channel.send_message(message)
            channel.close()
            done.wait(TIMEOUT_S)

    world.both(serve, dial)
    return got


def test_without_an_attack_all_arrive(tmp_path: Path) -> None:
    assert received(tmp_path, lambda _, record: [record]) == MESSAGES


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("repeated", once([2])),
        ("dropped", once([0])),
        ("reordered", once([1], swap=True)),
        ("changed in its content", once([1], flip=100)),
        ("changed in its authentication", once([1], flip=-1)),
    ],
)
def test_a_record_that_is_tampered_with_ends_the_connection(tmp_path: Path, name: str, alter: Alter) -> None:
    got = received(tmp_path, alter)
    assert got == MESSAGES[: len(got)], name
    assert len(got) <= 1, "nothing after the attack arrives"


def test_the_error_names_no_content(tmp_path: Path) -> None:
    world = World(tmp_path)

    def serve(sock: socket.socket) -> bytes:
        with accept(
            sock, identity=world.lead, reference=world.reference, allow_anonymous=True, timeout_s=TIMEOUT_S
        ) as channel:
            return channel.recv_message(max_bytes=2000)

    def dial(address: tuple[str, int]) -> None:
        with (
            between(address, outward=once([1], flip=100)) as hostile,
            connect(hostile, identity=None, reference=world.reference, timeout_s=TIMEOUT_S) as channel,
        ):
            channel.send_message(b"secret " * 200)
            with pytest.raises(ChannelError):
                channel.recv_message(max_bytes=10)

    error = world.both(serve, dial)[1]
    assert isinstance(error, ChannelError)
    assert "secret" not in str(error)
