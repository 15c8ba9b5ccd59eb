"""What a run needs of wasmtime, so that two ways of calling it can be exchanged for each other."""

from collections.abc import Callable, Sequence
from typing import Protocol

from wasmtime import Engine, Module

from wasm_sandbox.types import Limits

Answer = Callable[[tuple[int, ...]], int]
"""A host function: unsigned arguments to a signed status. It never raises."""


class Running(Protocol):
    """One store with at most one instance in it. `Trap` and `WasmtimeError` are raised as wasmtime does."""

    def instantiate(self, answers: Sequence[Answer]) -> memoryview:
        """Make the instance, one answer for each import in their order; return its memory, writable."""

    def call(self, export: str) -> int:
        """Call an export `() -> i32` and return its signed result."""

    def fuel_left(self) -> int:
        """Return the units of fuel that are left."""

    def drop_fuel(self) -> None:
        """Leave no fuel: the guest traps where its next function or turn of a loop begins."""

    def close(self) -> None:
        """Free the store and all that is in it; the memory must not be used afterwards."""


class Binding(Protocol):
    """One compiled guest, ready to be run any number of times and in several threads at once."""

    def __init__(self, engine: Engine, module: Module, parameters: Sequence[int]) -> None:
        """Prepare runs; `parameters` is the number of i32 of each import, in the module's order."""

    def open(self, limits: Limits) -> Running:
        """Make a store that keeps these limits and holds `limits.fuel`."""
