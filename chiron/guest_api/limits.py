"""What a guest may be: the policy's limits in the sandbox's terms, and the check before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.guest_api.lowering import CALL_PARAMETERS, component_signatures
from wasm_sandbox import ComponentGuest, Guest, Limits, Rules, is_component, load, load_component

if TYPE_CHECKING:
    from chiron.policy.types import Policy

EXPORTS = ("configure", "create")


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


def load_guest(policy: Policy, guest: bytes) -> Guest | ComponentGuest:
    """Check and compile a guest, which takes as long as the guest makes it: only where it can be killed.

    Raises:
        GuestRefusedError: names the rule and the remedy; for the operator alone.
    """
    limits = sandbox_limits(policy)
    if is_component(guest):  # SAND-8
        return load_component(guest, granted=component_signatures(), limits=limits, exports=EXPORTS)
    return load(guest, Rules(CALL_PARAMETERS, limits, EXPORTS))


def inspect_guest(policy: Policy, guest: bytes) -> None:
    """Refuse a guest that is no WebAssembly, asks for more than it may have, or lacks an export.

    It compiles the guest, which takes as long as the guest makes it: only where it can be killed, or where
    the guest is one's own.

    Raises:
        GuestRefusedError: names the rule and the remedy; for the operator alone.
    """
    load_guest(policy, guest).close()
