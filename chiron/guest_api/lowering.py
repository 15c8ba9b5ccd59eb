"""The table of host calls, and how a guest makes them: with addresses (core) or typed lists (component)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wasm_sandbox import ComponentCall, HostCall

if TYPE_CHECKING:
    from wasm_sandbox import GuestMemory, Handler
    from wasm_sandbox.component_types import ComponentHandler, Numbers

REFUSED, NO_ROOM = -1, -2  # status codes of spec/guest.wit
# wasmtime turns every element of a list into 32 bytes and refuses more than 128 MiB of them in one call.
MESSAGE_BYTES: Final = 1 << 20


class Way(Enum):
    """Which way the one buffer of a call goes: from the guest, to it, or to it as long as it asks for."""

    IN = "in"
    OUT = "out"
    FILL = "fill"


@dataclass(frozen=True, slots=True)
class CallForm:
    """What a call takes: `numbers` integers and one buffer of `element` (u8, u32, s32 or f32)."""

    numbers: int
    way: Way
    element: str = "u8"


# The calls of spec/guest.wit; a test holds the two together.
CALLS: Final[Mapping[str, CallForm]] = {
    "schema": CallForm(0, Way.OUT, "u32"),
    "random": CallForm(0, Way.FILL),
    "header": CallForm(0, Way.IN, "u32"),
    "log": CallForm(0, Way.IN),
    "statistics": CallForm(2, Way.OUT, "f32"),
    "batch": CallForm(2, Way.OUT, "f32"),
    "targets": CallForm(2, Way.OUT, "s32"),
    "graph": CallForm(0, Way.IN),
    "plan": CallForm(0, Way.IN),
    "keep": CallForm(0, Way.IN),
    "kept": CallForm(0, Way.OUT),
    "take": CallForm(0, Way.OUT, "f32"),
    "give": CallForm(0, Way.IN, "f32"),
}
# In the core lowering the buffer is two parameters: pointer and length.
CALL_PARAMETERS: Final[Mapping[str, int]] = {name: form.numbers + 2 for name, form in CALLS.items()}


@dataclass(frozen=True, slots=True)
class Buffer:
    """The one buffer of a call.

    Args:
        size: bytes that the guest hands over, has room for or asks for.
        read: copies them out of the guest; only where the buffer goes in.
        most: bytes that can be handed to the guest at once.
    """

    size: int
    read: Callable[[], bytes] = bytes
    most: int = 1 << 32


Answer = int | bytes | np.ndarray[Any, Any]  # a status, or what to hand to the guest (little-endian)
Logic = Callable[[tuple[int, ...], Buffer], Answer]


def core_imports(table: Mapping[str, Logic]) -> dict[str, HostCall]:
    """Return every import a core guest may name: i32 parameters, the buffer as pointer and length."""
    return {
        name: HostCall(CALL_PARAMETERS[name], _core_handler(CALLS[name], logic))
        for name, logic in table.items()
    }


def _core_handler(form: CallForm, logic: Logic) -> Handler:
    def handler(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        *numbers, pointer, size = arguments
        answer = logic(tuple(numbers), Buffer(size, lambda: memory.read(pointer, size)))
        if isinstance(answer, int):
            return answer
        given = _bytes_of(answer)
        if given > size:
            return NO_ROOM
        memory.write(pointer, answer)
        return 0 if form.way is Way.FILL else given

    return handler


def _bytes_of(answer: Numbers) -> int:
    return len(answer) if isinstance(answer, bytes) else answer.nbytes


def component_signatures() -> dict[str, str]:
    """Return the type of every import a component may name, as WIT writes it."""
    return {name: component_call(form, lambda *_: REFUSED).signature for name, form in CALLS.items()}


def component_imports(table: Mapping[str, Logic]) -> dict[str, ComponentCall]:
    """Return every import a component may name: u32 parameters, the buffer as a list in or out."""
    return {name: component_call(CALLS[name], logic) for name, logic in table.items()}


def component_call(form: CallForm, logic: Logic) -> ComponentCall:
    """Return one call as a component makes it."""
    buffer = {Way.IN: (f"list<{form.element}>",), Way.OUT: (), Way.FILL: ("u32",)}[form.way]
    gives = None if form.way is Way.IN else form.element
    return ComponentCall(("u32",) * form.numbers + buffer, gives, _component_handler(form, logic))


def _component_handler(form: CallForm, logic: Logic) -> ComponentHandler:
    def handler(values: tuple[int | bytes, ...]) -> int | Numbers:
        numbers = tuple(value for value in values[: form.numbers] if isinstance(value, int))
        answer = logic(numbers, _buffer_of(values[form.numbers :]))
        if not isinstance(answer, int) and _bytes_of(answer) > MESSAGE_BYTES:
            return NO_ROOM
        return answer

    return handler


def _buffer_of(rest: tuple[int | bytes, ...]) -> Buffer:
    if not rest:
        return Buffer(MESSAGE_BYTES)
    (given,) = rest
    if isinstance(given, int):
        return Buffer(given, most=MESSAGE_BYTES)
    return Buffer(len(given), lambda: given)
