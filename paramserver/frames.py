"""Frames of one size: what they hold, how they are checked, how they get from thread to channel.

A frame is a header of 32 bytes and a payload of `parameters` little-endian float32. A frame that says nothing
has the same size as one that does. Integrity and order are the channel's: it authenticates.
"""

import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paramserver.errors import FrameError

Float32Array: TypeAlias = NDArray[np.float32]
Buffer: TypeAlias = bytes | bytearray | memoryview

_MAGIC: Final = b"ChPF"
_VERSION: Final = 1
# magic, version, kind, zero, count of float32 in use, loss, step, slot
_HEADER: Final = struct.Struct("<4sBBHIfQQ")
_SLOT: Final = struct.Struct("<Q")
_SLOT_OFFSET: Final = _HEADER.size - _SLOT.size


class Channel(Protocol):
    """An authenticated, ordered byte stream, used by one thread at a time."""

    def send(self, data: memoryview) -> None:
        """Send all of `data`, or raise."""

    def recv_exactly(self, n: int) -> bytes:
        """Return exactly the next `n` bytes, or raise."""


class Kind(IntEnum):
    """What a frame says."""

    EMPTY = 0
    PARAMETERS = 1
    GRADIENT = 2
    START = 3  # the parameters of step 0, and the sign from which both ends count their slots


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A checked frame; `vector` is a read-only view of the received bytes, shape (count,), float32."""

    kind: Kind
    step: int
    slot: int
    loss: float
    vector: Float32Array


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """The one size that every frame of a job has.

    Args:
        parameters: the size class, in float32; a vector may be shorter, a frame never is.

    Raises:
        ValueError: `parameters` is not in 1 .. 2^32 - 1.
    """

    parameters: int

    def __post_init__(self) -> None:
        if not 1 <= self.parameters < 2**32:
            raise ValueError("a frame's size class is at least 1 and below 2^32 parameters")

    @property
    def frame_bytes(self) -> int:
        """Size of every frame, in bytes."""
        return _HEADER.size + 4 * self.parameters

    def encode(self, kind: Kind, *, step: int, slot: int, vector: Float32Array | None, loss: float) -> bytes:
        """Return a frame as exactly `frame_bytes` bytes; arguments as for `encode_into`."""
        buffer = bytearray(self.frame_bytes)
        self.encode_into(buffer, kind, step=step, vector=vector, loss=loss)
        put_slot(buffer, slot)
        return bytes(buffer)

    def encode_into(
        self, buffer: bytearray, kind: Kind, *, step: int, vector: Float32Array | None, loss: float
    ) -> None:
        """Fill all of `buffer` with a frame of slot 0.

        Args:
            buffer: exactly `frame_bytes` bytes.
            kind: EMPTY has no vector, every other kind has one.
            step: the step whose parameters or gradient this is; 0 for EMPTY and START.
            vector: float32, shape (n,), 1 <= n <= `parameters`.
            loss: the batch's mean loss, for GRADIENT; beyond float32 it becomes infinite. 0 for other kinds.

        Raises:
            ValueError: the vector does not fit the kind or the size class.
        """
        count = 0 if vector is None else vector.size
        if not _is_count_of(kind, count, self.parameters) or (
            vector is not None and vector.shape != (count,)
        ):
            raise ValueError(f"a {kind.name} frame cannot hold {count} of {self.parameters} parameters")
        with np.errstate(over="ignore"):
            loss32 = float(np.float32(loss))
        payload = np.frombuffer(buffer, dtype="<f4", offset=_HEADER.size, count=self.parameters)
        payload[:count] = 0 if vector is None else vector
        payload[count:] = 0  # TRAIN-2: as many bytes as a full one
        _HEADER.pack_into(buffer, 0, _MAGIC, _VERSION, kind, 0, count, loss32, step, 0)

    def decode(self, data: Buffer) -> Frame:
        """Return the frame in `data`, checked; its vector is a view, not a copy.

        Raises:
            FrameError: `data` is not what `encode` makes; its `rule` says in which respect.
        """
        if len(data) != self.frame_bytes:
            raise FrameError("size", f"{len(data)} bytes instead of {self.frame_bytes}")
        magic, version, kind, zero, count, loss, step, slot = _HEADER.unpack_from(data)
        _require("magic", holds=magic == _MAGIC)
        _require("version", holds=version == _VERSION)
        _require("kind", holds=kind in Kind.__members__.values())
        _require("reserved", holds=zero == 0)
        _require("count", holds=_is_count_of(Kind(kind), count, self.parameters))
        _require("step", holds=step == 0 or kind in {Kind.PARAMETERS, Kind.GRADIENT})
        _require("loss", holds=loss == 0 or kind == Kind.GRADIENT)
        words = np.frombuffer(data, dtype="<u4", offset=_HEADER.size)
        # Both parts are read though only one is judged: the time must not tell how much of a frame is in use.
        np.bitwise_or.reduce(words[:count])
        _require("unused", holds=not np.bitwise_or.reduce(words[count:]))
        vector = np.frombuffer(data, dtype="<f4", offset=_HEADER.size, count=count)
        vector.flags.writeable = False
        return Frame(Kind(kind), step=step, slot=slot, loss=loss, vector=vector)

    def receive(self, channel: Channel, *, slot: int, kinds: Collection[Kind]) -> Frame:
        """Read one frame from `channel` that must be of `slot` and one of `kinds`.

        Raises:
            FrameError: it is not; or whatever the channel raises.
        """
        frame = self.decode(channel.recv_exactly(self.frame_bytes))
        _require("slot", holds=frame.slot == slot)
        _require("direction", holds=frame.kind in kinds)
        return frame


class Outbox:
    """One place for the next frame, between the thread that makes it and the thread that sends it.

    Frames are encoded when they are made; at the tick only the slot's number is written, so what is sent
    takes no longer than saying nothing. One place is enough: in synchronous mode the next frame is made
    only after the peer has answered the last.
    """

    def __init__(self, frame: FrameFormat) -> None:
        self._frame = frame
        self._empty = bytearray(frame.frame_bytes)
        self._full = bytearray(frame.frame_bytes)
        self._is_ready = False
        self._lock = threading.Lock()
        frame.encode_into(self._empty, Kind.EMPTY, step=0, vector=None, loss=0.0)

    def put(self, kind: Kind, *, step: int, vector: Float32Array, loss: float = 0.0) -> None:
        """Encode the frame that the next tick sends.

        Raises:
            ValueError: the last one has not been taken, or the vector does not fit.
        """
        with self._lock:
            if self._is_ready:
                raise ValueError("the last frame has not been sent")
        self._frame.encode_into(self._full, kind, step=step, vector=vector, loss=loss)
        with self._lock:
            self._is_ready = True

    def take(self, slot: int) -> tuple[bool, memoryview]:
        """Return whether a frame was ready, and the bytes to send for `slot`: that frame's or an EMPTY one's.

        They stay valid until the frame after is put.
        """
        with self._lock:
            is_full, self._is_ready = self._is_ready, False
        buffer = self._full if is_full else self._empty
        put_slot(buffer, slot)
        return is_full, memoryview(buffer)


def put_slot(buffer: bytearray, slot: int) -> None:
    """Write the slot's number into the encoded frame in `buffer`."""
    _SLOT.pack_into(buffer, _SLOT_OFFSET, slot)


def _is_count_of(kind: Kind, count: int, parameters: int) -> bool:
    return count == 0 if kind is Kind.EMPTY else 1 <= count <= parameters


_DETAILS: Final = {
    "magic": "it does not begin as a parameter frame does",
    "version": f"only version {_VERSION} is known",
    "kind": "its kind is unknown",
    "reserved": "its reserved field is not zero",
    "count": "its count does not fit its kind and the size class",
    "step": "its kind carries no step",
    "loss": "its kind carries no loss",
    "unused": "the unused part of its payload is not zero",
    "slot": "it is not the frame of the slot that is due",
    "direction": "this end does not take that kind now",
}


def _require(rule: str, *, holds: bool) -> None:
    if not holds:
        raise FrameError(rule, _DETAILS[rule])
