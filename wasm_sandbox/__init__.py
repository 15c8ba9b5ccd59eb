"""Runs one WebAssembly guest with exactly the authority it was given. Knows no policy."""

from wasm_sandbox.admission import HOST_MODULE, inspect
from wasm_sandbox.component import ComponentGuest, load_component
from wasm_sandbox.component_admission import is_component
from wasm_sandbox.component_types import ComponentCall
from wasm_sandbox.errors import (
    GuestAddressError,
    GuestRefusedError,
    OutputLimitError,
    SandboxError,
    StopGuest,
)
from wasm_sandbox.execution import run
from wasm_sandbox.memory import GuestMemory
from wasm_sandbox.types import Ending, GuestInfo, Handler, HostCall, Limits, Outcome

__all__ = [
    "HOST_MODULE",
    "ComponentCall",
    "ComponentGuest",
    "Ending",
    "GuestAddressError",
    "GuestInfo",
    "GuestMemory",
    "GuestRefusedError",
    "Handler",
    "HostCall",
    "Limits",
    "Outcome",
    "OutputLimitError",
    "SandboxError",
    "StopGuest",
    "inspect",
    "is_component",
    "load_component",
    "run",
]
