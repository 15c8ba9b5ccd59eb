"""The policy kernel: a pure, total transition function that every host call, tick and release goes through.

`step(policy, state, action) -> (state, reply, events)`. It holds no clock, file or socket: the caller brings
the action and carries out the events. Rules of the design that make it provable: phases advance on the clock
alone; nothing leaves at call time; frames have one size; a denied call or a trap ends the guest silently and
shows nowhere before the tick; releases happen on the clock, within their budgets; a job is charged to its
data set's ledger before its guest may read a row.

The prover runs this very code on symbolic values (spec/prover), so it keeps to arithmetic, comparisons and
`Content` wherever a value is not the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from chiron.policy.header import phase_ticks
from chiron.policy.releases import data_set_bits
from chiron.policy.types import Content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.policy.types import Label, Policy


@dataclass(frozen=True, slots=True)
class State:
    """Where one job stands.

    `header` is the public header as its released number, 0 before there is one. `sinks` holds what was
    written and not yet framed, `uses` counts releases. `spent` is what jobs on this data set were charged, in
    bits for each observer: earlier ones, and this one once it was approved. Each of the three always has each
    name that the policy declares, so that a name's being there tells nothing.
    """

    phase: str
    ticks_left: int
    label: Label
    alive: bool
    rows_class: int
    header: int = 0
    sinks: Mapping[str, Content] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)
    spent: Mapping[str, int] = field(default_factory=dict)


EMPTY = Content(b"", 0)


class StopReason(Enum):  # ERR-3
    """Why a job ends early. Each is a party's or the platform's doing, never a function of secrets."""

    PARTY_REFUSED = "a party refused the offer"
    NOT_FOR_THIS_LEAD = "a submission is encrypted to another enclave: submit it again to this deployment"
    SUBMISSION_REFUSED = "a submission breaks its own manifest or schema: submit it again"
    LEDGER_SPENT = (
        "the data set's ledger does not hold this job's bits: train on other data, or with fewer epochs"
        " where only the operator's bits are spent"
    )
    PLATFORM_FAULT = "the platform lost a process, a file or a connection of this job: submit it again"


@dataclass(frozen=True, slots=True)
class Call:
    """The guest calls the host; `payload` is what a writing call carries."""

    name: str
    payload: Content = EMPTY


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
    content: Content


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


@dataclass(frozen=True, slots=True)
class Charged:
    """Everybody sees what this job was charged to its data set's ledger, in bits for each observer."""

    bits: Mapping[str, int]


Event = Frame | Release | Stopped | Charged
Step = tuple[State, Reply, tuple[Event, ...]]
LAST_PHASE = "Ended"


def initial(policy: Policy, *, rows_class: int, spent: Mapping[str, int]) -> State:
    """Return the state of a fresh job.

    Args:
        policy: the policy in force.
        rows_class: the data set's public size class.
        spent: bits that earlier jobs on the same data set were charged, for each observer.
    """
    first = policy.first_phase
    state = State(
        first,
        1,
        policy.guest_label,
        alive=True,
        rows_class=rows_class,
        sinks=_emptied(policy),
        uses=dict.fromkeys(policy.declassifiers, 0),
        spent={observer: spent.get(observer, 0) for observer in policy.observers},
    )
    return replace(state, ticks_left=_ticks(policy, state, first))


def step(policy: Policy, state: State, action: Action) -> Step:
    """Decide one action. Total: every action in every state of the policy has an answer, and none raises."""
    if isinstance(action, Call):
        return _call(policy, state, action.name, action.payload)
    if isinstance(action, Tick):
        return _tick(policy, state, action.trusted)
    if isinstance(action, Fault):
        return _denied(state)
    return _ended(policy, state), Reply.GRANTED, (Stopped(action.reason),)


def _call(policy: Policy, state: State, name: str, payload: Content) -> Step:
    rule = policy.calls.get(name)
    if rule is None or not state.alive or state.phase not in rule.phases:  # NI-1: no authority by default
        return _denied(state)
    if rule.read is not None:  # NI-2: what a guest reads, it carries
        source = policy.sources[rule.read]
        if source.flows_to(state.label):
            return state, Reply.GRANTED, ()
        return _with(state, state.label.join(source), state.sinks), Reply.GRANTED, ()
    if rule.write is None:
        return _denied(state)
    sink = policy.sinks[rule.write]
    content = state.sinks[rule.write].joined(payload)
    if not state.label.flows_to(sink.label) or content.size > sink.capacity_bytes:  # NI-3: no write down
        return _denied(state)
    return _with(state, state.label, {**state.sinks, rule.write: content}), Reply.GRANTED, ()


def _with(state: State, label: Label, sinks: Mapping[str, Content]) -> State:
    """Return a state in which a call changed these two; `replace` would take twice as long."""
    return State(
        state.phase, state.ticks_left, label, state.alive, state.rows_class, state.header, sinks,
        state.uses, state.spent,
    )  # fmt: skip


def _denied(state: State) -> Step:
    """End the guest. It shows nowhere before the tick."""
    return replace(state, alive=False), Reply.DENIED, ()  # SAND-14


def _tick(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    phase = policy.phases[state.phase]
    frames = tuple(
        Frame(name, policy.sinks[name].label, policy.sinks[name].capacity_bytes, state.sinks[name])
        for name in phase.frames  # NI-4: one size, every tick, whether or not something was written
    )
    releases = tuple(
        _release(policy, state, name, trusted)
        for name in phase.release
        if state.uses[name] < policy.declassifiers[name].uses  # NI-5: a spent budget releases nothing
    )
    uses = {**state.uses, **{r.name: state.uses[r.name] + 1 for r in releases}}
    kept = {**state.sinks, **dict.fromkeys(phase.frames, EMPTY)}
    header = next((r.value for r in releases if r.name == "header"), state.header)
    ticked, charged = _advance(policy, replace(state, sinks=kept, uses=uses, header=header))
    return ticked, Reply.GRANTED, frames + releases + charged


def _release(policy: Policy, state: State, name: str, trusted: Mapping[str, int]) -> Release:
    """Return the release of one declassifier at this tick: of zero where there is nothing to tell."""
    rule = policy.declassifiers[name]
    value = 0
    if rule.input == "trusted":
        value = trusted.get(name, 0)
    elif state.alive:
        value = state.sinks[rule.input].number()
    return Release(name, rule.to, rule.bits, value % (1 << rule.bits))


def _advance(policy: Policy, state: State) -> tuple[State, tuple[Event, ...]]:
    """Count the tick down; at a phase's end go on to the next, which a job must be able to pay for."""
    phase = policy.phases[state.phase]
    if state.ticks_left > 1:
        return _renewed(policy, replace(state, ticks_left=state.ticks_left - 1)), ()
    if "header" in phase.release and state.header == 0:  # no header declared: the job is refused here
        return _ended(policy, state), ()
    events: tuple[Event, ...] = ()
    if phase.charge:
        bits = data_set_bits(policy, header=state.header, rows_class=state.rows_class)
        spent = {observer: state.spent[observer] + cost for observer, cost in bits.items()}
        if any(total > policy.ledger_cap_bits[observer] for observer, total in spent.items()):
            return _ended(policy, state), (Stopped(StopReason.LEDGER_SPENT),)
        state, events = replace(state, spent=spent), (Charged(bits),)
    following = replace(state, phase=phase.next, ticks_left=_ticks(policy, state, phase.next))
    return _renewed(policy, replace(following, sinks=_emptied(policy))), events


def _renewed(policy: Policy, state: State) -> State:
    """Start a new instance of the guest where the phase gives each tick one. It keeps its label."""
    fresh = policy.phases[state.phase].fresh
    return replace(state, alive=True, sinks=_emptied(policy)) if fresh else state


def _ended(policy: Policy, state: State) -> State:
    return replace(state, phase=LAST_PHASE, ticks_left=1, alive=False, sinks=_emptied(policy))


def _emptied(policy: Policy) -> dict[str, Content]:
    """Return every sink empty: each is always there, so that being there tells nothing."""
    return dict.fromkeys(policy.sinks, EMPTY)


def _ticks(policy: Policy, state: State, phase: str) -> int:
    """Return a phase's length in ticks: a function of the policy, public header and public schema alone."""
    return phase_ticks(policy, phase, header=state.header, rows_class=state.rows_class)
