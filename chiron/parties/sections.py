"""Takes custom sections out of a guest: what helps to find faults but must not travel with it."""

from __future__ import annotations

from typing import Final

_MAPPED: Final = b"sourceMappingURL"


def without_debug(guest: bytes) -> bytes:
    """Return a valid guest without DWARF and the name of a source map; the names of functions stay."""
    kept, position = [guest[:8]], 8
    while position < len(guest):
        size, body = _read_u32(guest, position + 1)
        length, name = _read_u32(guest, body)
        if guest[position] != 0 or not guest[name : name + length].startswith((b".debug_", _MAPPED)):
            kept.append(guest[position : body + size])
        position = body + size
    return b"".join(kept)


def _read_u32(guest: bytes, position: int) -> tuple[int, int]:
    """Read one LEB128 integer that a compiler wrote; return it and the position after it."""
    value = shift = 0
    while True:
        byte = guest[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, position
