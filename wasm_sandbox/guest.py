"""A guest that was checked and compiled once and can be run often."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from wasmtime import Engine, Module

from wasm_sandbox import execution
from wasm_sandbox.admission import compile_guest, describe
from wasm_sandbox.binary import check_binary
from wasm_sandbox.binding import Binding
from wasm_sandbox.engine import Profile, make_engine
from wasm_sandbox.lean import LeanBinding, lean_available
from wasm_sandbox.public import PublicBinding
from wasm_sandbox.types import GuestInfo, HostCall, Limits, Outcome

PROFILE = Profile.ENCLAVE
BINDING: type[Binding] = LeanBinding if lean_available() else PublicBinding


@dataclass(frozen=True, slots=True)
class Rules:
    """What a guest is held to.

    Args:
        granted: host calls it may import from module `chiron`, each with its number of i32 parameters.
        limits: the most it may use.
        exports: functions it must export, each `() -> i32`.
        profile: how the engine uses the process.
        binding: how wasmtime is called; outcomes are the same either way.
    """

    granted: Mapping[str, int]
    limits: Limits
    exports: Collection[str] = ()
    profile: Profile = field(default_factory=lambda: PROFILE)
    binding: type[Binding] = field(default_factory=lambda: BINDING)


class Guest:
    """A checked and compiled guest, from `load` or `load_image`. Several threads may run it at once.

    A context manager: leaving it frees the machine code, so no run may be going on then.
    """

    def __init__(self, engine: Engine, module: Module, *, info: GuestInfo, rules: Rules) -> None:
        self.info = info
        self.rules = rules
        self._engine = engine
        self._module = module
        self._order = [wanted.name or "" for wanted in module.imports]
        parameters = [rules.granted[name] for name in self._order]
        self._binding = rules.binding(engine, module, parameters)

    def run(self, export: str, *, imports: Mapping[str, HostCall]) -> Outcome:
        """Run one exported function in a fresh instance that lives for this call only.

        Fuel is not time: a caller that needs it bounded in time runs this in a process that it can kill.

        Args:
            export: name of a function `() -> i32`.
            imports: handlers of the granted host calls, by name; those that the guest imports are used.

        Raises:
            ValueError: there is no such export, or a host call has no handler with its parameters.
        """
        if export not in self.info.exports:
            raise ValueError(f"no function {export}() -> i32 is exported: name it in exports when loading")
        calls = [(name, self._handler(name, imports)) for name in self._order]
        return execution.run(self._binding, calls, export=export, limits=self.rules.limits)

    def interrupt(self) -> None:
        """End every run that is going on: each traps where its next function or turn of a loop begins."""
        self._engine.increment_epoch()

    def machine_code(self) -> bytes:
        """Return what was compiled, in wasmtime's own form; `wasm_sandbox.image` authenticates it."""
        return bytes(self._module.serialize())

    def close(self) -> None:
        """Free the machine code."""
        self._module.close()
        self._engine.close()

    def _handler(self, name: str, imports: Mapping[str, HostCall]) -> HostCall:
        parameters = self.rules.granted[name]
        if name not in imports or imports[name].parameters != parameters:
            raise ValueError(f"host call {name!r} needs a handler of {parameters} parameters")
        return imports[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def load(guest: bytes, rules: Rules) -> Guest:
    """Check every rule a guest must obey and compile it, here: where it can be killed, or for one's own.

    Raises:
        GuestRefusedError: a rule is broken; the text names the rule and the remedy.
    """
    return make(guest, rules, lambda engine: compile_guest(engine, guest))


def make(guest: bytes, rules: Rules, compiled: Callable[[Engine], Module]) -> Guest:
    """Make a guest of what a function gives for its engine; errors as for `load`."""
    check_binary(guest, module_bytes=rules.limits.module_bytes)
    engine = make_engine(stack_bytes=rules.limits.stack_bytes, profile=rules.profile)
    try:
        return _admit(engine, compiled(engine), guest=guest, rules=rules)
    except BaseException:
        engine.close()
        raise


def _admit(engine: Engine, module: Module, *, guest: bytes, rules: Rules) -> Guest:
    """Check a compiled guest against the rules; it closes the module when it refuses."""
    try:
        info = describe(module, guest, granted=rules.granted, limits=rules.limits, exports=rules.exports)
    except BaseException:
        module.close()
        raise
    return Guest(engine, module, info=info, rules=rules)


def inspect(
    guest: bytes, *, granted: Mapping[str, int], limits: Limits, exports: Collection[str] = ()
) -> GuestInfo:
    """Load a guest and say what it is; arguments as for `Rules`, errors as for `load`."""
    with load(guest, Rules(granted, limits, exports)) as loaded:
        return loaded.info


def run(guest: bytes, *, export: str, imports: Mapping[str, HostCall], limits: Limits) -> Outcome:
    """Load a guest and run it once.

    Args:
        guest: the binary.
        export: name of a function `() -> i32`.
        imports: the host calls it is granted, by name, in module `chiron`.
        limits: the most it may use.

    Raises:
        GuestRefusedError: the guest breaks a rule of `load`; none of its code ran.
    """
    granted = {name: call.parameters for name, call in imports.items()}
    with load(guest, Rules(granted, limits, [export])) as loaded:
        return loaded.run(export, imports=imports)
