"""Runs guests through wasmtime's public interface: a host call takes about 15 us."""

from collections.abc import Callable, Sequence
from typing import Any

from wasmtime import Engine, Func, FuncType, Instance, Memory, Module, Store, ValType

from wasm_sandbox.binding import Answer
from wasm_sandbox.types import TABLES, Limits


class PublicBinding:
    """See `wasm_sandbox.binding.Binding`."""

    def __init__(self, engine: Engine, module: Module, parameters: Sequence[int]) -> None:
        self._engine = engine
        self._module = module
        self._types = [FuncType([ValType.i32()] * count, [ValType.i32()]) for count in parameters]

    def open(self, limits: Limits) -> "PublicRunning":
        """Make a store that keeps these limits."""
        return PublicRunning(Store(self._engine), self._module, self._types, limits=limits)


class PublicRunning:
    """See `wasm_sandbox.binding.Running`."""

    def __init__(self, store: Store, module: Module, types: Sequence[FuncType], *, limits: Limits) -> None:
        self._store = store
        self._module = module
        self._types = types
        self._instance: Instance | None = None
        store.set_limits(
            memory_size=limits.memory_bytes,
            table_elements=limits.table_elements,
            instances=1,
            tables=TABLES,
            memories=1,
        )
        store.set_fuel(limits.fuel)
        store.set_epoch_deadline(1)  # nobody counts it up: without a deadline every guest would end at once

    def instantiate(self, answers: Sequence[Answer]) -> memoryview:
        """Make the instance and return its memory."""
        imports = [
            Func(self._store, kind, _spread(answer))
            for kind, answer in zip(self._types, answers, strict=True)
        ]
        self._instance = Instance(self._store, self._module, imports)
        memory = self._instance.exports(self._store)["memory"]
        if not isinstance(memory, Memory):
            raise TypeError("the export 'memory' was checked to be a memory")
        return memoryview(memory.get_buffer_ptr(self._store)).cast("B")

    def call(self, export: str) -> int:
        """Call an export."""
        if self._instance is None:
            raise ValueError("call instantiate() first")
        function = self._instance.exports(self._store)[export]
        if not isinstance(function, Func):
            raise TypeError(f"the export {export!r} was checked to be a function")
        value: int = function(self._store)
        return value

    def fuel_left(self) -> int:
        """Return the units of fuel that are left."""
        return self._store.get_fuel()

    def drop_fuel(self) -> None:
        """Leave no fuel."""
        self._store.set_fuel(0)

    def close(self) -> None:
        """Free the store."""
        self._store.close()


def _spread(answer: Answer) -> Callable[..., int]:
    def host_function(*arguments: Any) -> int:  # noqa: ANN401 - wasmtime's callback
        return answer(tuple(value % 2**32 for value in arguments))

    return host_function
