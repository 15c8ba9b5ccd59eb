"""Runs one WebAssembly guest with exactly the authority it was given. Knows no policy."""

from wasm_sandbox.admission import HOST_MODULE
from wasm_sandbox.component import ComponentGuest, ComponentRules, load_component
from wasm_sandbox.component_admission import is_component
from wasm_sandbox.component_types import TRANSFORMS, ComponentCall
from wasm_sandbox.engine import Profile
from wasm_sandbox.errors import (
    GuestAddressError,
    GuestRefusedError,
    HostCallLimitError,
    OutputLimitError,
    SandboxError,
    StopGuest,
)
from wasm_sandbox.guest import Guest, Rules, inspect, load, run
from wasm_sandbox.image import LINES, load_component_image, load_image, precompile
from wasm_sandbox.memory import GuestMemory
from wasm_sandbox.memory_limit import limited_memory
from wasm_sandbox.types import Ending, GuestInfo, Handler, HostCall, Limits, Outcome

__all__ = [
    "HOST_MODULE",
    "LINES",
    "TRANSFORMS",
    "ComponentCall",
    "ComponentGuest",
    "ComponentRules",
    "Ending",
    "Guest",
    "GuestAddressError",
    "GuestInfo",
    "GuestMemory",
    "GuestRefusedError",
    "Handler",
    "HostCall",
    "HostCallLimitError",
    "Limits",
    "Outcome",
    "OutputLimitError",
    "Profile",
    "Rules",
    "SandboxError",
    "StopGuest",
    "inspect",
    "is_component",
    "limited_memory",
    "load",
    "load_component",
    "load_component_image",
    "load_image",
    "precompile",
    "run",
]
