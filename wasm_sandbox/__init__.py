"""Runs one WebAssembly guest with exactly the authority it was given. Knows no policy."""

from wasm_sandbox.admission import HOST_MODULE
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
from wasm_sandbox.image import load_image, precompile
from wasm_sandbox.memory import GuestMemory
from wasm_sandbox.memory_limit import limited_memory
from wasm_sandbox.types import Ending, GuestInfo, Handler, HostCall, Limits, Outcome

__all__ = [
    "HOST_MODULE",
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
    "limited_memory",
    "load",
    "load_image",
    "precompile",
    "run",
]
