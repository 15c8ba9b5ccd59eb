"""Decides whether a guest may be started at all."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

from wasmtime import Engine, FuncType, ImportType, MemoryType, Module, WasmtimeError

from wasm_sandbox.errors import GuestRefusedError
from wasm_sandbox.types import PAGE_BYTES, GuestInfo, Limits

HOST_MODULE: Final = "chiron"
_SHOWN = 80  # characters of a name that a message repeats
_SHOWN_ERROR = 500  # characters of the compiler's message that are repeated


def compile_guest(engine: Engine, guest: bytes) -> Module:
    """Compile a binary that passed `check_binary`.

    Raises:
        GuestRefusedError: it is not valid WebAssembly with the features that are switched on.
    """
    try:
        return Module(engine, guest)
    except WasmtimeError as error:
        text = str(error)[:_SHOWN_ERROR]
        raise GuestRefusedError(f"not valid WebAssembly for this sandbox: {text}", rule="binary") from error


def describe(
    module: Module, guest: bytes, *, granted: Mapping[str, int], limits: Limits, exports: Collection[str]
) -> GuestInfo:
    """Check imports, memory and exports of a compiled guest.

    Args:
        module: the compiled guest.
        guest: the binary.
        granted: names of the host calls it may import from module `chiron`, each with its number of i32.
        limits: sizes it must keep to.
        exports: functions it must export, each `() -> i32`.

    Raises:
        GuestRefusedError: a rule is broken; the text names the rule and the remedy.
    """
    imports = frozenset(_check_import(wanted, granted) for wanted in module.imports)
    memory_bytes = _check_memory(module, limits.memory_bytes)
    functions = frozenset(
        export.name
        for export in module.exports
        if isinstance(export.type, FuncType) and _signature(export.type) == ([], ["i32"])
    )
    for name in exports:
        if name not in functions:
            raise GuestRefusedError(
                f"no function {name}() -> i32 is exported: define and export it", rule="exports"
            )
    return GuestInfo(
        digest=hashlib.sha256(guest).digest(),
        module_bytes=len(guest),
        memory_bytes=memory_bytes,
        imports=imports,
        exports=functions,
    )


def _check_import(wanted: ImportType, granted: Mapping[str, int]) -> str:
    name = wanted.name or ""
    full_name = repr(f"{wanted.module}.{name}"[:_SHOWN])
    if wanted.module != HOST_MODULE or name not in granted:  # SAND-1
        raise GuestRefusedError(
            f"import {full_name} is not granted: grant it in the policy or drop the import "
            f"(granted: {', '.join(sorted(granted)) or 'none'})",
            rule="imports",
        )
    found = _signature(wanted.type) if isinstance(wanted.type, FuncType) else ([], [])
    parameters = granted[name]
    if found != (["i32"] * parameters, ["i32"]):
        raise GuestRefusedError(
            f"import {full_name} must be a function of {parameters} i32 that returns one i32: "
            "declare it as the guest interface does",
            rule="imports",
        )
    return name


def _signature(function: FuncType) -> tuple[list[str], list[str]]:
    return [str(value) for value in function.params], [str(value) for value in function.results]


def _check_memory(module: Module, limit_bytes: int) -> int:
    """Return the size of the one memory, which is exported as `memory` and cannot grow."""
    memories = [
        (export.name, export.type) for export in module.exports if isinstance(export.type, MemoryType)
    ]
    if [name for name, _ in memories] != ["memory"]:
        raise GuestRefusedError('exactly one memory must be exported, once, as "memory"', rule="memory")
    pages = memories[0][1].limits
    size = pages.min * PAGE_BYTES
    if pages.max != pages.min:  # SAND-2
        shown = "none" if pages.max is None else f"{pages.max * PAGE_BYTES} bytes"
        raise GuestRefusedError(
            f"its minimum is {size} bytes and its maximum {shown}: link with both the same", rule="memory"
        )
    if size == 0:
        raise GuestRefusedError("it is empty: link with at least one page", rule="memory")
    if size > limit_bytes:
        raise GuestRefusedError(
            f"it is {size} bytes, the limit is {limit_bytes}: link with a smaller initial memory",
            rule="memory",
        )
    return size
