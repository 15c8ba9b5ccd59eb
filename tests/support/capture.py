"""Records every TCP byte on the loopback interface with a packet socket, which needs root."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_PROTOCOLS = socket.htons(0x0003)  # linux/if_ether.h, ETH_P_ALL
PACKET_STATISTICS, SOL_PACKET, SO_RCVBUFFORCE = 6, 263, 33  # linux/if_packet.h, asm-generic/socket.h
OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING: loopback shows each packet twice
BUFFER_BYTES = 1 << 28
ETHERNET, TCP = 14, 6
Flow = tuple[bytes, bytes]


class Capture:
    """Streams by flow, in the order of their sequence numbers."""

    def __init__(self) -> None:
        self._segments: dict[Flow, dict[int, bytes]] = defaultdict(dict)
        self.dropped = 0

    def add(self, packet: bytes) -> None:
        """Take one frame of the loopback interface."""
        header = (packet[ETHERNET] & 15) * 4
        if packet[ETHERNET] >> 4 != 4 or packet[ETHERNET + 9] != TCP:
            return
        segment = packet[ETHERNET + header :]
        (sequence,) = struct.unpack_from(">I", segment, 4)
        payload = segment[(segment[12] >> 4) * 4 :]
        if payload:
            self._segments[segment[:2], segment[2:4]][sequence] = payload

    def streams(self) -> list[bytes]:
        """Return each flow's bytes."""
        return [b"".join(part for _, part in sorted(flow.items())) for flow in self._segments.values()]


def can_capture() -> bool:
    """Tell whether this process may open a packet socket."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ALL_PROTOCOLS).close()
    except (PermissionError, OSError):
        return False
    return True


@contextmanager
def loopback_capture() -> Iterator[Capture]:
    """Record while the block runs; `dropped` says afterwards how many packets the kernel lost."""
    capture, stop = Capture(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ALL_PROTOCOLS) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sniffer.bind(("lo", 0))
        sniffer.settimeout(0.2)
        thread = threading.Thread(target=_record, args=(sniffer, capture, stop))
        thread.start()
        try:
            yield capture
        finally:
            stop.set()
            thread.join()
            statistics = sniffer.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            capture.dropped = struct.unpack("II", statistics)[1]


def _record(sniffer: socket.socket, capture: Capture, stop: threading.Event) -> None:
    while not stop.is_set() or select.select([sniffer], [], [], 0)[0]:  # others' packets may never end
        try:
            packet, address = sniffer.recvfrom(1 << 17)
        except TimeoutError:
            continue
        if address[2] == OUTGOING:
            capture.add(packet)
