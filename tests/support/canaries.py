"""Canaries: recognisable secrets, in every form in which they could leave."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

FLOATS = 8  # consecutive values that make a canary; of bytes twice as many
DISTINCT = 6  # a run of scaled bytes with fewer values could be found by chance
WIDTHS = {"float16": "f2", "float32": "f4", "float64": "f8"}
ORDERS = {"LE": "<", "BE": ">"}
# RFC 1952, section 2.3.1 and RFC 1950, section 2.2: what begins a gzip and a zlib stream.
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
MOST_INFLATED = 1 << 26


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
    """Return a run of numbers as canaries: as floats of each width and order, in JSON, scaled to bytes."""
    flat = np.asarray(values, dtype=np.float32).ravel()
    run = flat[:FLOATS]
    encoded = {
        f"{width} {order}": run.astype(sign + code).tobytes()
        for width, code in WIDTHS.items()
        for order, sign in ORDERS.items()
    }
    encoded |= _texts(run) | _scaled(flat[: 2 * FLOATS])
    return [Canary(f"{name} as {kind}", secret) for kind, secret in encoded.items()]


def _texts(run: NDArray[np.float32]) -> dict[str, bytes]:
    """Return JSON's numbers: digits of float64 and of float32, a space after the comma or none."""
    digits = {"float64": [repr(float(value)) for value in run], "float32": [str(value) for value in run]}
    return {
        f"JSON, {width}, {comma!r}": comma.join(numbers).encode()
        for width, numbers in digits.items()
        for comma in (",", ", ")
    }


def _scaled(run: NDArray[np.float32]) -> dict[str, bytes]:
    """Return a run as bytes: values as they are, of 0 to 1, and from the least to the greatest."""
    low = run.min()
    width = max(run.max() - low, np.finfo(np.float32).tiny)
    scaled = {
        "uint8": run,
        "uint8 of 0 to 1": run * 255,
        "uint8 of its range": (run - low) / width * 255,
    }
    as_bytes = {kind: np.round(np.clip(each, 0, 255)).astype(np.uint8) for kind, each in scaled.items()}
    return {kind: each.tobytes() for kind, each in as_bytes.items() if len(set(each)) >= DISTINCT}


def find(canaries: Iterable[Canary], places: dict[str, bytes]) -> list[str]:
    """Return "canary (form) in place" for everything found, also inside what is compressed there."""
    needles = [(canary.name, form, raw) for canary in canaries for form, raw in canary.forms().items()]
    return [
        f"{name} ({form}) in {where}"
        for place, content in places.items()
        for where, hay in _with_inflated(place, content)
        for name, form, needle in needles
        if needle in hay
    ]


def _with_inflated(place: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield place, content
    view = memoryview(content)
    for start in _COMPRESSED.finditer(content):
        try:
            inflated = zlib.decompressobj(_GZIP_OR_ZLIB).decompress(view[start.start() :], MOST_INFLATED)
        except zlib.error:
            continue  # two or three bytes that only look like a beginning
        if inflated:
            yield f"{place}, inflated from {start.start()}", inflated
