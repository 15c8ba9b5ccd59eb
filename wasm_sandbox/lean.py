"""Runs guests through wasmtime's C interface directly: a host call takes about 1 us (ADR 7).

It reaches into the wasmtime package's private ctypes declarations, so it serves exactly the version it was
written and tested for; `lean_available` says whether that one is installed, and else the public interface
serves. Rules of the C interface, <https://docs.wasmtime.dev/c-api/func_8h.html>:

- A callback returns NULL or a trap that it owns. One that raised would return whatever the stack held: every
  callback here catches everything and returns 0.
- A raw value takes 16 bytes; an i32 is the first four, little-endian. Results replace arguments.
- Functions, instances and memories belong to their store and need no freeing; stores, errors and traps do.
"""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, byref, c_size_t, c_uint32, c_void_p
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from wasmtime import Engine, FuncType, Module, Trap, ValType, WasmtimeError, _ffi

from wasm_sandbox.binding import Answer
from wasm_sandbox.types import MAX_PARAMETERS, TABLES, Limits

LEAN_VERSION: Final = "50.0.1"

_ffi_any: Any = _ffi  # the package's declarations are written by a generator and have no types
_Raw = c_uint32 * (4 * MAX_PARAMETERS)
_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint32), c_size_t)
_NO_FINALIZER: Final = ctypes.CFUNCTYPE(None, c_void_p)(0)
_WORDS: Final = 4  # 32-bit words of a raw value
_MASK: Final = 2**32 - 1
_SIGN: Final = 2**31


def lean_available() -> bool:
    """Tell whether this file was written for the installed wasmtime and this machine's byte order."""
    installed = ""
    with suppress(PackageNotFoundError):
        installed = version("wasmtime")
    return installed == LEAN_VERSION and sys.byteorder == "little"


class LeanBinding:
    """See `wasm_sandbox.binding.Binding`."""

    def __init__(self, engine: Engine, module: Module, parameters: Sequence[int]) -> None:
        self._engine = engine
        self._module = module
        # A type belongs to the first engine that it is used with, so each guest has its own.
        self._types = [(count, FuncType([ValType.i32()] * count, [ValType.i32()])) for count in parameters]

    def open(self, limits: Limits) -> "LeanRunning":
        """Make a store that keeps these limits."""
        return LeanRunning(self._engine, self._module, self._types, limits=limits)


class LeanRunning:
    """See `wasm_sandbox.binding.Running`."""

    def __init__(
        self, engine: Engine, module: Module, types: Sequence[tuple[int, FuncType]], *, limits: Limits
    ) -> None:
        self._module = module
        self._types = types
        self._callbacks: list[object] = []  # must outlive the store
        self._instance = _ffi_any.wasmtime_instance_t()
        self._escaped: BaseException | None = None
        self._store = _ffi_any.wasmtime_store_new(engine.ptr(), None, _NO_FINALIZER)
        self._context = _ffi_any.wasmtime_store_context(self._store)
        _ffi_any.wasmtime_store_limiter(self._store, limits.memory_bytes, limits.table_elements, 1, TABLES, 1)
        self._set_fuel(limits.fuel)
        _ffi_any.wasmtime_context_set_epoch_deadline(self._context, 1)

    def instantiate(self, answers: Sequence[Answer]) -> memoryview:
        """Make the instance and return its memory."""
        imports = (_ffi_any.wasmtime_extern_t * len(self._types))()
        for place, (count, kind), answer in zip(imports, self._types, answers, strict=True):
            callback = _CALLBACK(self._callback(count, answer))
            self._callbacks.append(callback)
            raw = ctypes.cast(callback, _ffi_any.wasmtime_func_unchecked_callback_t)
            place.kind = _ffi_any.WASMTIME_EXTERN_FUNC
            _ffi_any.wasmtime_func_new_unchecked(
                self._context, kind.ptr(), raw, None, _NO_FINALIZER, byref(place.of.func)
            )
        trap = POINTER(_ffi_any.wasm_trap_t)()
        error = _ffi_any.wasmtime_instance_new(
            self._context, self._module.ptr(), imports, len(imports), byref(self._instance), byref(trap)
        )
        self._finish(error, trap)
        return self._memory()

    def call(self, export: str) -> int:
        """Call an export."""
        function = self._export(export, _ffi_any.WASMTIME_EXTERN_FUNC).of.func
        raw = _Raw()
        trap = POINTER(_ffi_any.wasm_trap_t)()
        error = _ffi_any.wasmtime_func_call_unchecked(
            self._context,
            byref(function),
            ctypes.cast(raw, POINTER(_ffi_any.wasmtime_val_raw_t)),
            1,
            byref(trap),
        )
        self._finish(error, trap)
        value: int = raw[0]
        return value - 2**32 if value >= _SIGN else value

    def fuel_left(self) -> int:
        """Return the units of fuel that are left."""
        left = ctypes.c_uint64(0)
        _check(_ffi_any.wasmtime_context_get_fuel(self._context, byref(left)))
        return left.value

    def drop_fuel(self) -> None:
        """Leave no fuel."""
        self._set_fuel(0)

    def close(self) -> None:
        """Free the store."""
        store, self._store = self._store, None
        if store is not None:
            _ffi_any.wasmtime_store_delete(store)
        self._callbacks.clear()

    def _set_fuel(self, fuel: int) -> None:
        _check(_ffi_any.wasmtime_context_set_fuel(self._context, fuel))

    def _callback(self, parameters: int, answer: Answer) -> Any:  # noqa: ANN401 - for ctypes
        end = parameters * _WORDS

        def callback(_env: object, _caller: object, raw: Any, _count: int) -> int:  # noqa: ANN401 - a pointer
            try:
                raw[0] = answer(tuple(raw[0:end:_WORDS])) & _MASK
            except BaseException as error:  # noqa: BLE001 - nothing may leave a callback
                self._escaped = error
                raw[0] = _MASK
                self.drop_fuel()
            return 0

        return callback

    def _memory(self) -> memoryview:
        memory = byref(self._export("memory", _ffi_any.WASMTIME_EXTERN_MEMORY).of.memory)
        size = _ffi_any.wasmtime_memory_data_size(self._context, memory)
        address = ctypes.cast(_ffi_any.wasmtime_memory_data(self._context, memory), c_void_p).value
        if address is None:
            raise WasmtimeError("the memory has no address")
        return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def _export(self, name: str, kind: Any) -> Any:  # noqa: ANN401 - a ctypes structure
        item, text = _ffi_any.wasmtime_extern_t(), name.encode()
        found = _ffi_any.wasmtime_instance_export_get(
            self._context, byref(self._instance), text, len(text), byref(item)
        )
        if not found or item.kind != kind.value:
            raise TypeError(f"the export {name!r} was checked to be there")
        return item

    def _finish(self, error: Any, trap: Any) -> None:  # noqa: ANN401 - pointers
        if self._escaped is not None:
            raise self._escaped
        _check(error, trap)


def _check(error: Any, trap: Any = None) -> None:  # noqa: ANN401 - pointers
    if error:
        raise WasmtimeError._from_ptr(error)  # noqa: SLF001
    if trap:
        raise Trap._from_ptr(trap)  # noqa: SLF001
