"""The one set of engine settings: deterministic, interruptible, and without what a guest does not need."""

from typing import Final

from wasmtime import Config, Engine

from wasm_sandbox.component_link import switch_off_async

_ON: Final = ("consume_fuel", "epoch_interruption", "cranelift_nan_canonicalization")
_OFF: Final = (
    # proposals beyond core 2.0
    "wasm_threads",
    "wasm_relaxed_simd",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_gc",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_tail_call",
    "wasm_stack_switching",
    "wasm_custom_page_sizes",
    "wasm_wide_arithmetic",
    "wasm_component_model",
    "wasm_component_model_map",
    "wasm_component_model_implements",
    "gc_support",
    "shared_memory",
    # no signal handlers in the process and no huge reservations of address space: also what Gramine needs
    "signals_based_traps",
    "memory_init_cow",
    "parallel_compilation",
    "debug_info",
)
_COMPONENTS: Final = ("wasm_component_model", "parallel_compilation")
_ZERO: Final = ("memory_reservation", "memory_guard_size", "memory_reservation_for_growth")


def make_engine(*, stack_bytes: int, components: bool = False) -> Engine:
    """Make an engine of its own, so that ending its guest by the epoch touches no other guest.

    Args:
        stack_bytes: native stack a guest may use.
        components: whether it is for components, which are large and so are compiled in parallel.
    """
    config = Config()
    for name in _ON:
        setattr(config, name, True)
    for name in _OFF:
        setattr(config, name, components and name in _COMPONENTS)
    for name in _ZERO:
        setattr(config, name, 0)
    config.max_wasm_stack = stack_bytes  # SAND-4
    if components:
        switch_off_async(config)
    return Engine(config)
