"""Guests that do in one slot what a list says, in both lowerings: a core module, and a component."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import wasmtime
from components import ANSWER_AT, component
from deployments import POLICY
from guests import HEADER, escaped

from chiron.guest_api.limits import sandbox_limits
from chiron.guest_api.lowering import CALL_PARAMETERS, Way, component_signatures
from chiron.guest_api.lowering import CALLS as FORMS
from chiron.policy.header import Header, encode_header
from wasm_sandbox import ComponentRules, Rules, load, load_component

if TYPE_CHECKING:
    from chiron.guest_api.limits import LoadedGuest

LIMITS = sandbox_limits(POLICY)
MEMORY = 2 << 16  # a guest's; things lie in it at:
GOOD_AT, BAD_AT, TEXT_AT, ROW_AT, OUT_AT = 0, 64, 1024, 32768, 1 << 16
HIGH = 96 << 10  # and in a component above this: below it lies what the host hands over
FOUND_AT = 124 << 10  # the first value of the row that a component read
TEXT = bytes(range(256)) * 16
NUMBER = encode_header(POLICY.menus, Header(*HEADER)).to_bytes(8, "little")
CALLS = {
    name: (0, 1) if rule.read and CALL_PARAMETERS[name] == 4 else () for name, rule in POLICY.calls.items()
}
BYTES = {"u8": 1, "u32": 4, "s32": 4, "f32": 4}
IMPORTS = "".join(
    f'(import "chiron" "{name}" (func ${name} (param {"i32 " * count}) (result i32)))'
    for name, count in CALL_PARAMETERS.items()
)


@dataclass(frozen=True, slots=True)
class Do:
    """One statement of the guest: code, the call that it makes with its payload, or how it ends."""

    code: str
    call: str = ""
    payload: bytes = b""
    ends: bool = False


class Lowering(Protocol):
    """How a guest makes its calls."""

    export: str
    read_row: Do
    branch: Do  # ends the guest where the first value of the row that was read is not zero

    def called(self, name: str, at: int, size: int) -> Do:
        """Return a host call with its buffer at an address, and what the kernel is told of it."""

    def header(self, at: int) -> Do:
        """Return a declaration of the header; one off the menu is refused before the kernel is asked."""

    def loaded(self, program: list[Do]) -> LoadedGuest:
        """Return the guest of one slot."""


class Core:
    """Addresses and sizes, which the host reads and writes at."""

    export = "slot"
    branch = Do(f"(if (i32.load (i32.const {ROW_AT})) (then (unreachable)))")

    def __init__(self) -> None:
        self.read_row = self.called("batch", ROW_AT, 1024)

    def called(self, name: str, at: int, size: int) -> Do:
        """Return a host call."""
        numbers = "".join(f"(i32.const {number})" for number in CALLS[name])
        code = f"(drop (call ${name} {numbers} (i32.const {at}) (i32.const {size})))"
        if POLICY.calls[name].write is None:  # asked first, and then what is read does not fit
            return Do(code, name, ends=at + size > MEMORY)
        if at + size > MEMORY:  # what would be written cannot be read, so nobody is asked
            return Do(code, ends=True)
        return Do(code, name, TEXT[at - TEXT_AT :][:size])

    def header(self, at: int) -> Do:
        """Return a declaration of the header."""
        code = f"(drop (call $header (i32.const {at}) (i32.const 24)))"
        return Do(code, "header", NUMBER) if at == GOOD_AT else Do(code)

    def loaded(self, program: list[Do]) -> LoadedGuest:
        """Return the guest of one slot."""
        code = "".join(do.code for do in program)
        text = f"""(module {IMPORTS} (memory (export "memory") 2 2) {_data(0)}
            (func (export "slot") (result i32) {code} (i32.const 0)))"""
        return load(bytes(wasmtime.wat2wasm(text)), Rules(CALL_PARAMETERS, LIMITS, (self.export,)))


class Component:
    """Typed lists: what goes in lies in the guest's memory, what comes out is put where it allocates."""

    export = "create"
    read_row = Do(
        f"(call $batch (i32.const 0) (i32.const 1) (i32.const {ANSWER_AT}))"
        f"(if (i32.eqz (i32.load8_u (i32.const {ANSWER_AT}))) (then"
        f" (i32.store (i32.const {FOUND_AT}) (i32.load (i32.load (i32.const {ANSWER_AT + 4}))))))",
        "batch",
    )
    branch = Do(f"(if (i32.load (i32.const {FOUND_AT})) (then (unreachable)))")

    def called(self, name: str, at: int, size: int) -> Do:
        """Return a host call; what the host hands over always fits."""
        form, numbers = FORMS[name], "".join(f"(i32.const {number})" for number in CALLS[name])
        answer = f"(i32.const {ANSWER_AT})"
        if form.way is Way.OUT:
            return Do(f"(call ${name} {numbers} {answer})", name)
        if form.way is Way.FILL:
            return Do(f"(call ${name} (i32.const {size}) {answer})", name)
        at += HIGH if at + size <= MEMORY else 0
        each = BYTES[form.element]
        count = min(size, 64) // each if each > 1 else size  # the bytes of longer texts include no-numbers
        if at + size > MEMORY:
            return Do(f"(call ${name} (i32.const {at & -each}) (i32.const {size}) {answer})", ends=True)
        given = TEXT[at - HIGH - TEXT_AT :][: count * each]
        return Do(f"(call ${name} (i32.const {at}) (i32.const {count}) {answer})", name, given)

    def header(self, at: int) -> Do:
        """Return a declaration of the header."""
        code = f"(call $header (i32.const {HIGH + at}) (i32.const 6) (i32.const {ANSWER_AT}))"
        return Do(code, "header", NUMBER) if at == GOOD_AT else Do(code)

    def loaded(self, program: list[Do]) -> LoadedGuest:
        """Return the guest of one slot."""
        code = "".join(do.code for do in program) + "(i32.const 0)"
        guest = component(code, calls=component_signatures(), before=_data(HIGH))
        limits = replace(LIMITS, component_bytes=1 << 20)  # the policy's default runs none
        return load_component(guest, ComponentRules(component_signatures(), limits, (self.export,)))


def _data(start: int) -> str:
    return (
        f'(data (i32.const {start + GOOD_AT}) "{escaped(struct.pack("<6I", *HEADER))}")'
        f'(data (i32.const {start + BAD_AT}) "{escaped(bytes(24))}")'
        f'(data (i32.const {start + TEXT_AT}) "{escaped(TEXT)}")'
    )


LOWERINGS: dict[str, Lowering] = {"core": Core(), "component": Component()}
