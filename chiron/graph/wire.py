"""Counts a message's fields before it is parsed: two bytes can cost the parser a hundred of memory."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from chiron.graph.errors import AdmissionError, Rule

_BYTES = 2  # the wire type of lengths and what they count
_MAX_VARINT_BYTES = 10
_Kind = Any  # a protobuf descriptor: they are not typed


def scan(data: bytes, *, max_fields: int) -> None:
    """Walk an ONNX model's fields, sub-messages included; values are skipped, not read.

    Raises:
        AdmissionError: it is cut off, has more fields than that, or one that ONNX does not have.

    Source: Protocol Buffers documentation, "Encoding".
    """
    known: dict[str, dict[int, _Kind | None]] = {}
    waiting: list[tuple[int, int, _Kind]] = [(0, len(data), ModelProto.DESCRIPTOR)]
    fields = 0
    while waiting:
        at, end, kind = waiting.pop()
        numbers = known.setdefault(kind.full_name, {f.number: f.message_type for f in kind.fields})
        while at < end:
            fields += 1
            if fields > max_fields:
                text = f"it has over {max_fields} fields: shrink the network, write lists packed"
                raise AdmissionError(Rule.FORMAT, text)
            key, at = _varint(data, at, end)
            if key >> 3 not in numbers:
                text = f"it has a field in {kind.name} that ONNX does not have: write an older IR version"
                raise AdmissionError(Rule.FORMAT, text)
            start, at = _value(data, at, end, wire=key & 7)
            if (inner := numbers[key >> 3]) is not None:
                if key & 7 != _BYTES:
                    raise _broken()
                waiting.append((start, at, inner))


def _value(data: bytes, at: int, end: int, *, wire: int) -> tuple[int, int]:
    """Return where a value starts and ends."""
    match wire:
        case 0:
            stop = _varint(data, at, end)[1]
        case 1:
            stop = at + 8
        case 2:
            size, at = _varint(data, at, end)
            stop = at + size
        case 5:
            stop = at + 4
        case _:
            raise _broken()
    if stop > end:
        raise _broken()
    return at, stop


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, low ones first, and where it ends."""
    number = 0
    for shift in range(_MAX_VARINT_BYTES):
        if at >= end:
            raise _broken()
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:  # noqa: PLR2004  the last byte has no top bit
            return number, at
    raise _broken()


def _broken() -> AdmissionError:
    return AdmissionError(Rule.FORMAT, "the bytes are no ONNX model: check how the guest writes them")
