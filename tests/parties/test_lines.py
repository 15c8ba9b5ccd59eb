"""Source lines of traps: only from files that belong to this very guest, and only in a dry run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
import wasmtime

from chiron.parties.lines import (
    GUEST_DIGEST,
    debug_path,
    for_dry_run,
    map_path,
    mappings,
    with_digest,
    with_lines,
)
from chiron.parties.sections import without_debug

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1 1))'))
DWARF = PLAIN + b"\x00\x0f\x0b.debug_linexyz"
TRAP = "create() ended (error\n    0:     0x10 - one\n    1:     0x25 - two\n    2:      0x3 - three)"
# Offsets 4, 16 and 32; sources 0, 0, 1; lines 0, 6, 2; columns 0, 2, 0.
MAP = {"version": 3, "sources": ["guest.ts", "other.ts"], "names": [], "mappings": "IAAA,YAME,gBCJF"}


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    path = tmp_path / "guest.wasm"
    path.write_bytes(PLAIN)
    return path


def test_debug_sections_and_the_name_of_a_map_go_and_the_rest_stays() -> None:
    mapped = PLAIN + b"\x00\x13\x10sourceMappingURL./"
    assert without_debug(DWARF) == without_debug(mapped) == without_debug(PLAIN) == PLAIN
    named = PLAIN + b"\x00\x05\x04name"
    assert without_debug(named) == named


def test_a_dry_run_takes_the_guest_with_its_dwarf(guest: Path) -> None:
    assert for_dry_run(guest, most_bytes=1000) == PLAIN
    debug_path(guest).write_bytes(DWARF)
    assert for_dry_run(guest, most_bytes=1000) == DWARF
    assert for_dry_run(guest, most_bytes=len(DWARF) - 1) == PLAIN


def test_the_dwarf_of_another_guest_is_left(guest: Path) -> None:
    debug_path(guest).write_bytes(DWARF + b"\x00\x05\x04name")
    assert for_dry_run(guest, most_bytes=1000) == PLAIN


def test_mappings_are_sums_of_signed_differences() -> None:
    assert mappings(MAP["mappings"]) == [(4, 0, 0, 0), (16, 0, 6, 2), (32, 1, 2, 0)]  # type: ignore[arg-type]
    assert mappings("A,IAAA;IAAA") == [(4, 0, 0, 0)]
    with pytest.raises(ValueError, match="substring"):
        mappings("I*AA")


def test_frames_get_file_and_line(guest: Path) -> None:
    map_path(guest).write_bytes(with_digest(json.dumps(MAP).encode(), PLAIN))
    shown = with_lines(TRAP, guest).splitlines()
    assert [line.strip() for line in shown if " at " in line] == ["at guest.ts:7:3", "at other.ts:3:1"]
    assert [line for line in shown if " at " not in line] == TRAP.splitlines()


@pytest.mark.parametrize(
    "change",
    [
        {GUEST_DIGEST: hashlib.sha256(b"another").hexdigest()},
        {"mappings": "I*"},
        {"mappings": 7},
        {"sources": None},
        {"sources": []},
    ],
)
def test_a_map_that_is_another_guests_or_broken_names_no_line(guest: Path, change: dict[str, object]) -> None:
    right = json.loads(with_digest(json.dumps(MAP).encode(), PLAIN))
    map_path(guest).write_text(json.dumps(right | change))
    assert with_lines(TRAP, guest) == TRAP


def test_without_a_map_no_line_is_named(guest: Path) -> None:
    assert with_lines(TRAP, guest) == TRAP
    map_path(guest).write_text("no JSON")
    assert with_lines(TRAP, guest) == TRAP
