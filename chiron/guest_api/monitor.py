"""The reference monitor: the one mutable holder of a job's kernel state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chiron.guest_api.errors import GuestApiError
from chiron.policy import kernel
from chiron.policy.header import decode_header
from chiron.policy.types import Content, Label, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.policy.header import Header
    from chiron.policy.types import Policy

FIELDS = tuple(kernel.State.__dataclass_fields__)


class Monitor:
    """Feeds every action of one job to the kernel and keeps the state that comes back."""

    def __init__(self, policy: Policy, state: kernel.State) -> None:
        self.policy = policy
        self.state = state

    @property
    def header(self) -> Header | None:
        """The public header, once there is one."""
        return decode_header(self.policy.menus, self.state.header)

    def written(self, sink: str) -> bytes:
        """Return what a sink holds."""
        return self.state.sinks.get(sink, kernel.EMPTY).data

    def call(self, name: str, payload: bytes = b"") -> bool:
        """Decide one host call; False means that the guest must end, and that nobody may notice yet."""
        return self._step(kernel.Call(name, Content.of(payload)))[0] is kernel.Reply.GRANTED

    def fault(self) -> None:
        """Record that the guest ended by a trap, a limit or the clock."""
        self._step(kernel.Fault())

    def tick(self, trusted: Mapping[str, int] | None = None) -> tuple[kernel.Event, ...]:
        """End a slot and return what leaves."""
        return self._step(kernel.Tick(trusted or {}))[1]

    def finish_phase(self, trusted: Mapping[str, int] | None = None) -> tuple[kernel.Event, ...]:
        """Tick until the phase is over and return everything that left."""
        events: tuple[kernel.Event, ...] = ()
        for _ in range(self.state.ticks_left):
            events += self.tick(trusted)
        return events

    def stop(self, reason: kernel.StopReason) -> tuple[kernel.Event, ...]:
        """End the job early and visibly."""
        return self._step(kernel.Stop(reason))[1]

    def _step(self, action: kernel.Action) -> tuple[kernel.Reply, tuple[kernel.Event, ...]]:
        self.state, reply, events = kernel.step(self.policy, self.state, action)
        return reply, events


def state_to_dict(state: kernel.State) -> dict[str, Any]:
    """Return a kernel state as plain values, to hand a job on to another enclave process."""
    return {
        "phase": state.phase,
        "ticks_left": state.ticks_left,
        "label": sorted(state.label.owners),
        "alive": state.alive,
        "rows_class": state.rows_class,
        "header": state.header,
        "sinks": {name: content.data for name, content in state.sinks.items()},
        "uses": dict(state.uses),
        "spent": dict(state.spent),
    }


def state_from_dict(fields: Mapping[str, Any]) -> kernel.State:
    """Rebuild a kernel state that `state_to_dict` wrote.

    Raises:
        GuestApiError: a key is unknown or missing.
    """
    if set(fields) != set(FIELDS):
        raise GuestApiError(f"a kernel state has exactly the keys {sorted(FIELDS)}")
    return kernel.State(
        phase=fields["phase"],
        ticks_left=fields["ticks_left"],
        label=Label(frozenset(Principal(owner) for owner in fields["label"])),
        alive=fields["alive"],
        rows_class=fields["rows_class"],
        header=fields["header"],
        sinks={name: Content.of(data) for name, data in fields["sinks"].items()},
        uses=dict(fields["uses"]),
        spent=dict(fields["spent"]),
    )
