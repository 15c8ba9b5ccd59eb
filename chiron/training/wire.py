"""CBOR maps and fixed-size messages over an attested channel."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import cbor2

from chiron.training.errors import TrainingError

if TYPE_CHECKING:
    from enclave import Channel

MAX_CONTROL_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")
_FILL, _FILLING, _LONG_BYTES = b"\x64fill", struct.Struct(">BQ"), 0x5B  # RFC 8949, section 3.1


def canonical(value: object) -> bytes:
    """Return the deterministic CBOR encoding (RFC 8949, section 4.2), which is digested and signed."""
    return cbor2.dumps(value, canonical=True)


def filled(message: dict[str, Any], size: int) -> bytes:
    """Return the encoding of a map with one more key, `fill`, that brings it to exactly `size` bytes.

    The filling's length always takes eight bytes, which RFC 8949, section 3, allows: so every size is met.

    Args:
        message: up to 22 keys.
        size: in bytes; a function of public facts.

    Raises:
        TrainingError: the message does not fit; the text names the limit.
    """
    encoded = canonical(message)
    room = size - len(encoded) - len(_FILL) - _FILLING.size
    if room < 0:
        raise TrainingError(f"a message of {len(encoded)} bytes does not fit its {size}: raise that size")
    return bytes([encoded[0] + 1]) + encoded[1:] + _FILL + _FILLING.pack(_LONG_BYTES, room) + bytes(room)


def send_map(channel: Channel, message: dict[str, Any], *, size: int | None = None) -> None:
    """Send one small control message; `size` is as for `filled`, where its content must not show by it."""
    channel.send_message(canonical(message) if size is None else filled(message, size))


def receive_map(channel: Channel) -> dict[str, Any]:
    """Receive one small control message.

    Raises:
        TrainingError: it is no CBOR map.
        ChannelError: the channel broke, or the message is over MAX_CONTROL_BYTES.
    """
    return parse_map(channel.recv_message(max_bytes=MAX_CONTROL_BYTES))


def parse_map(raw: bytes) -> dict[str, Any]:
    """Parse a CBOR map with text keys.

    Raises:
        TrainingError: the bytes are something else.
    """
    try:
        message = cbor2.loads(raw)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise TrainingError("a message is not CBOR: both sides need the same version of Chiron") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise TrainingError(
            "a message is not a map with text keys: both sides need the same version of Chiron"
        )
    return message


def pad(content: bytes, size: int) -> bytes:
    """Return content behind its length, filled with zeros to exactly `size` bytes.

    Raises:
        TrainingError: the content does not fit; the text names the limit.
    """
    room = size - _LENGTH.size
    if len(content) > room:
        raise TrainingError(
            f"{len(content)} bytes do not fit a message of {room}: declare a larger size class"
        )
    return (_LENGTH.pack(len(content)) + content).ljust(size, b"\0")


def unpad(message: bytes) -> bytes:
    """Return what `pad` was given.

    Raises:
        TrainingError: the length inside does not fit the message.
    """
    if len(message) < _LENGTH.size:
        raise TrainingError(f"a padded message has at least {_LENGTH.size} bytes, not {len(message)}")
    (length,) = _LENGTH.unpack_from(message)
    if length > len(message) - _LENGTH.size:
        raise TrainingError("a padded message names a length beyond its end")
    return message[_LENGTH.size : _LENGTH.size + length]
