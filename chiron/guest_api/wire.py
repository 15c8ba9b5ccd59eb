"""Length-prefixed CBOR, and rows behind it, over the pipes between an enclave and its guest's process."""

from __future__ import annotations

import struct
from typing import IO, Any

import cbor2

from chiron.guest_api.errors import GuestApiError

_LENGTH = struct.Struct("<Q")
MAX_MESSAGE_BYTES = 1 << 32


def write_message(pipe: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    body = cbor2.dumps(message)
    pipe.write(_LENGTH.pack(len(body)))
    pipe.write(body)
    pipe.flush()


def read_message(pipe: IO[bytes]) -> dict[str, Any]:
    """Read one message.

    Raises:
        GuestApiError: the pipe ended early or the message is too large or no map.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise GuestApiError(f"a message of {length} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    message = cbor2.loads(_exactly(pipe, length))
    if not isinstance(message, dict):
        raise GuestApiError("a message between an enclave and its guest's process is a map")
    return message


def write_rows(pipe: IO[bytes], rows: memoryview) -> None:
    """Write rows behind a message, as they are: encoding them would copy them twice."""
    pipe.write(_LENGTH.pack(rows.nbytes))
    pipe.write(rows)
    pipe.flush()


def read_rows(pipe: IO[bytes]) -> bytes:
    """Read what `write_rows` wrote.

    Raises:
        GuestApiError: the pipe ended early, or there are too many.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise GuestApiError(f"rows of {length} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) != count:
        raise GuestApiError("the guest's process ended before it answered")
    return data
