"""The engine's settings: deterministic, interruptible, and without what a guest does not need.

Two profiles differ only in how a memory access is checked: the same guest and inputs give the same outcome
and use the same fuel in both.
"""

import hashlib
import json
from enum import Enum
from typing import Final

from wasmtime import Config, Engine

from wasm_sandbox.component_link import switch_off_async


class Profile(Enum):
    """How the engine uses the process that it is in."""

    DEFAULT = "default"  # reserves address space and catches signals: what wasmtime does on a plain host
    ENCLAVE = "enclave"  # neither: what Gramine needs, and what runs everywhere


_COMMON: Final[dict[str, bool]] = {
    **dict.fromkeys(("consume_fuel", "epoch_interruption", "cranelift_nan_canonicalization"), True),
    **dict.fromkeys(
        (
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
            # what depends on the process and not on the guest
            "memory_init_cow",
            "parallel_compilation",
            "debug_info",
        ),
        False,
    ),
}
_OF_PROFILE: Final[dict[Profile, dict[str, bool | int]]] = {
    Profile.DEFAULT: {
        "signals_based_traps": True,
        "memory_reservation": 4 << 30,
        "memory_guard_size": 32 << 20,
        "memory_reservation_for_growth": 0,
    },
    Profile.ENCLAVE: {
        "signals_based_traps": False,
        "memory_reservation": 0,
        "memory_guard_size": 0,
        "memory_reservation_for_growth": 0,
    },
}


def settings(*, stack_bytes: int, profile: Profile, components: bool = False) -> dict[str, bool | int]:
    """Return every setting by its name in wasmtime's Config.

    Args:
        stack_bytes: native stack a guest may use.
        profile: how the engine uses its process.
        components: whether the engine is for components, which are large and so are compiled in parallel.
    """
    of_components = {"wasm_component_model": True, "parallel_compilation": True} if components else {}
    # SAND-12: nothing here changes what a guest computes
    return {**_COMMON, **_OF_PROFILE[profile], **of_components, "max_wasm_stack": stack_bytes}  # SAND-4


def settings_digest(*, stack_bytes: int, profile: Profile, components: bool = False) -> bytes:
    """Return SHA-256 of the settings: machine code made under others has another one."""
    table = settings(stack_bytes=stack_bytes, profile=profile, components=components)
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).digest()


def make_component_engine(*, stack_bytes: int, profile: Profile) -> Engine:
    """Make an engine for components; arguments as for `settings`."""
    config = Config()
    for name, value in settings(stack_bytes=stack_bytes, profile=profile, components=True).items():
        setattr(config, name, value)
    switch_off_async(config)
    return Engine(config)


def make_engine(*, stack_bytes: int, profile: Profile = Profile.ENCLAVE) -> Engine:
    """Make an engine with exactly these settings; arguments as for `settings`."""
    config = Config()
    for name, value in settings(stack_bytes=stack_bytes, profile=profile).items():  # SAND-4
        setattr(config, name, value)
    return Engine(config)
