"""What a guest may be: the policy's limits in the sandbox's terms, and the check before anything runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiron.guest_api.lowering import CALL_PARAMETERS, component_signatures
from wasm_sandbox import (
    ComponentGuest,
    ComponentRules,
    Guest,
    Limits,
    Rules,
    is_component,
    load_component_image,
    load_image,
    precompile,
)

if TYPE_CHECKING:
    from chiron.policy.types import Policy

EXPORTS = ("configure", "create")
LoadedGuest = Guest | ComponentGuest
KEY_BYTES = 32


def sandbox_limits(policy: Policy) -> Limits:
    """Return the policy's limits in the sandbox's terms."""
    limits = policy.limits
    return Limits(
        fuel=limits.fuel,
        memory_bytes=limits.memory_bytes,
        table_elements=limits.table_elements,
        stack_bytes=limits.stack_bytes,
        module_bytes=limits.module_bytes,
        output_bytes=limits.memory_bytes,
        host_calls=limits.host_calls,
        component_bytes=limits.component_bytes,
        compile_ms=limits.compile_ms,
    )


@dataclass(frozen=True, slots=True)
class CompiledGuest:
    """A guest and its machine code, with the key by which the processes of one enclave know it for theirs.

    `lines`: its traps name source files and lines, in a process that is told to look for them.
    """

    binary: bytes
    image: bytes
    key: bytes
    lines: bool = False


def compile_guest(policy: Policy, guest: bytes, *, lines: bool = False) -> CompiledGuest:
    """Check and compile a guest, once for all processes that run it; in a process that is killed in time.

    Args:
        policy: whose limits it must keep to.
        guest: the binary.
        lines: let traps name source files and lines, for a dry run alone.

    Raises:
        GuestRefusedError: names the rule and the remedy; for the operator alone.
    """
    key = secrets.token_bytes(KEY_BYTES)
    image = precompile(guest, rules=_rules(policy, guest), key=key, lines=lines)
    return CompiledGuest(guest, image, key, lines)


def load_guest(policy: Policy, guest: CompiledGuest) -> LoadedGuest:
    """Load a guest that was compiled before, ready to run.

    Raises:
        GuestRefusedError: the machine code is not the one that `compile_guest` made of it under this policy.
    """
    rules = _rules(policy, guest.binary)
    if isinstance(rules, ComponentRules):
        return load_component_image(guest.image, guest.binary, rules=rules, key=guest.key)
    return load_image(guest.image, guest.binary, rules=rules, key=guest.key)


def _rules(policy: Policy, guest: bytes) -> Rules | ComponentRules:
    limits = sandbox_limits(policy)
    if is_component(guest):  # SAND-8
        of_components = replace(limits, compile_ms=policy.limits.component_compile_ms)
        return ComponentRules(component_signatures(), of_components, EXPORTS)
    return Rules(CALL_PARAMETERS, limits, EXPORTS)
