"""Runs one export of one guest in a store of its own and turns every ending into an `Outcome`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from wasmtime import (
    Engine,
    Func,
    FuncType,
    Instance,
    Linker,
    Memory,
    Module,
    Store,
    Trap,
    TrapCode,
    ValType,
    WasmtimeError,
)

from wasm_sandbox.admission import HOST_MODULE, compile_guest, describe
from wasm_sandbox.binary import check_binary
from wasm_sandbox.engine import make_engine
from wasm_sandbox.errors import StopGuest
from wasm_sandbox.memory import GuestMemory
from wasm_sandbox.types import Ending, HostCall, Limits, Outcome

_TABLES: Final = 4
_STOPPED_STATUS: Final = -1  # what a guest that is being ended gets from any host call
_I32_MIN, _I32_MAX = -(2**31), 2**31 - 1


def run(guest: bytes, *, export: str, imports: Mapping[str, HostCall], limits: Limits) -> Outcome:
    """Run one exported function of a guest in a fresh instance that lives for this call only.

    Compilation is not fuelled and fuel is not time: a caller that needs either bounded in time runs this
    in a process that it can kill.

    Args:
        guest: the binary.
        export: name of a function `() -> i32`.
        imports: the host calls it is granted, by name, in module `chiron`.
        limits: the most it may use.

    Raises:
        GuestRefusedError: the guest breaks a rule of `inspect`; none of its code ran.
    """
    check_binary(guest, module_bytes=limits.module_bytes)
    arity = {name: call.parameters for name, call in imports.items()}
    with make_engine(stack_bytes=limits.stack_bytes) as engine, compile_guest(engine, guest) as module:
        describe(module, guest, granted=arity, limits=limits, exports=[export])
        with Store(engine) as store, Linker(engine) as linker:  # SAND-6
            request = _Request(engine, store, limits=limits)
            request.link(linker, imports)
            outcome = request.execute(linker, module, export=export)
    if request.fault is not None and not isinstance(request.fault, Exception):
        raise request.fault  # KeyboardInterrupt and the like are the process's affair, not an outcome
    return outcome


class _Request:
    """State of one run. Host functions record what went wrong here and never raise into wasmtime.

    The wasmtime package keeps an exception raised by a host function in one variable of the process and
    raises it from whichever call into wasmtime ends next, in any thread.
    """

    def __init__(self, engine: Engine, store: Store, *, limits: Limits) -> None:
        self._engine = engine
        self._store = store
        self._limits = limits
        self._memory: GuestMemory | None = None
        self._stopped_in = ""
        self._fuel_at_stop = 0
        self.fault: BaseException | None = None
        store.set_limits(
            memory_size=limits.memory_bytes,
            table_elements=limits.table_elements,
            instances=1,
            tables=_TABLES,
            memories=1,
        )
        store.set_fuel(limits.fuel)  # SAND-3
        store.set_epoch_deadline(1)

    def link(self, linker: Linker, imports: Mapping[str, HostCall]) -> None:
        """Define exactly the granted host calls."""
        for name, call in imports.items():
            kind = FuncType([ValType.i32()] * call.parameters, [ValType.i32()])
            linker.define_func(HOST_MODULE, name, kind, self._host_function(name, call))

    def execute(self, linker: Linker, module: Module, *, export: str) -> Outcome:
        """Instantiate, touch the memory, call the export."""
        try:
            instance = linker.instantiate(self._store, module)
            self._memory = self._open_memory(instance)
            self._memory.touch_all()
            value = self._call(instance, export)
        except Trap as trap:
            return self._outcome(_ending_of(trap), detail=trap.message)
        except WasmtimeError as error:
            # Imports were matched before, so all that can fail here is making memory and tables.
            return self._outcome(Ending.MEMORY, detail=str(error))
        finally:
            if self._memory is not None:
                self._memory.close()
        return self._outcome(Ending.RETURNED, value=value)

    def _open_memory(self, instance: Instance) -> GuestMemory:
        memory = instance.exports(self._store)["memory"]
        if not isinstance(memory, Memory):
            raise TypeError("the export 'memory' was checked to be a memory")
        view = memoryview(memory.get_buffer_ptr(self._store)).cast("B")
        return GuestMemory(view, output_bytes=self._limits.output_bytes)

    def _call(self, instance: Instance, export: str) -> int:
        function = instance.exports(self._store)[export]
        if not isinstance(function, Func):
            raise TypeError(f"the export {export!r} was checked to be a function")
        value: int = function(self._store)
        return value

    def _host_function(self, name: str, call: HostCall) -> Callable[..., int]:
        def host_function(*arguments: Any) -> int:  # noqa: ANN401 - wasmtime's callback
            # Fuel and epoch are looked at where functions and loops begin: until there a stopped guest can
            # still call, and gets nothing.
            if self.fault is not None:
                return _STOPPED_STATUS
            try:
                return self._answer(call, tuple(value % 2**32 for value in arguments))
            except BaseException as error:  # noqa: BLE001 - SAND-7: nothing may be raised into wasmtime
                self._stop(name, error)
                return _STOPPED_STATUS

        return host_function

    def _answer(self, call: HostCall, arguments: tuple[int, ...]) -> int:
        if self._memory is None:
            raise RuntimeError("a host call came before the guest was started")
        status = call.handler(self._memory, arguments)
        if not isinstance(status, int) or not _I32_MIN <= status <= _I32_MAX:
            raise TypeError("a host call's handler must return an int that fits in an i32")
        return int(status)

    def _stop(self, name: str, fault: BaseException) -> None:
        self.fault = fault
        self._stopped_in = name
        self._fuel_at_stop = self._store.get_fuel()
        self._engine.increment_epoch()
        self._store.set_fuel(0)

    def _outcome(self, ending: Ending, *, detail: str = "", value: int | None = None) -> Outcome:
        if self.fault is None:
            return Outcome(ending, value, self._limits.fuel - self._store.get_fuel(), detail)
        stopped = isinstance(self.fault, StopGuest)
        ending = Ending.STOPPED if stopped else Ending.HOST_FAULT
        detail = f"host call {self._stopped_in}: {type(self.fault).__name__}: {self.fault}"
        return Outcome(ending, None, self._limits.fuel - self._fuel_at_stop, detail)


def _ending_of(trap: Trap) -> Ending:
    if trap.trap_code is TrapCode.OUT_OF_FUEL:
        return Ending.OUT_OF_FUEL
    if trap.trap_code is TrapCode.ALLOCATION_TOO_LARGE:
        return Ending.MEMORY
    return Ending.TRAPPED
