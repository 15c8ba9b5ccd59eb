"""The policy kernel: a pure, total transition function that every host call, tick and release goes through.

`step(policy, state, action) -> (state, reply, events)`. It holds no clock, file or socket: the caller brings
the action and carries out the events. Rules of the design that make it provable: phases advance on the clock
alone; nothing leaves at call time; frames have one size; a denied call or a trap ends the guest silently and
shows nowhere before the tick; releases happen on the clock, within their budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from chiron.policy.header import Header, decode_header, slots_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.policy.types import Label, Policy


@dataclass(frozen=True, slots=True)
class State:
    """Where one job stands. `sinks` holds what was written and not yet framed; `uses` counts releases."""

    phase: str
    ticks_left: int
    label: Label
    alive: bool
    rows_class: int
    header: Header | None = None
    sinks: Mapping[str, bytes] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)


class StopReason(Enum):  # ERR-3
    """Why a job ends early. Each is a party's or the platform's doing, never a function of secrets."""

    PARTY_REFUSED = "a party refused the offer"
    NOT_FOR_THIS_LEAD = "a submission is encrypted to another enclave: submit it again to this deployment"
    SUBMISSION_REFUSED = "a submission breaks its own manifest or schema: submit it again"
    PLATFORM_FAULT = "the platform lost a process, a file or a connection of this job: submit it again"


@dataclass(frozen=True, slots=True)
class Call:
    """The guest calls the host; `payload` is what a writing call carries."""

    name: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """The guest ended by a trap, by a limit or by the clock."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The trusted clock ends a slot; `trusted` brings the values that trusted declassifiers may release."""

    trusted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """The job ends early, visibly."""

    reason: StopReason


Action = Call | Fault | Tick | Stop


class Reply(Enum):
    """What the guest's runtime is told: carry the call out, or end the guest."""

    GRANTED = "granted"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Frame:
    """A sink's content leaves in a frame of fixed size; only observers cleared for `label` see content."""

    sink: str
    label: Label
    size_bytes: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """A declared release: `value` has at most `bits` bits and goes to observers cleared for `to`."""

    name: str
    to: Label
    bits: int
    value: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everybody sees that the job ended early, and which of the closed list of reasons it was."""

    reason: StopReason


Event = Frame | Release | Stopped
Step = tuple[State, Reply, tuple[Event, ...]]
LAST_PHASE = "Ended"


def initial(policy: Policy, *, rows_class: int) -> State:
    """Return the state of a fresh job on a data set of the public size class `rows_class`."""
    state = State(policy.first_phase, 0, policy.guest_label, alive=True, rows_class=rows_class)
    return replace(state, ticks_left=_ticks(policy, state, policy.first_phase))


def step(policy: Policy, state: State, action: Action) -> Step:
    """Decide one action. Total: every action in every state has an answer, and none raises."""
    if isinstance(action, Call):
        return _call(policy, state, action.name, action.payload)
    if isinstance(action, Tick):
        return _tick(policy, state, action.trusted)
    if isinstance(action, Fault):
        return replace(state, alive=False), Reply.DENIED, ()
    ended = replace(state, phase=LAST_PHASE, ticks_left=1, alive=False, sinks={})
    return ended, Reply.GRANTED, (Stopped(action.reason),)


def _call(policy: Policy, state: State, name: str, payload: bytes) -> Step:
    rule = policy.calls.get(name)
    denied = replace(state, alive=False), Reply.DENIED, ()
    if rule is None or not state.alive or state.phase not in rule.phases:  # NI-1: no authority by default
        return denied
    if rule.read is not None:  # NI-2: what a guest reads, it carries
        return replace(state, label=state.label.join(policy.sources[rule.read])), Reply.GRANTED, ()
    if rule.write is None:
        return denied
    sink = policy.sinks[rule.write]
    content = state.sinks.get(rule.write, b"") + payload
    if not state.label.flows_to(sink.label) or len(content) > sink.capacity_bytes:  # NI-3: no write down
        return denied
    return replace(state, sinks={**state.sinks, rule.write: content}), Reply.GRANTED, ()


def _tick(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    phase = policy.phases[state.phase]
    frames = tuple(
        Frame(name, policy.sinks[name].label, policy.sinks[name].capacity_bytes, state.sinks.get(name, b""))
        for name in phase.frames  # NI-4: one size, every tick, whether or not something was written
    )
    releases = tuple(
        release for name in phase.release if (release := _release(policy, state, name, trusted)) is not None
    )
    uses = {**state.uses, **{r.name: state.uses.get(r.name, 0) + 1 for r in releases}}
    kept = {name: content for name, content in state.sinks.items() if name not in phase.frames}
    header = state.header
    for release in releases:
        if release.name == "header":
            header = decode_header(policy.menus, release.value)
    ticked = replace(state, sinks=kept, uses=uses, header=header)
    return _advance(policy, ticked), Reply.GRANTED, frames + releases


def _release(policy: Policy, state: State, name: str, trusted: Mapping[str, int]) -> Release | None:
    """Return the release of one declassifier at this tick, or None when its budget is spent.  # NI-5."""
    rule = policy.declassifiers[name]
    if state.uses.get(name, 0) >= rule.uses:
        return None
    if rule.input == "trusted":
        if name not in trusted:
            return None
        value = trusted[name]
    else:
        value = int.from_bytes(state.sinks.get(rule.input, b"")[-8:], "little") if state.alive else 0
    return Release(name, rule.to, rule.bits, value % (1 << rule.bits))


def _advance(policy: Policy, state: State) -> State:
    phase = policy.phases[state.phase]
    if state.ticks_left > 1:
        return replace(state, ticks_left=state.ticks_left - 1)
    following = phase.next
    if "header" in phase.release and state.header is None:  # no header declared: the job is refused here
        return replace(state, phase=LAST_PHASE, ticks_left=1, alive=False, sinks={})
    return replace(state, phase=following, ticks_left=_ticks(policy, state, following), sinks={})


def _ticks(policy: Policy, state: State, phase: str) -> int:
    """Return a phase's length in ticks: a function of the policy, public header and public schema alone."""
    ticks = policy.phases[phase].ticks
    if isinstance(ticks, int):
        return ticks
    if ticks == "answers":
        return policy.declassifiers["answer"].uses
    if state.header is None:
        return 1
    return slots_for(state.header, state.rows_class) if ticks == "slots" else state.header.epochs
