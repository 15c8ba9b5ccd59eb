"""Obligations on pairs of runs: Rushby's unwinding conditions for one observer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import z3

from chiron.policy import kernel
from chiron.policy.kernel import Call, Charged, Frame, Release, Stop, Stopped, Tick
from prover.proof import actions, any_tick
from prover.symbolic import explore, term_of
from prover.world import alike, alike_jobs, terms_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.policy.kernel import Action, Event
    from chiron.policy.types import Label, Policy
    from prover.proof import Proof
    from prover.reach import Where
    from prover.symbolic import Term
    from prover.world import Job, Named


def comparable(clearance: Label, left: Where, right: Where) -> bool:
    """Tell whether two runs may be at these places at once while they look alike."""
    low = left.label.flows_to(clearance)
    if left.phase != right.phase or low != right.label.flows_to(clearance):
        return False
    return left.label == right.label if low else True


def unwind(proof: Proof, observer: str, left: Where, right: Where) -> None:
    """The unwinding conditions at one pair of places that look alike to an observer."""
    policy, clearance = proof.policy, proof.policy.observers[observer]
    one, two = alike_jobs(policy, clearance, (left, right))
    holds: list[Term] = []
    low = left.label.flows_to(clearance)
    for name, action in actions(policy, "1"):
        if isinstance(action, Tick):
            _tick_pair(proof, observer, one, two, holds=holds, where=left)
        elif low or isinstance(action, Stop):
            _same_step(proof, observer, one, two, holds=holds, where=left, action=(name, action))
        elif left.label == right.label:  # the other run stands still, so its label does not matter
            _lone_step(proof, observer, one, two, holds=holds, where=left, action=(name, action))


def _same_step(
    proof: Proof,
    observer: str,
    one: Job,
    two: Job,
    *,
    holds: list[Term],
    where: Where,
    action: tuple[str, Action],
) -> None:
    """Step consistency: an observer who may see the guest sees both runs do the same."""
    policy, clearance, (name, act) = proof.policy, proof.policy.observers[observer], action
    for path in explore(
        holds, lambda: (kernel.step(policy, one.state, act), kernel.step(policy, two.state, act))
    ):
        (left, reply, events), (right, other_reply, other_events) = path.result
        goals = alike(policy, clearance, left, right)
        goals |= _same_events(clearance, events, other_events)
        goals["reply"] = z3.BoolVal(reply == other_reply)
        goals["what was read"] = z3.BoolVal(_read_is_visible(policy, clearance, act, reply, left.label))
        hypotheses = [*holds, *path.condition]
        proof.require(hypotheses, goals, where=where, rule="step consistency", observer=observer, action=name)


def _read_is_visible(
    policy: Policy, clearance: Label, action: Action, reply: kernel.Reply, label: Label
) -> bool:
    """Tell whether a guest that an observer may see still holds only what that observer may see."""
    rule = policy.calls.get(action.name) if isinstance(action, Call) else None
    if rule is None or rule.read is None or reply is kernel.Reply.DENIED or not label.flows_to(clearance):
        return True
    return policy.sources[rule.read].flows_to(clearance)


def _lone_step(
    proof: Proof,
    observer: str,
    one: Job,
    two: Job,
    *,
    holds: list[Term],
    where: Where,
    action: tuple[str, Action],
) -> None:
    """Local respect: what a guest does that the observer may not see changes nothing that it sees."""
    policy, clearance, (name, act) = proof.policy, proof.policy.observers[observer], action
    for path in explore(holds, partial(kernel.step, policy, one.state, act)):
        state, _, events = path.result
        goals = alike(policy, clearance, state, two.state) | _same_events(clearance, events, ())
        hypotheses = [*holds, *path.condition]
        proof.require(hypotheses, goals, where=where, rule="local respect", observer=observer, action=name)


def _tick_pair(proof: Proof, observer: str, one: Job, two: Job, *, holds: list[Term], where: Where) -> None:
    """Tick consistency: with equal declared releases, the same leaves and the states stay alike."""
    policy, clearance = proof.policy, proof.policy.observers[observer]
    ticks = any_tick("1"), any_tick("2")
    secrecy = one.state.label.join(two.state.label)

    def both() -> tuple[kernel.Step, kernel.Step]:
        return kernel.step(policy, one.state, ticks[0]), kernel.step(policy, two.state, ticks[1])

    for path in explore(holds, both):
        (left, _, events), (right, _, other_events) = path.result
        declared = _declared(policy, secrecy, events, other_events, clearance=clearance)
        goals = alike(policy, clearance, left, right) | _same_events(clearance, events, other_events)
        hypotheses = [*holds, *path.condition, *declared]
        proof.require(
            hypotheses, goals, where=where, rule="tick consistency", observer=observer, action="tick"
        )


def _declared(
    policy: Policy, guest: Label, events: Sequence[Event], others: Sequence[Event], *, clearance: Label
) -> list[Term]:
    """Return what may be assumed: releases to the observer are equal where `from` declares all they carry.

    A sink's number carries the guest's label too, for a guest that has ended releases zero. Trusted values
    are computed from everything. Nothing is assumed of releases to others: those may not show here.
    """
    everything = _everything(policy, guest)
    equal = []
    for event, other in zip(events, others, strict=False):
        if isinstance(event, Release) and isinstance(other, Release) and event.name == other.name:
            rule = policy.declassifiers[event.name]
            if not event.to.flows_to(clearance):
                continue
            carried = everything if rule.input == "trusted" else policy.sinks[rule.input].label.join(guest)
            if carried.flows_to(rule.source):
                equal.append(term_of(event.value) == term_of(other.value))
    return equal


def _everything(policy: Policy, label: Label) -> Label:
    for other in (policy.guest_label, *policy.sources.values()):
        label = label.join(other)
    return label


def releases_are_of_their_source(proof: Proof, source: Label, left: Where, right: Where) -> None:
    """Two runs with equal secrets of `source` make equal releases of those declared from it."""
    policy = proof.policy
    one, two = alike_jobs(policy, source, (left, right))
    everything = _everything(policy, left.label.join(right.label))
    ticks = any_tick("1"), any_tick("1" if everything.flows_to(source) else "2")
    for path in explore(
        [], lambda: (kernel.step(policy, one.state, ticks[0]), kernel.step(policy, two.state, ticks[1]))
    ):
        (_, _, events), (_, _, others) = path.result
        goals: Named = {"how much leaves": z3.BoolVal(len(events) == len(others))}
        for place, (event, other) in enumerate(zip(events, others, strict=False), start=1):
            if isinstance(event, Release) and policy.declassifiers[event.name].source == source:
                values = [term_of(other.value)] if isinstance(other, Release) else []
                goals[f"release {event.name!r} tells only what it is declared from ({place})"] = z3.And(
                    len(values) == 1, *(term_of(event.value) == value for value in values)
                )
        proof.require(path.condition, goals, where=left, rule="declared source", action="tick")


def _same_events(clearance: Label, events: Sequence[Event], others: Sequence[Event]) -> Named:
    same: Named = {"how much leaves": z3.BoolVal(len(events) == len(others))}
    for place, (event, other) in enumerate(zip(events, others, strict=False), start=1):
        named, left = _seen(clearance, event)
        other_named, right = _seen(clearance, other)
        same[f"{named} ({place})"] = z3.And(
            named == other_named, len(left) == len(right), *map(_equal, left, right)
        )
    return same


def _equal(one: Term, other: Term) -> Term:
    return one == other


def _seen(clearance: Label, event: Event) -> tuple[str, list[Term]]:
    """Return what an observer sees of an event: what kind it is, and the values it may see."""
    match event:
        case Frame(sink, label, size_bytes, content):
            size = [term_of(size_bytes)]
            return f"frame {sink!r}", size + ([*terms_of(content)] if label.flows_to(clearance) else [])
        case Release(name, to, _, value):
            return f"release {name!r}", [term_of(value)] if to.flows_to(clearance) else []
        case Charged(bits):
            return "charge", [term_of(bits[name]) for name in sorted(bits)]
        case Stopped(reason):
            return f"stop {reason.name}", []
