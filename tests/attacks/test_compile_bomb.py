"""Attack: a small module that takes the compiler minutes or gigabytes, in the lead's own enclave."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import pytest
from deployments import POLICY_BYTES
from hostile import PREAMBLE, leb, section, vector

from chiron.guest_api.limits import compile_guest
from chiron.policy.loader import parse_policy
from wasm_sandbox import GuestRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = parse_policy(POLICY_BYTES.replace(b"compile_ms = 10000\ncomp", b"compile_ms = 1500\ncomp"))
I32 = b"\x7f"


def of_one_function(body: bytes) -> bytes:
    kinds, functions = vector([b"\x60\0\1" + I32]), vector([leb(len(body)) + body])
    return PREAMBLE + section(1, kinds) + section(3, vector([b"\0"])) + section(10, functions)


def many_locals(count: int) -> bytes:
    """A function with so many locals, each used."""
    used = b"".join(b"\x20" + leb(index) + b"\x1a" for index in range(0, count, 7))
    body = leb(1) + leb(count) + I32 + used + b"\x41\0\x0b"
    functions = vector([leb(len(body)) + body])
    return (
        PREAMBLE
        + section(1, vector([b"\x60\0\1" + I32]))
        + section(3, vector([b"\0"]))
        + section(10, functions)
    )


def deep_blocks(depth: int) -> bytes:
    """A function of blocks in blocks."""
    body = b"\0" + b"\x02\x40" * depth + b"\x0b" * depth + b"\x41\0\x0b"
    functions = vector([leb(len(body)) + body])
    return (
        PREAMBLE
        + section(1, vector([b"\x60\0\1" + I32]))
        + section(3, vector([b"\0"]))
        + section(10, functions)
    )


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "locals", many_locals(49_000)
    yield "blocks", deep_blocks(200_000)
    yield "sections", PREAMBLE + section(0, b"\1x") * 200_000


@pytest.mark.parametrize(("name", "binary"), list(bombs()), ids=[name for name, _ in bombs()])
def test_it_is_one_refusal_in_bounded_time_and_memory(name: str, binary: bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(GuestRefusedError) as error:
        compile_guest(POLICY, binary)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 64 << 20, "what compiles is another process"
    assert time.monotonic() - began < 60, name
    assert len(str(error.value)) < 500
