"""Source lines for a dry run's traps: what a build leaves beside the guest, and never inside it.

Zig and Rust: `guest.debug.wasm`, the same guest with its DWARF. AssemblyScript: `guest.wasm.map`, a source
map (ECMA-426). C and C++ keep their DWARF in the guest: it names files of the project alone, and is small.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from chiron.parties.sections import without_debug

if TYPE_CHECKING:
    from pathlib import Path

GUEST_DIGEST: Final = "x_chiron_guest"  # ECMA-426, section 10.2, leaves names that start with x_ to others
_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_CONTINUES: Final = 32
_PLACED: Final = 4  # fields of a mapping that names a source: column, source, its line, its column
_FRAME: Final = re.compile(r"^( +\d+: +)0x([0-9a-f]+) - .*$", re.MULTILINE)


def debug_path(guest: Path) -> Path:
    """Return where the guest with its DWARF lies."""
    return guest.with_suffix(".debug.wasm")


def map_path(guest: Path) -> Path:
    """Return where the guest's source map lies."""
    return guest.with_name(guest.name + ".map")


def for_dry_run(path: Path, *, most_bytes: int) -> bytes:
    """Return a guest with its DWARF where that lies beside it and is of this very guest, else as it is.

    Args:
        path: the guest.
        most_bytes: no more than this is returned with DWARF.
    """
    guest = path.read_bytes()
    try:
        debug = debug_path(path).read_bytes()
    except OSError:
        return guest
    return debug if len(debug) <= most_bytes and without_debug(debug) == guest else guest


def with_digest(source_map: bytes, guest: bytes) -> bytes:
    """Return a source map that says which guest it is of."""
    return json.dumps(json.loads(source_map) | {GUEST_DIGEST: hashlib.sha256(guest).hexdigest()}).encode()


def with_lines(text: str, path: Path) -> str:
    """Return a trap's text with file and line under each frame, where the guest's source map is beside it."""
    try:
        fields = json.loads(map_path(path).read_bytes())
        if fields[GUEST_DIGEST] != hashlib.sha256(path.read_bytes()).hexdigest():
            return text
        sources = fields["sources"]
        places = [place for place in mappings(fields["mappings"]) if 0 <= place[1] < len(sources)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return text
    starts = [start for start, *_ in places]

    def named(frame: re.Match[str]) -> str:
        index = bisect_right(starts, int(frame[2], 16)) - 1
        if index < 0:
            return frame[0]
        _, source, line, column = places[index]
        return f"{frame[0]}\n{' ' * 20}at {sources[source]}:{line + 1}:{column + 1}"

    return _FRAME.sub(named, text)


def mappings(text: str) -> list[tuple[int, int, int, int]]:
    """Return the mappings of a source map's first line: offset in the guest, source, line, column, from 0.

    Source: ECMA-426, section 9.2; the offset is the column, as all of a binary is one line.

    Raises:
        ValueError: it is no text of mappings.
    """
    column = source = line = source_column = 0
    found = []
    for segment in text.split(";", 1)[0].split(","):
        fields = _numbers(segment)
        if len(fields) < _PLACED:
            continue
        column, source = column + fields[0], source + fields[1]
        line, source_column = line + fields[2], source_column + fields[3]
        found.append((column, source, line, source_column))
    return found


def _numbers(segment: str) -> list[int]:
    """Decode base64 VLQ: five bits a digit, lowest first; the first bit is the sign."""
    numbers, value, shift = [], 0, 0
    for letter in segment:
        digit = _BASE64.index(letter)
        value |= (digit & (_CONTINUES - 1)) << shift
        shift += 5
        if digit < _CONTINUES:
            numbers.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    return numbers
