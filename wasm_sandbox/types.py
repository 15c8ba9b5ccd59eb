"""What a run is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from wasm_sandbox.memory import GuestMemory

PAGE_BYTES = 65_536  # WebAssembly core 2.0, section 4.2.8
MAX_MEMORY_BYTES = 2**32
# wasmtime ends the process when the limit exceeds its own fibre stacks (2 MiB), and the thread that runs a
# guest needs room beyond it for the host calls.
MAX_STACK_BYTES = 1 << 20
MIN_STACK_BYTES = 16 << 10
MAX_DETAIL = 2_000
MAX_FUEL = 2**63 - 1
MAX_PARAMETERS = 16
TABLES = 4
MAX_COMPILE_MS = 3_600_000
MIN_COMPILE_BYTES = 64 << 20  # what the smallest guest needs, with room to spare

Handler = Callable[[GuestMemory, tuple[int, ...]], int]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a guest may use.

    Args:
        fuel: units of work, about one a WebAssembly instruction; it is not time. It is looked at where
            functions and loops begin, so that straight code may still run to its end on the last unit.
        memory_bytes: size of linear memory.
        table_elements: elements of a table, at the start and after growing.
        stack_bytes: native stack used by the guest's calls, 16 KiB to 1 MiB.
        module_bytes: size of the guest's binary.
        output_bytes: sum of all bytes that host calls read from the guest's memory.
        host_calls: number of host calls of one run.
        component_bytes: size of the binary of a guest that is a component; 0 refuses components.
        compile_ms: time that `precompile` gives the compiler's process.
        compile_bytes: private memory that `precompile` gives the compiler beyond what its process has.

    Raises:
        ValueError: a limit lies outside what the engine can keep.
    """

    fuel: int
    memory_bytes: int
    table_elements: int = 1_024
    stack_bytes: int = 512 << 10
    module_bytes: int = 8 << 20
    output_bytes: int = 64 << 20
    host_calls: int = 100_000
    component_bytes: int = 0
    compile_ms: int = 10_000
    compile_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        ranges = {
            "fuel": (0, MAX_FUEL),
            "memory_bytes": (0, MAX_MEMORY_BYTES),
            "table_elements": (0, 1 << 20),
            "stack_bytes": (MIN_STACK_BYTES, MAX_STACK_BYTES),
            "module_bytes": (0, 1 << 30),
            "output_bytes": (0, MAX_MEMORY_BYTES),
            "host_calls": (0, MAX_FUEL),
            "component_bytes": (0, 1 << 30),
            "compile_ms": (1, MAX_COMPILE_MS),
            "compile_bytes": (MIN_COMPILE_BYTES, 1 << 40),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class HostCall:
    """One capability: a function a guest may import from module `chiron`.

    Args:
        parameters: how many i32 parameters it has; the result is always one i32, the status.
        handler: called with the guest's memory and the arguments, each an unsigned integer below 2**32.
            Returns the status, at least -2**31 and below 2**31. Raises `StopGuest` to end the guest;
            anything else it raises ends the run as `Ending.HOST_FAULT`.

    Raises:
        ValueError: more than 16 parameters.
    """

    parameters: int
    handler: Handler

    def __post_init__(self) -> None:
        if not 0 <= self.parameters <= MAX_PARAMETERS:
            raise ValueError(f"a host call has 0 to {MAX_PARAMETERS} parameters, not {self.parameters}")


class Ending(Enum):
    """The ways a run can end."""

    RETURNED = "returned"
    TRAPPED = "trapped"
    OUT_OF_FUEL = "out of fuel"
    MEMORY = "memory"
    STOPPED = "stopped by the host"
    HOST_FAULT = "host fault"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Args:
        ending: which of the closed set of endings.
        value: the export's i32 result, signed; None unless it returned.
        fuel_used: units of fuel spent until the end; after a stop, until the stop; all of it when the stack
            ran out, because how deep a stack reaches is the compiler's affair and differs between profiles.
        detail: text for the guest's author, with the names of functions when the guest has them, at most
            `MAX_DETAIL` characters. It can depend on everything the guest saw: for a dry run on public data
            only.
    """

    ending: Ending
    value: int | None
    fuel_used: int
    detail: str


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """What `inspect` found in a guest that obeys the rules.

    Args:
        digest: SHA-256 of the binary.
        module_bytes: size of the binary.
        memory_bytes: size of its one memory, which never grows.
        imports: names of the host calls it imports from module `chiron`.
        exports: names of its functions that take nothing and return one i32.
    """

    digest: bytes
    module_bytes: int
    memory_bytes: int
    imports: frozenset[str]
    exports: frozenset[str]
