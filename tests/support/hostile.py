"""Builds hostile guests byte by byte, and runs them all in one process of limited memory.

`python hostile.py` prints one line of JSON for each guest, then one with the most memory that was used.
"""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wasm_sandbox import (
    GuestMemory,
    GuestRefusedError,
    HostCall,
    Limits,
    Rules,
    load_image,
    precompile,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LIMITS = Limits(
    fuel=50_000_000,
    memory_bytes=16 << 20,
    module_bytes=8 << 20,
    compile_bytes=128 << 20,
    compile_ms=60_000,
    host_calls=1_000,
    output_bytes=1 << 20,
)
KEY = bytes(range(32))
PREAMBLE = b"\0asm\1\0\0\0"
ZERO = b"\x41\0"  # i32.const 0
INCREMENT = b"\x41\1\x6a"  # i32.const 1, i32.add
BLOCK, LOOP, IF, END = b"\x02\x40", b"\x03\x40", b"\x04\x40", b"\x0b"


def leb(value: int) -> bytes:
    """Encode an unsigned LEB128 integer."""
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + leb(len(body)) + body


def vector(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return leb(len(listed)) + b"".join(listed)


def text(name: bytes) -> bytes:
    return leb(len(name)) + name


MEMORY, GO = text(b"memory") + b"\2\0", text(b"go") + b"\0\0"


def module(
    body: bytes = ZERO,
    *,
    local: bytes = b"\0",
    functions: int = 1,
    before: bytes = b"",
    after: bytes = b"",
    tail: bytes = b"",
    types: bytes = b"",
    exports: Iterable[bytes] = (MEMORY, GO),
) -> bytes:
    """Build a module of functions with the same body; `before` and `after` surround memory and exports."""
    code = local + body + END
    return b"".join(
        (
            PREAMBLE,
            types or section(1, vector([b"\x60\0\1\x7f"])),
            section(3, vector([b"\0"] * functions)),
            before,
            section(5, vector([b"\1\1\1"])),
            section(7, vector(exports)),
            after,
            section(10, vector([leb(len(code)) + code] * functions)),
            tail,
        )
    )


def names(function_name: bytes) -> bytes:
    """Return a name section that gives function 0 a name."""
    functions = vector([leb(0) + text(function_name)])
    return section(0, text(b"name") + b"\1" + leb(len(functions)) + functions)


def live_loops(local: int, loops: int) -> bytes:
    """Build loops inside each other over many locals: each needs a value of each local."""
    heads = b"".join(
        LOOP + b"\x20" + leb(i % local) + INCREMENT + b"\x21" + leb(i * 7 % local) for i in range(loops)
    )
    tails = b"".join(b"\x20" + leb(i * 3 % local) + b"\x0d\0" + END for i in range(loops))
    return module(heads + tails + ZERO, local=leb(1) + leb(local) + b"\x7f")


def calling() -> bytes:
    """Build a guest that calls its host until it is stopped."""
    imports = section(2, vector([text(b"chiron") + text(b"call") + b"\0\0"]))
    body = LOOP + b"\x10\0\x1a\x0c\0" + END + ZERO
    code = b"\0" + body + END
    return b"".join(
        (
            PREAMBLE,
            section(1, vector([b"\x60\0\1\x7f"])),
            imports,
            section(3, vector([b"\0"])),
            section(5, vector([b"\1\1\1"])),
            section(7, vector([MEMORY, text(b"go") + b"\0\1"])),
            section(10, vector([leb(len(code)) + code])),
        )
    )


def table(minimum: int) -> bytes:
    return section(4, vector([b"\x70\0" + leb(minimum)]))


MANY = 300_000
HURRIED = {"nested ifs": 1_500}  # compile_ms of what takes minutes; the others end long before theirs
GUESTS: dict[str, Callable[[], bytes]] = {
    # compile bombs
    "straight code": lambda: module(ZERO + INCREMENT * 1_000_000),
    "nested blocks": lambda: module(BLOCK * MANY + END * MANY + ZERO),
    "nested loops": lambda: module(LOOP * 100_000 + END * 100_000 + ZERO),
    "nested ifs": lambda: module((ZERO + IF) * 100_000 + END * 100_000 + ZERO),
    "loops over many locals": lambda: live_loops(5_000, 5_000),
    "a jump table of 60,000": lambda: module(
        BLOCK * 60_000
        + ZERO
        + b"\x0e"
        + leb(59_999)
        + b"".join(leb(i) for i in range(60_000))
        + END * 60_000
        + ZERO
    ),
    "a deep expression": lambda: module(b"\x41\4\x28\2\0" * 50_000 + b"\x6a" * 49_999),
    # sizes
    "50,000 locals": lambda: module(local=leb(1) + leb(50_000) + b"\x7f"),
    "50,001 locals": lambda: module(local=leb(1) + leb(50_001) + b"\x7f"),
    "four billion locals": lambda: module(local=leb(1) + leb(2**32 - 1) + b"\x7f"),
    "a module above its limit": lambda: module(tail=section(0, text(b"x") + bytes(8 << 20))),
    "a memory of 4 GiB": lambda: module().replace(b"\5\4\1\1\1\1", b"\5\x08\1\1\x80\x80\4\x80\x80\4"),
    "a huge table": lambda: module(before=table(10_000_000)),
    "many tables": lambda: module(before=section(4, vector([b"\x70\0\1"] * 100))),
    # counts
    "300,000 exports": lambda: module(
        exports=[MEMORY, GO, *(text(b"%d" % i) + b"\0\0" for i in range(MANY))]
    ),
    "300,000 types": lambda: module(types=section(1, vector([b"\x60\0\1\x7f"] * MANY))),
    "300,000 functions": lambda: module(functions=MANY),
    "300,000 globals": lambda: module(before=b"", after=b"").replace(
        section(7, vector([MEMORY, GO])),
        section(6, vector([b"\x7f\0\x41\0\x0b"] * MANY)) + section(7, vector([MEMORY, GO])),
    ),
    "300,000 element segments": lambda: module(
        before=table(1), after=section(9, vector([b"\0\x41\0\x0b\0"] * MANY))
    ),
    "300,000 data segments": lambda: module(tail=section(11, vector([b"\0\x41\0\x0b\0"] * MANY))),
    "two million sections": lambda: module(tail=b"\0\1\0" * 2_000_000),
    "a count of four billion": lambda: PREAMBLE + section(1, leb(2**32 - 1)),
    "duplicate exports": lambda: module(exports=[MEMORY, GO, GO]),
    "an export's name of a megabyte": lambda: module(exports=[MEMORY, GO, text(b"x" * 10**6) + b"\0\0"]),
    # contents
    "a start function": lambda: module(after=section(8, b"\0")),
    "a function's name of megabytes": lambda: module(b"\0", tail=names(b"x" * (4 << 20))),
    "long names in every frame": lambda: module(
        b"\x23\0" + IF + b"\0" + END + b"\x23\0" + INCREMENT + b"\x24\0\x10\0",
        tail=names(b"x" * 1_000_000),
    ).replace(
        section(7, vector([MEMORY, GO])),
        section(6, vector([b"\x7f\1\x41\x6c\x0b"])) + section(7, vector([MEMORY, GO])),
    ),
    "data of megabytes outside memory": lambda: module(
        tail=section(11, vector([b"\0\x41\0\x0b" + text(bytes(4 << 20))]))
    ),
    "elements of megabytes outside a table": lambda: module(
        before=table(1), after=section(9, vector([b"\0\x41\0\x0b" + vector([b"\0"] * (1 << 20))]))
    ),
    # running
    "endless recursion": lambda: module(b"\x10\0"),
    "recursion with large frames": lambda: module(
        b"\x20\0" * 2_000 + b"\x10\0" + b"\x6a" * 2_000, local=leb(1) + leb(1) + b"\x7f"
    ),
    "an endless loop": lambda: module(LOOP + b"\x0c\0" + END + ZERO),
    "memory growth": lambda: module(LOOP + b"\x41\1\x40\0\x1a\x0c\0" + END + ZERO),
    "table growth": lambda: module(
        LOOP + b"\xd0\x70\x41\1\xfc\x0f\0\x1a\x0c\0" + END + ZERO, before=table(1)
    ),
    "endless host calls": calling,
}


def ending(name: str) -> str:
    """Return how a guest ends: the rule that refuses it, or the ending of its run."""
    guest = GUESTS[name]()
    limits = replace(LIMITS, compile_ms=HURRIED.get(name, LIMITS.compile_ms))
    rules = Rules({"call": 0}, limits, ["go"])
    try:
        image = precompile(guest, rules=rules, key=KEY)
        with load_image(image, guest, rules=rules, key=KEY) as loaded:
            outcome = loaded.run("go", imports={"call": HostCall(0, _zero)})
    except GuestRefusedError as error:
        return f"refused ({error.rule}), {len(str(error)) <= 1_000}"
    return f"{outcome.ending.value}, {len(outcome.detail) <= 2_000}"


def _zero(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
    return 0


def results() -> Iterator[tuple[str, str]]:
    for name in GUESTS:
        yield name, ending(name)


def peak_bytes() -> dict[str, int]:
    """Return the most memory this process and the largest of its children had resident.

    A process's own ru_maxrss begins with that of whoever started it; the kernel's high-water mark does not.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    own = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"own": int(own.split()[1]) << 10, "compiler": largest_child << 10}


if __name__ == "__main__":
    for line in results():
        print(json.dumps(line), flush=True)  # noqa: T201 - its only output
    print(json.dumps(peak_bytes()), flush=True)  # noqa: T201
