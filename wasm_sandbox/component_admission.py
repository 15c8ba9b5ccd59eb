"""Decides whether a component may be started: its imports and exports, type by type."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from wasmtime import Engine, WasmtimeError
from wasmtime.component import (
    F32,
    S32,
    U8,
    U32,
    Component,
    ComponentInstanceType,
    FuncType,
    ListType,
    ResultType,
    ValType,
)

from wasm_sandbox.binary import MAGIC
from wasm_sandbox.component_types import HOST_INTERFACE, MODEL_INTERFACE, TRANSFORMS
from wasm_sandbox.errors import GuestRefusedError
from wasm_sandbox.types import GuestInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from wasm_sandbox.types import Limits

# Component Model, binary format, preamble: version 13, layer 1 (a core module has version 1, layer 0).
PREAMBLE: Final = MAGIC + b"\x0d\0\x01\0"
_LAYER: Final = slice(6, 8)
_EXPORT: Final = "func() -> s32"
_SHOWN: Final = 120  # characters of a name that a message repeats
_NAMES: Final = {U8: "u8", U32: "u32", S32: "s32", F32: "f32"}


def is_component(guest: bytes) -> bool:
    """Tell a component from everything else by the layer in the binary's preamble."""
    return guest[:4] == MAGIC and guest[_LAYER] == b"\x01\0"


def check_component(guest: bytes, *, limits: Limits) -> None:
    """Refuse what need not be compiled to be refused.

    Raises:
        GuestRefusedError: components are switched off, it is too large, or it is none.
    """
    if limits.component_bytes == 0:  # SAND-8
        raise GuestRefusedError(
            "it is a component, and the policy runs core modules only: build it in another language, or "
            "agree on a policy that switches components on",
            rule="components",
        )
    if len(guest) > limits.component_bytes:
        raise GuestRefusedError(
            f"{len(guest)} bytes, the limit is {limits.component_bytes}: leave out what it does not import",
            rule="module-bytes",
        )
    if guest[: len(PREAMBLE)] != PREAMBLE:
        raise GuestRefusedError("it is not a component of version 13: build it again", rule="binary")


def compile_component(engine: Engine, guest: bytes) -> Component:
    """Compile a component; takes as long as the guest makes it.

    Raises:
        GuestRefusedError: it is not valid.
    """
    try:
        return Component(engine, guest)
    except WasmtimeError as error:
        raise GuestRefusedError(f"not a valid component for this sandbox: {error}", rule="binary") from error


def describe_component(
    engine: Engine,
    component: Component,
    guest: bytes,
    *,
    granted: Mapping[str, str],
    exports: Collection[str],
) -> GuestInfo:
    """Check imports and exports of a compiled component.

    Raises:
        GuestRefusedError: an import is not granted or has another type, or an export is missing.
    """
    imports: set[str] = set()
    for interface, wanted in component.type.imports(engine).items():
        instance = wanted.ty
        if interface != HOST_INTERFACE or not isinstance(instance, ComponentInstanceType):  # SAND-8
            raise _not_granted(interface, granted)
        for name, item in instance.exports(engine).items():
            _check_import(name, item.ty, granted)
            imports.add(name)
    found = _exported(engine, component)
    for name in exports:
        if found.get(name) != _EXPORT:
            raise GuestRefusedError(
                f"no function {name}: {_EXPORT} is exported in {MODEL_INTERFACE}: define it", rule="exports"
            )
    return GuestInfo(
        digest=hashlib.sha256(guest).digest(),
        module_bytes=len(guest),
        memory_bytes=0,
        imports=frozenset(imports),
        exports=frozenset(name for name, signature in found.items() if signature == _EXPORT),
    )


def _exported(engine: Engine, component: Component) -> dict[str, str]:
    """Return name and type of the functions of the model interface and of the transforms."""
    exports = component.type.exports(engine)
    items: dict[str, object] = {}
    model = exports.get(MODEL_INTERFACE)
    if model is not None and isinstance(instance := model.ty, ComponentInstanceType):
        items = {n: item.ty for n, item in instance.exports(engine).items() if n not in TRANSFORMS}
    items |= {name: exports[there].ty for name, there in TRANSFORMS.items() if there in exports}
    return {name: _signature(item) for name, item in items.items() if isinstance(item, FuncType)}


def _check_import(name: str, item: object, granted: Mapping[str, str]) -> None:
    if name not in granted:
        raise _not_granted(f"{HOST_INTERFACE}#{name}", granted)
    found = _signature(item) if isinstance(item, FuncType) else "no function"
    if found != granted[name]:
        raise GuestRefusedError(
            f"import {name!r} must be {granted[name]}: build it with the contract of this Chiron",
            rule="imports",
        )


def _not_granted(name: str, granted: Collection[str]) -> GuestRefusedError:
    return GuestRefusedError(
        f"import {name[:_SHOWN]!r} is not granted: drop the import (granted in {HOST_INTERFACE}: "
        f"{', '.join(sorted(granted)) or 'none'}; WASI is never granted)",
        rule="imports",
    )


def _signature(function: FuncType) -> str:
    result = function.result
    text = f"func({', '.join(_text(kind) for _, kind in function.params)})"
    return text if result is None else f"{text} -> {_text(result)}"


def _text(kind: ValType | None) -> str:
    if kind is None:
        return "_"
    if isinstance(kind, ListType):
        return f"list<{_text(kind.element)}>"
    if isinstance(kind, ResultType):
        return f"result<{_text(kind.ok)}, {_text(kind.err)}>"
    return _NAMES.get(type(kind), "another type")
