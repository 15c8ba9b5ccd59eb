"""Canaries: recognisable secrets, in every form in which they could leave."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

FLOATS = 4  # consecutive float32 values that make a canary


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret's name and its bytes."""

    name: str
    secret: bytes

    def forms(self) -> dict[str, bytes]:
        """Return every encoding to search for; base64 at its three offsets without the unsure ends."""
        forms = {
            "raw": self.secret,
            "hex": self.secret.hex().encode(),
            "HEX": self.secret.hex().upper().encode(),
        }
        for offset in range(3):
            encoded = base64.b64encode(bytes(offset) + self.secret)
            forms[f"base64+{offset}"] = encoded[4 if offset else 0 : len(encoded) // 4 * 4 - 4]
        return forms


def float_canaries(name: str, values: NDArray[Any]) -> list[Canary]:
    """Return a run of floats as canaries: float32 and float64, little and big endian."""
    kinds = {"float32 LE": "<f4", "float32 BE": ">f4", "float64 LE": "<f8", "float64 BE": ">f8"}
    run = np.asarray(values, dtype=np.float32).ravel()[:FLOATS]
    return [Canary(f"{name} as {kind}", run.astype(code).tobytes()) for kind, code in kinds.items()]


def find(canaries: Iterable[Canary], places: dict[str, bytes]) -> list[str]:
    """Return "canary (form) in place" for everything found."""
    return [
        f"{canary.name} ({form}) in {place}"
        for canary in canaries
        for form, needle in canary.forms().items()
        for place, hay in places.items()
        if needle in hay
    ]
