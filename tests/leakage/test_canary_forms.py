"""The search for canaries finds a secret in every form in which it could leave, and nothing in noise."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from canaries import Canary, find, float_canaries

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM = np.random.default_rng(7)
VALUES = RANDOM.normal(size=32).astype(np.float32)
PIXELS = RANDOM.integers(0, 256, size=32).astype(np.float32)
SECRET = RANDOM.bytes(24)
NOISE = RANDOM.bytes(1 << 20)
CANARIES = [Canary("guest", SECRET), *float_canaries("values", VALUES), *float_canaries("pixels", PIXELS)]
LEAVES: dict[str, Callable[[], bytes]] = {
    "raw": lambda: SECRET,
    "hex": SECRET.hex().encode,
    "capital hex": SECRET.hex().upper().encode,
    "base64 at offset 0": lambda: base64.b64encode(SECRET + b"after"),
    "base64 at offset 1": lambda: base64.b64encode(b"x" + SECRET + b"after"),
    "base64 at offset 2": lambda: base64.b64encode(b"xy" + SECRET + b"after"),
    "gzip": lambda: gzip.compress(b"before" + SECRET),
    "zlib": lambda: zlib.compress(b"before" + SECRET),
    "gzip of base64 of floats": lambda: gzip.compress(base64.b64encode(VALUES.tobytes())),
    "JSON": lambda: json.dumps({"rows": VALUES.tolist()}).encode(),
    "JSON without spaces": lambda: json.dumps(VALUES.tolist(), separators=(",", ":")).encode(),
    "a list with the digits of float32": lambda: ", ".join(map(str, VALUES)).encode(),
    "float16, little-endian": lambda: VALUES.astype("<f2").tobytes(),
    "float16, big-endian": lambda: VALUES.astype(">f2").tobytes(),
    "float32, little-endian": lambda: VALUES.astype("<f4").tobytes(),
    "float32, big-endian": lambda: VALUES.astype(">f4").tobytes(),
    "float64, little-endian": lambda: VALUES.astype("<f8").tobytes(),
    "float64, big-endian": lambda: VALUES.astype(">f8").tobytes(),
    "bytes": lambda: PIXELS.astype(np.uint8).tobytes(),
    "bytes of values of 0 to 1": lambda: np.round(np.clip(VALUES * 255, 0, 255)).astype(np.uint8).tobytes(),
    "packed by hand": lambda: b"".join(struct.pack(">f", value) for value in VALUES),
}


@pytest.mark.parametrize("form", LEAVES)
def test_a_secret_is_found_in_each_form(form: str) -> None:
    found = find(CANARIES, {"noise": NOISE, "a file": NOISE[:1000] + LEAVES[form]() + NOISE[:1000]})
    assert found
    assert not [each for each in found if "in noise" in each]


def test_nothing_is_found_in_noise() -> None:
    assert find(CANARIES, {"noise": NOISE, "zeros": bytes(1 << 16), "full": b"\xff" * (1 << 16)}) == []


def test_values_that_are_all_alike_make_no_canary_of_bytes() -> None:
    kinds = [canary.name for canary in float_canaries("weights", np.full(32, 3.0))]
    assert not [kind for kind in kinds if "uint8" in kind]
