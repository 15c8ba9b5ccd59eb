"""Moves lists between wasmtime's component values and packed bytes, all elements at once.

The wasmtime package converts a list one element at a time in Python: seconds for 10 MiB of float32. This is
the one file that speaks to the package's private binding, and only to the major version whose layout it was
written for; with any other it goes through the public API, which is slow and not safe in threads.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from wasmtime import WasmtimeError
from wasmtime import _ffi as ffi

from wasm_sandbox.component_types import ELEMENTS, HOST_INTERFACE, ComponentCall, Numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wasmtime import Config
    from wasmtime.component import Linker, LinkerInstance

_MAJOR: Final = "50"
_VALUE_BYTES, _PAYLOAD_AT = 32, 8  # sizeof and offsetof in wasmtime/component/val.h of that version
_LIST, _S32, _RESULT = 13, 5, 19  # WASMTIME_COMPONENT_* of that version
_KIND_OF_ELEMENT: Final = {"u8": 2, "s32": 5, "u32": 6, "f32": 9}  # WASMTIME_COMPONENT_*
_ELEMENT_OF_KIND: Final = {kind: element for element, kind in _KIND_OF_ELEMENT.items()}
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_STOPPED: Final = -1  # what a guest that is being ended gets from any host call


class Port(Protocol):
    """The run's end of a host call: neither method may raise."""

    def answer(self, name: str, call: ComponentCall, values: tuple[int | bytes, ...]) -> int | Numbers:
        """Run the handler; -1 when the guest is being ended."""

    def fail(self, name: str, fault: BaseException) -> None:
        """Record that a value could not be converted, and end the guest."""


def fast_path_fits() -> bool:
    """Tell whether the installed wasmtime has the layout that the fast path was written for."""
    try:
        value = ffi.wasmtime_component_val_t
        layout = (ctypes.sizeof(value), value.of.offset, value.kind.offset)
        kinds = (
            ffi.WASMTIME_COMPONENT_LIST.value,
            ffi.WASMTIME_COMPONENT_S32.value,
            ffi.WASMTIME_COMPONENT_RESULT.value,
        )
    except AttributeError:
        return False
    major = importlib.metadata.version("wasmtime").split(".")[0]
    return (major, layout, kinds) == (_MAJOR, (_VALUE_BYTES, _PAYLOAD_AT, 0), (_LIST, _S32, _RESULT))


def switch_off_async(config: Config) -> None:
    """Refuse components with tasks, futures and streams; a version without this setting keeps its default."""
    with suppress(AttributeError):
        ffi.wasmtime_config_wasm_component_model_async_set(config.ptr(), False)  # noqa: FBT003 - C's signature


def link(linker: Linker, calls: Mapping[str, ComponentCall], port: Port, *, fast: bool) -> list[Any]:
    """Define the granted host calls; what it returns must live as long as the linker and its instances."""
    with linker.root() as root, root.add_instance(HOST_INTERFACE) as instance:
        if fast:
            return [_add_fast(instance, name, call, port) for name, call in calls.items()]
        for name, call in calls.items():
            instance.add_func(name, _public_function(name, call, port))
    return []


def _add_fast(instance: LinkerInstance, name: str, call: ComponentCall, port: Port) -> object:
    def callback(*given: Any) -> int:  # noqa: ANN401 - wasmtime's callback
        _data, _context, _type, arguments, count, results, _gives = given
        try:
            values = tuple(_take(arguments[index]) for index in range(count))
            _give(results[0], port.answer(name, call, values), call.gives)
        except BaseException as error:  # noqa: BLE001 - SAND-7: nothing may be raised into wasmtime
            port.fail(name, error)
            _give(results[0], _STOPPED, None)
        return 0  # no trap: the guest has no fuel left when it was stopped

    function, raw = ffi.wasmtime_component_func_callback_t(callback), name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(), ctypes.create_string_buffer(raw), len(raw), function, None, _NO_FINALIZER
    )
    if error:
        raise WasmtimeError._from_ptr(error)  # noqa: SLF001 - how the package itself makes one
    return function


def _take(value: Any) -> int | bytes:  # noqa: ANN401 - a ctypes structure
    """Return an integer, or the packed elements of a list, which is freed."""
    if value.kind != _LIST:
        return int(value.of.u32)
    raw = value.of.list
    try:
        if raw.size == 0:
            return b""
        packed: bytes = _payloads(raw, _ELEMENT_OF_KIND[raw.data[0].kind])["payload"].tobytes()
        return packed
    finally:
        ffi.wasmtime_component_vallist_delete(ctypes.byref(raw))


def _give(result: Any, answer: int | Numbers, element: str | None) -> None:  # noqa: ANN401 - as above
    """Write `ok(list)`, `ok` or `err(status)`; wasmtime owns what is allocated here."""
    result.of.result.is_ok = good = not isinstance(answer, int) or answer >= 0
    result.of.result.val = None
    result.kind = _RESULT
    if good and element is None:
        return
    inner = ffi.wasmtime_component_val_t()
    if isinstance(answer, int):
        inner.kind, inner.of.s32 = _S32, answer
    else:
        inner.of.list = _list_of(answer, element or "u8")
        inner.kind = _LIST
    result.of.result.val = ffi.wasmtime_component_val_new(ctypes.byref(inner))


def _list_of(answer: Numbers, element: str) -> Any:  # noqa: ANN401 - as above
    numbers = unpacked(answer, element)
    raw = ffi.wasmtime_component_vallist_t()
    ffi.wasmtime_component_vallist_new_uninit(ctypes.byref(raw), len(numbers))
    if len(numbers):
        fields = _payloads(raw, element)
        fields["kind"] = _KIND_OF_ELEMENT[element]
        fields["payload"] = numbers
    return raw


def unpacked(answer: Numbers, element: str) -> np.ndarray[Any, Any]:
    """Return packed elements as a flat array."""
    return np.frombuffer(answer if isinstance(answer, bytes) else answer.tobytes(), ELEMENTS[element])


def _payloads(raw: Any, element: str) -> np.ndarray[Any, Any]:  # noqa: ANN401 - as above
    """Return the values of a list as an array over wasmtime's own memory."""
    layout = np.dtype(
        {
            "names": ["kind", "payload"],
            "formats": ["u1", ELEMENTS[element]],
            "offsets": [0, _PAYLOAD_AT],
            "itemsize": _VALUE_BYTES,
        }
    )
    memory = (ctypes.c_uint8 * (_VALUE_BYTES * raw.size)).from_address(ctypes.addressof(raw.data.contents))
    return np.frombuffer(memory, layout)


def _public_function(name: str, call: ComponentCall, port: Port) -> Callable[..., Any]:
    """Return a host function for the package's own conversion."""

    def host_function(_store: object, *arguments: Any) -> Any:  # noqa: ANN401 - wasmtime's callback
        try:
            values = [
                value if isinstance(value, int | bytes) else np.array(value, ELEMENTS[kind[5:-1]]).tobytes()
                for value, kind in zip(arguments, call.parameters, strict=True)
            ]
            answer = port.answer(name, call, tuple(values))
            if isinstance(answer, int):
                return answer if answer < 0 else None
            numbers = unpacked(answer, call.gives or "u8")
            return numbers.tobytes() if call.gives == "u8" else numbers.tolist()
        except BaseException as error:  # noqa: BLE001 - SAND-7
            port.fail(name, error)
            return _STOPPED

    return host_function
