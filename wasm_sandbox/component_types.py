"""What a component may import: functions over integers and lists of numbers that return a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

HOST_INTERFACE: Final = "chiron:guest/calls@1.0.0"
MODEL_INTERFACE: Final = "chiron:guest/model@1.0.0"
# Functions that a component may export beside that interface, by their names in a core guest.
TRANSFORMS: Final = {
    "transform_input": "transform-input",
    "augment": "augment",
    "transform_output": "transform-output",
}
# How the elements of a list lie in the bytes that a handler takes and gives: little-endian.
ELEMENTS: Final = {"u8": "u1", "u32": "<u4", "s32": "<i4", "f32": "<f4"}
KINDS: Final = frozenset({"u32", *(f"list<{element}>" for element in ELEMENTS)})

Numbers = bytes | np.ndarray[Any, Any]
ComponentHandler = Callable[[tuple[int | bytes, ...]], int | Numbers]


@dataclass(frozen=True, slots=True)
class ComponentCall:
    """One capability: a function a component may import from `HOST_INTERFACE`.

    Its result type is `result<list<ELEMENT>, s32>`, or `result<_, s32>` where it gives no list.

    Args:
        parameters: the kind of each: `u32` or `list<ELEMENT>`, an element being u8, u32, s32 or f32.
        gives: element of the list that it returns; None for no list.
        handler: called with an integer or the packed elements of a list for each parameter. Returns a
            negative status, which the guest gets as the error, or else the packed elements (0 for no list).
            Raises `StopGuest` to end the guest; anything else it raises ends the run as `Ending.HOST_FAULT`.

    Raises:
        ValueError: a kind is none of these.
    """

    parameters: tuple[str, ...]
    gives: str | None
    handler: ComponentHandler

    def __post_init__(self) -> None:
        if not KINDS.issuperset(self.parameters) or self.gives not in {None, *ELEMENTS}:
            raise ValueError(f"a component's host call is made of {', '.join(sorted(KINDS))}")

    @property
    def result(self) -> str:
        """The result type, as WIT writes it."""
        return f"result<{'_' if self.gives is None else f'list<{self.gives}>'}, s32>"

    @property
    def signature(self) -> str:
        """The whole type, as WIT writes it without the names."""
        return f"func({', '.join(self.parameters)}) -> {self.result}"
