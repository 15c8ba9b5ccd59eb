"""Reads just enough of a WebAssembly binary to refuse what must not even reach the compiler.

Source: WebAssembly Core Specification 2.0, section 5.5 (modules) and 5.2.2 (LEB128 integers).
"""

from typing import Final

from wasm_sandbox.errors import GuestRefusedError

MAGIC: Final = b"\0asm"
VERSION: Final = b"\x01\0\0\0"
_START_SECTION: Final = 8
_LAST_SECTION: Final = 12  # data count; what comes after belongs to proposals that are switched off
_MAX_SECTIONS: Final = 200
# Entries of a section, by its number. Each entry costs the engine or this package memory or time that neither
# fuel nor the size of the binary bounds well; no compiler's output comes near.
_MAX_ENTRIES: Final = {
    1: ("types", 10_000),
    2: ("imports", 1_000),
    3: ("functions", 50_000),
    4: ("tables", 100),
    5: ("memories", 100),
    6: ("globals", 10_000),
    7: ("exports", 10_000),
    9: ("element segments", 10_000),
    10: ("functions", 50_000),
    11: ("data segments", 50_000),
}
_U32_BYTES: Final = 5  # ceil(32 / 7)
_U32_LAST_MAX: Final = 0x0F  # the fifth byte holds the top four bits


def check_binary(guest: bytes, *, module_bytes: int) -> None:
    """Check size, magic number, version, and frame and count of every section; refuse start functions.

    Args:
        guest: the binary.
        module_bytes: the most bytes it may have; checked before anything is read.

    Raises:
        GuestRefusedError: a rule is broken. What is inside the sections is the compiler's to check.
    """
    if len(guest) > module_bytes:
        raise GuestRefusedError(
            f"{len(guest)} bytes, the limit is {module_bytes}: compile with -Os or strip it",
            rule="module-bytes",
        )
    _check_preamble(guest)
    position = len(MAGIC) + len(VERSION)
    for _ in range(_MAX_SECTIONS):
        if position >= len(guest):
            return
        position = _check_section(guest, position)
    if position < len(guest):
        raise GuestRefusedError(f"more than {_MAX_SECTIONS} sections: strip it", rule="sections")


def _check_preamble(guest: bytes) -> None:
    # wasmtime would read anything without the magic number as WebAssembly text: text is not a guest.
    if guest[:4] != MAGIC:
        raise GuestRefusedError(
            r"it is not WebAssembly (no '\0asm' at its start): give the compiled binary, not text",
            rule="binary",
        )
    if guest[4:8] != VERSION:
        raise GuestRefusedError(
            "it is not version 1 of core WebAssembly (a component?): compile a core module", rule="binary"
        )


def _check_section(guest: bytes, position: int) -> int:
    """Return the position after the section that begins at `position`."""
    kind = guest[position]
    size, body = _read_u32(guest, position + 1)
    if body + size > len(guest):
        raise GuestRefusedError(
            f"section {kind} at byte {position} is cut off: copy the whole file", rule="binary"
        )
    if kind == _START_SECTION:
        raise GuestRefusedError("it has a start function: do that work in an exported function", rule="start")
    if kind > _LAST_SECTION:
        raise GuestRefusedError(
            f"unknown section {kind} at byte {position}: compile for WebAssembly 2.0", rule="binary"
        )
    if kind in _MAX_ENTRIES:
        _check_entries(guest, body, kind=kind)
    return body + size


def _check_entries(guest: bytes, body: int, *, kind: int) -> None:
    what, most = _MAX_ENTRIES[kind]
    count, _ = _read_u32(guest, body)
    if count > most:
        raise GuestRefusedError(f"{count} {what}, the limit is {most}: use fewer", rule="sections")


def _read_u32(guest: bytes, position: int) -> tuple[int, int]:
    """Read one unsigned LEB128 integer; return it and the position after it."""
    value = 0
    for index, byte in enumerate(guest[position : position + _U32_BYTES]):
        if index == _U32_BYTES - 1 and byte > _U32_LAST_MAX:
            break
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, position + index + 1
    raise GuestRefusedError(f"no valid section size at byte {position}: copy the whole file", rule="binary")
