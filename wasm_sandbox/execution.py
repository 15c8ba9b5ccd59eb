"""Runs one export of one guest in a store of its own and turns every ending into an `Outcome`."""

from collections.abc import Sequence
from typing import Final

from wasmtime import Trap, TrapCode, WasmtimeError

from wasm_sandbox.binding import Answer, Binding
from wasm_sandbox.errors import HostCallLimitError, StopGuest
from wasm_sandbox.memory import GuestMemory
from wasm_sandbox.types import MAX_DETAIL, Ending, HostCall, Limits, Outcome

_STOPPED_STATUS: Final = -1  # what a guest that is being ended gets from any host call
_I32_MIN, _I32_MAX = -(2**31), 2**31 - 1
_HEADROOM: Final = 50  # Python calls that a handler may nest


def run(binding: Binding, calls: Sequence[tuple[str, HostCall]], *, export: str, limits: Limits) -> Outcome:
    """Run one exported function of a guest in a fresh instance that lives for this call only.

    Args:
        binding: the guest.
        calls: name and handler of each of its imports, in its order.
        export: name of a function `() -> i32` that it has.
        limits: the most it may use.
    """
    _require_headroom(_HEADROOM)
    request = _Request(binding, limits=limits)  # SAND-6
    try:
        outcome = request.execute(calls, export=export)
    finally:
        request.close()
    if request.fault is not None and not isinstance(request.fault, Exception):
        raise request.fault  # KeyboardInterrupt and the like are the process's affair, not an outcome
    return outcome


class _Request:
    """State of one run. Host functions record what went wrong here and never raise into wasmtime.

    The wasmtime package keeps an exception raised by a host function in one variable of the process and
    raises it from whichever call into wasmtime ends next, in any thread; the lean binding would not survive.
    """

    def __init__(self, binding: Binding, *, limits: Limits) -> None:
        self._limits = limits
        self._running = binding.open(limits)  # SAND-3
        self._memory: GuestMemory | None = None
        self._calls_left = limits.host_calls
        self._stopped_in = ""
        self._fuel_at_stop = 0
        self.fault: BaseException | None = None

    def execute(self, calls: Sequence[tuple[str, HostCall]], *, export: str) -> Outcome:
        """Instantiate, touch the memory, call the export."""
        try:
            answers = [self._host_function(name, call) for name, call in calls]
            view = self._running.instantiate(answers)
            self._memory = GuestMemory(view, output_bytes=self._limits.output_bytes)
            self._memory.touch_all()
            value = self._running.call(export)
        except Trap as trap:
            return self._trapped(trap)
        except WasmtimeError as error:
            # Imports were matched before, so all that can fail here is making memory and tables.
            return self._outcome(Ending.MEMORY, detail=str(error))
        return self._outcome(Ending.RETURNED, value=value)

    def close(self) -> None:
        """Take the memory from whoever kept it, then free the store."""
        if self._memory is not None:
            self._memory.close()
        self._running.close()

    def _host_function(self, name: str, call: HostCall) -> Answer:
        handler = call.handler

        def host_function(arguments: tuple[int, ...]) -> int:
            # Fuel is looked at where functions and loops begin: until there a stopped guest can still call,
            # and gets nothing.
            if self.fault is not None:
                return _STOPPED_STATUS
            try:
                memory = self._admit_call()
                status = handler(memory, arguments)
                if not isinstance(status, int) or not _I32_MIN <= status <= _I32_MAX:
                    raise TypeError("a host call's handler must return an int that fits in an i32")  # noqa: TRY301
            except BaseException as error:  # noqa: BLE001 - SAND-7: nothing may be raised into wasmtime
                self._stop(name, error)
                return _STOPPED_STATUS
            return status

        return host_function

    def _admit_call(self) -> GuestMemory:
        if self._memory is None:
            raise RuntimeError("a host call came before the guest was started")
        if not self._calls_left:
            raise HostCallLimitError(
                f"the guest made more than {self._limits.host_calls} host calls: ask for more at once"
            )
        self._calls_left -= 1
        return self._memory

    def _stop(self, name: str, fault: BaseException) -> None:
        self.fault = fault
        self._stopped_in = name
        self._fuel_at_stop = self._running.fuel_left()
        self._running.drop_fuel()

    def _trapped(self, trap: Trap) -> Outcome:
        if trap.trap_code is TrapCode.STACK_OVERFLOW:
            # How deep a stack reaches is the compiler's affair and differs between profiles: neither the
            # fuel until there nor the frames there may show.
            self._running.drop_fuel()
            return self._outcome(Ending.TRAPPED, detail="call stack exhausted: recurse less deeply")
        if trap.trap_code is TrapCode.OUT_OF_FUEL:
            return self._outcome(Ending.OUT_OF_FUEL, detail=trap.message)
        too_large = trap.trap_code is TrapCode.ALLOCATION_TOO_LARGE
        return self._outcome(Ending.MEMORY if too_large else Ending.TRAPPED, detail=trap.message)

    def _outcome(self, ending: Ending, *, detail: str = "", value: int | None = None) -> Outcome:
        if self.fault is None:
            used = self._limits.fuel - self._running.fuel_left()
            return Outcome(ending, value, used, detail[:MAX_DETAIL])
        stopped = isinstance(self.fault, StopGuest)
        ending = Ending.STOPPED if stopped else Ending.HOST_FAULT
        detail = f"host call {self._stopped_in}: {type(self.fault).__name__}: {self.fault}"
        return Outcome(ending, None, self._limits.fuel - self._fuel_at_stop, detail[:MAX_DETAIL])


def _require_headroom(calls: int) -> None:
    """Raise RecursionError here rather than where a host function begins, which nothing could catch."""
    if calls:
        _require_headroom(calls - 1)
