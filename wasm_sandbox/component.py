"""Runs one export of a guest that is a component, with the limits and endings of a core guest.

What differs from a core guest is in spec/adr/0008-python-guests-are-components.md: its memory may grow up to
the limit, and is not resident before it runs.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from wasmtime import Store, WasmtimeError
from wasmtime.component import Func, Linker

from wasm_sandbox.component_admission import check_component, compile_component, describe_component
from wasm_sandbox.component_link import fast_path_fits, link
from wasm_sandbox.component_types import MODEL_INTERFACE, TRANSFORMS
from wasm_sandbox.engine import Profile, make_component_engine
from wasm_sandbox.errors import HostCallLimitError, OutputLimitError, StopGuest
from wasm_sandbox.types import MAX_DETAIL, Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from wasmtime import Engine
    from wasmtime.component import Component, ExportIndex, Instance

    from wasm_sandbox.component_types import ComponentCall, Numbers
    from wasm_sandbox.types import GuestInfo, Limits

# What componentize-py links together: one memory, a few dozen small adapters.
_INSTANCES: Final = 64
_TABLES: Final = 8
_STOPPED_STATUS: Final = -1
_I32_MIN: Final = -(2**31)
_ONE_AT_A_TIME: Final = threading.Lock()  # the public conversion keeps state in one variable of the process


@dataclass(frozen=True, slots=True)
class ComponentRules:
    """What a component is held to.

    Args:
        granted: the host calls it may import, by name, each with its `ComponentCall.signature`.
        limits: the most it may use; `component_bytes` of 0 refuses every component.
        exports: functions it must export in the model interface, each `() -> s32`.
    """

    granted: Mapping[str, str]
    limits: Limits
    exports: Collection[str] = ()


class ComponentGuest:
    """A compiled component that obeys the rules. Runs as often as wished, each time in a fresh store.

    A context manager: leaving it frees the compiled code.
    """

    def __init__(
        self, engine: Engine, component: Component, *, info: GuestInfo, rules: ComponentRules
    ) -> None:
        self._engine = engine
        self._component = component
        self._imports = {(name, rules.granted[name]) for name in info.imports}
        self._fast = fast_path_fits()
        self.info = info
        self.limits = rules.limits  # the stack's is fixed by now

    def run(self, export: str, *, imports: Mapping[str, ComponentCall]) -> Outcome:
        """Run one exported function in a fresh instance that lives for this call only.

        Args:
            export: name of a function `() -> s32`: of the model interface, or a transform.
            imports: the host calls; those that `load_component` was told were granted.
        """
        known = {(name, call.signature) for name, call in imports.items()}
        if export not in self.info.exports or not self._imports <= known:
            raise ValueError("run what load_component checked, with the calls that it was granted")
        with (
            nullcontext() if self._fast else _ONE_AT_A_TIME,
            Store(self._engine) as store,  # SAND-6
            Linker(self._engine) as linker,
        ):
            request = _Request(store, limits=self.limits)
            alive = link(linker, imports, request, fast=self._fast)
            outcome = request.execute(linker, self._component, export=export)
            del alive
        if request.fault is not None and not isinstance(request.fault, Exception):
            raise request.fault  # KeyboardInterrupt and the like are the process's affair, not an outcome
        return outcome

    def interrupt(self) -> None:
        """End every run that is going on: each traps where its next function or turn of a loop begins."""
        self._engine.increment_epoch()

    def machine_code(self) -> bytes:
        """Return what was compiled, in wasmtime's own form; `wasm_sandbox.image` authenticates it."""
        return bytes(self._component.serialize())

    def close(self) -> None:
        """Free the compiled code; no run may be under way."""
        self._component.close()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def load_component(guest: bytes, rules: ComponentRules) -> ComponentGuest:
    """Check every rule a component must obey and compile it, here: where it can be killed, or for one's own.

    Raises:
        GuestRefusedError: a rule is broken; the text names the rule and the remedy.
    """
    return make_component(guest, rules, lambda engine: compile_component(engine, guest))


def make_component(
    guest: bytes, rules: ComponentRules, compiled: Callable[[Engine], Component]
) -> ComponentGuest:
    """Make a guest of what a function gives for its engine; errors as for `load_component`."""
    check_component(guest, limits=rules.limits)
    engine = make_component_engine(stack_bytes=rules.limits.stack_bytes, profile=Profile.ENCLAVE)
    try:
        component = compiled(engine)
        info = describe_component(engine, component, guest, granted=rules.granted, exports=rules.exports)
    except BaseException:
        engine.close()
        raise
    return ComponentGuest(engine, component, info=info, rules=rules)


class _Request:
    """State of one run. Host calls record what went wrong here and never raise into wasmtime.

    A stop takes the fuel away. The engine is shared by all runs of one component, so its epoch stays alone.
    """

    def __init__(self, store: Store, *, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._calls_left = limits.host_calls
        self._output_left = limits.output_bytes
        self._stopped_in = ""
        self._fuel_at_stop = 0
        self.fault: BaseException | None = None
        store.set_limits(
            memory_size=limits.memory_bytes,
            table_elements=limits.table_elements,
            instances=_INSTANCES,
            tables=_TABLES,
            memories=1,
        )
        store.set_fuel(limits.fuel)  # SAND-3
        store.set_epoch_deadline(1)

    def execute(self, linker: Linker, component: Component, *, export: str) -> Outcome:
        """Instantiate and call the export."""
        started = False
        try:
            instance = linker.instantiate(self._store, component)
            started = True
            index = _find(instance, self._store, export)
            function = None if index is None else instance.get_func(self._store, index)
            if not isinstance(function, Func):
                raise TypeError(f"the export {export!r} was checked to be a function")
            value: Any = function(self._store)
        except WasmtimeError as error:
            return self._outcome(self._ending(started=started, detail=str(error)), detail=str(error))
        return self._outcome(Ending.RETURNED, value=int(value))

    def _ending(self, *, started: bool, detail: str) -> Ending:
        """Name the ending; a component's errors carry no code of the trap."""
        if self._store.get_fuel() == 0:
            return Ending.OUT_OF_FUEL
        return Ending.TRAPPED if started or "wasm trap" in detail else Ending.MEMORY

    def answer(self, name: str, call: ComponentCall, values: tuple[int | bytes, ...]) -> int | Numbers:
        """Run one host call's handler; -1 when the guest is being ended."""
        if self.fault is not None:
            return _STOPPED_STATUS
        try:
            self._count(values)
            answer = call.handler(values)
            _check_answer(call, answer)
        except BaseException as error:  # noqa: BLE001 - SAND-7: nothing may be raised into wasmtime
            self.fail(name, error)
            return _STOPPED_STATUS
        return answer

    def fail(self, name: str, fault: BaseException) -> None:
        """Record what went wrong and take the guest's fuel; what was recorded first stays."""
        if self.fault is None:
            self.fault = fault
            self._stopped_in = name
            self._fuel_at_stop = self._store.get_fuel()
            self._store.set_fuel(0)

    def _count(self, values: tuple[int | bytes, ...]) -> None:
        self._calls_left -= 1
        if self._calls_left < 0:
            raise HostCallLimitError(
                f"the guest made more than {self._limits.host_calls} host calls: ask for more at once"
            )
        self._output_left -= sum(len(value) for value in values if isinstance(value, bytes))
        if self._output_left < 0:
            raise OutputLimitError(
                f"the guest handed out more than {self._limits.output_bytes} bytes: "
                "emit less or raise output_bytes"
            )

    def _outcome(self, ending: Ending, *, detail: str = "", value: int | None = None) -> Outcome:
        if self.fault is None:
            return Outcome(ending, value, self._limits.fuel - self._store.get_fuel(), detail[:MAX_DETAIL])
        stopped = isinstance(self.fault, StopGuest)
        ending = Ending.STOPPED if stopped else Ending.HOST_FAULT
        detail = f"host call {self._stopped_in}: {type(self.fault).__name__}: {self.fault}"
        return Outcome(ending, None, self._limits.fuel - self._fuel_at_stop, detail[:MAX_DETAIL])


def _find(instance: Instance, store: Store, export: str) -> ExportIndex | None:
    """Return where a function is: a transform stands by itself, with hyphens in its name (spec/guest.wit)."""
    if export in TRANSFORMS:
        return instance.get_export_index(store, TRANSFORMS[export])
    model = instance.get_export_index(store, MODEL_INTERFACE)
    return instance.get_export_index(store, export, model)


def _check_answer(call: ComponentCall, answer: int | Numbers) -> None:
    """Hold a handler to its form, so that converting its answer cannot fail."""
    status = isinstance(answer, int) and _I32_MIN <= answer < 0
    done = answer == 0 if isinstance(answer, int) else call.gives is not None
    if not (status or (done and (call.gives is None) == isinstance(answer, int))):
        raise TypeError("a host call's handler must return a negative status, or what its form gives")
