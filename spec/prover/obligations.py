"""The proof obligations: unwinding for each observer, the invariant, the caps; each discharged by z3.

Source: Rushby, "Noninterference, transitivity, and channel-control security policies", SRI CSL-92-02, 1992:
declared releases are the only downgraders. spec/Unwinding.v proves once that these obligations imply the
property; its comment says which obligation stands for which hypothesis.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import z3

from chiron.policy import kernel
from chiron.policy.kernel import (
    LAST_PHASE,
    Call,
    Charged,
    Fault,
    Frame,
    Release,
    Stop,
    Stopped,
    StopReason,
    Tick,
)
from prover.reach import UNKNOWN_CALL, reachable
from prover.symbolic import Number, explore, symbolic_ticks, term_of
from prover.world import (
    alike,
    alike_jobs,
    any_content,
    any_job,
    bits_of_data_set,
    invariant,
    line_of,
    released_bits,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chiron.policy.kernel import Action, Event
    from chiron.policy.types import Label, Policy
    from prover.reach import Where
    from prover.symbolic import Term
    from prover.world import Job, Named

TIMEOUT_MS = 2000
FALSE = term_of(value=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """An obligation that does not hold, or that the solver could not decide (which counts the same)."""

    observer: str
    rule: str
    phase: str
    action: str
    way: tuple[str, ...]
    broken: tuple[str, ...]

    def __str__(self) -> str:
        way = " -> ".join(self.way) or "the start"
        return (
            f"observer {self.observer}: {self.rule}: {self.action} in phase {self.phase}, reached by {way}: "
            f"{'; '.join(self.broken)}"
        )


class RefutedError(Exception):
    """The first failure of a proof that should stop there."""


@dataclass(slots=True)
class Proof:
    """Counts obligations and keeps those that fail."""

    policy: Policy
    first_only: bool = False
    obligations: int = 0
    failures: list[Failure] = field(default_factory=list)

    def require(
        self, hypotheses: Sequence[Term], goals: Named, *, where: Where, rule: str, **who: str
    ) -> None:
        """Discharge one obligation: the hypotheses imply every goal."""
        self.obligations += 1
        goals = {name: goal for name, goal in goals.items() if not z3.is_true(z3.simplify(goal))}
        if not goals:
            return
        solver = z3.Solver()
        solver.set("timeout", TIMEOUT_MS)
        solver.add(*hypotheses)
        if solver.check(z3.Not(z3.And(*goals.values()))) == z3.unsat:
            return
        broken = tuple(name for name, goal in goals.items() if solver.check(z3.Not(goal)) != z3.unsat)
        named = {"observer": "everybody", "action": "-", **who}
        self.failures.append(Failure(rule=rule, phase=where.phase, way=where.way, broken=broken, **named))
        if self.first_only:
            raise RefutedError


def prove(policy: Policy, *, first_only: bool = False) -> Proof:
    """Discharge every obligation for a policy; `failures` is empty exactly when it is proved.

    With `first_only` it stops at the first that fails.
    """
    proof = Proof(policy, first_only)
    with symbolic_ticks(), suppress(RefutedError):
        _discharge(proof)
    return proof


def _discharge(proof: Proof) -> None:
    policy = proof.policy
    places = reachable(policy)
    for place in places:
        _bounds(proof, place)
        _keeps_invariant(proof, place)
    for observer, clearance in policy.observers.items():
        for left in places:
            for right in places:
                if _comparable(clearance, left, right):
                    _pair(proof, observer, left, right)


def _comparable(clearance: Label, left: Where, right: Where) -> bool:
    """Tell whether two runs may be at these places at once while they look alike."""
    low = left.label.flows_to(clearance)
    if left.phase != right.phase or low != right.label.flows_to(clearance):
        return False
    return left.label == right.label if low else True


def _actions(policy: Policy, run: str) -> Iterator[tuple[str, Action]]:
    for name in (*policy.calls, UNKNOWN_CALL):
        yield f"call {name}", Call(name, any_content("the payload"))
    yield "trap", Fault()
    yield "tick", _tick(policy, run)
    for reason in StopReason:
        yield f"stop {reason.name}", Stop(reason)


def _tick(policy: Policy, run: str) -> Tick:
    trusted = {
        name: Number(z3.Int(f"trusted value for {name} of run {run}")) for name in policy.declassifiers
    }
    return Tick(trusted)  # type: ignore[arg-type]


def _keeps_invariant(proof: Proof, place: Where) -> None:
    """The start satisfies the invariant and every action keeps it."""
    policy = proof.policy
    job = any_job(policy, "1", place.phase, place.label)
    held = invariant(policy, job)
    holds, known = [z3.And(*held.values())], {goal.get_id() for goal in held.values()}
    if not place.way:
        fresh = kernel.initial(policy, rows_class=job.state.rows_class, spent=job.state.spent)
        start = replace(job, state=fresh, charged=FALSE)
        caps = [
            z3.And(term_of(s) >= 0, term_of(s) <= policy.ledger_cap_bits[o]) for o, s in fresh.spent.items()
        ]
        proof.require(caps, invariant(policy, start), where=place, rule="invariant", action="start")
    for action_name, action in _actions(policy, "1"):
        for path in explore(holds, partial(kernel.step, policy, job.state, action)):
            state, _, events = path.result
            after = job.after(state, events)
            goals = {**invariant(policy, after), **_well_formed(policy, job, after, events)}
            if isinstance(action, Call | Fault):
                goals |= _silent(job, after, events)
            hypotheses = [*holds, *path.condition]
            goals = {name: goal for name, goal in goals.items() if goal.get_id() not in known}
            proof.require(hypotheses, goals, where=place, rule="invariant", action=action_name)


def _well_formed(policy: Policy, job: Job, after: Job, events: Sequence[Event]) -> Named:
    """What leaves has the declared width and size, and what is paid goes into the ledger."""
    goals: Named = {}
    for event in events:
        if isinstance(event, Release):
            value = term_of(event.value)
            goals[f"{event.name!r} has its width"] = z3.And(value >= 0, value < 1 << event.bits)
            counted = term_of(after.state.uses[event.name]) == term_of(job.state.uses[event.name]) + 1
            goals[f"{event.name!r} is counted"] = counted
            rule = policy.declassifiers[event.name]
            goals[f"{event.name!r} is as declared"] = z3.BoolVal(
                (event.to, event.bits) == (rule.to, rule.bits)
            )
        elif isinstance(event, Frame):
            capacity = policy.sinks[event.sink].capacity_bytes
            goals[f"frame {event.sink!r} has one size"] = term_of(event.size_bytes) == capacity
            goals[f"frame {event.sink!r} is for its readers"] = z3.BoolVal(
                event.label == policy.sinks[event.sink].label
            )
    charged = any(isinstance(event, Charged) for event in events)
    for name in policy.observers:
        paid = after.paid[name] if charged else 0
        spent = term_of(after.state.spent.get(name, 0)) == term_of(job.state.spent.get(name, 0)) + paid
        goals[f"the ledger of {name!r} grows by what is paid"] = spent
        if charged:
            goals["a job is charged once"] = z3.Not(job.charged)
    return goals


def _silent(job: Job, after: Job, events: Sequence[Event]) -> Named:
    """No call and no trap makes anything leave, and none moves the clock."""
    return {
        "nothing leaves before the tick": z3.BoolVal(events == ()),
        "the phase stays until the tick": z3.BoolVal(after.state.phase == job.state.phase),
        "the clock stays": term_of(after.state.ticks_left) == term_of(job.state.ticks_left),
    }


def _bounds(proof: Proof, place: Where) -> None:
    """The caps: of a job for each observer, and of what a job releases of the data set by what it paid."""
    policy = proof.policy
    job = any_job(policy, "1", place.phase, place.label)
    holds = [z3.And(*invariant(policy, job).values())]
    price = bits_of_data_set(policy, job.state)
    for observer, clearance in policy.observers.items():
        all_bits = released_bits(policy, job, clearance, of_data_set=False)
        of_data_set = released_bits(policy, job, clearance, of_data_set=True)
        goals = {
            "a job stays within its leak cap": all_bits <= policy.leak_cap_bits.get(observer, 0),
            "a job releases no more of the data set than its price": of_data_set <= price[observer],
            "a job that has not paid releases nothing of it": z3.Or(job.charged, of_data_set == 0),
        }
        proof.require(holds, goals, where=place, rule="leak cap", observer=observer)
    in_line = place.phase == LAST_PHASE or place.phase in line_of(policy)
    ended = policy.phases[LAST_PHASE]
    goals = {
        "phases form one line": z3.BoolVal(in_line),
        "the last phase stays and releases nothing": z3.BoolVal(
            ended.next == LAST_PHASE and not ended.release and not ended.frames and ended.ticks == 1
        ),
    }
    proof.require([], goals, where=place, rule="phases")


def _pair(proof: Proof, observer: str, left: Where, right: Where) -> None:
    """The unwinding conditions at one pair of places that look alike to an observer."""
    policy, clearance = proof.policy, proof.policy.observers[observer]
    one, two = alike_jobs(policy, clearance, (left, right))
    holds: list[Term] = []
    low = left.label.flows_to(clearance)
    for name, action in _actions(policy, "1"):
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
    ticks = _tick(policy, "1"), _tick(policy, "2")
    secrecy = one.state.label.join(two.state.label)

    def both() -> tuple[kernel.Step, kernel.Step]:
        return kernel.step(policy, one.state, ticks[0]), kernel.step(policy, two.state, ticks[1])

    for path in explore(holds, both):
        (left, _, events), (right, _, other_events) = path.result
        declared = _declared(policy, secrecy, events, other_events)
        goals = alike(policy, clearance, left, right) | _same_events(clearance, events, other_events)
        hypotheses = [*holds, *path.condition, *declared]
        proof.require(
            hypotheses, goals, where=where, rule="tick consistency", observer=observer, action="tick"
        )


def _declared(policy: Policy, guest: Label, events: Sequence[Event], others: Sequence[Event]) -> list[Term]:
    """Return what may be assumed: releases are equal where all that they carry is declared in `from`.

    A sink's number carries the guest's label too, for a guest that has ended releases zero. Trusted values
    are computed from everything.
    """
    everything = guest
    for label in (policy.guest_label, *policy.sources.values()):
        everything = everything.join(label)
    equal = []
    for event, other in zip(events, others, strict=False):
        if isinstance(event, Release) and isinstance(other, Release) and event.name == other.name:
            rule = policy.declassifiers[event.name]
            carried = everything if rule.input == "trusted" else policy.sinks[rule.input].label.join(guest)
            if carried.flows_to(rule.source):
                equal.append(term_of(event.value) == term_of(other.value))
    return equal


def _same_events(clearance: Label, events: Sequence[Event], others: Sequence[Event]) -> Named:
    same: Named = {"how much leaves": z3.BoolVal(len(events) == len(others))}
    for event, other in zip(events, others, strict=False):
        named, left = _seen(clearance, event)
        other_named, right = _seen(clearance, other)
        same[named] = z3.And(named == other_named, len(left) == len(right), *map(_equal, left, right))
    return same


def _equal(one: Term, other: Term) -> Term:
    return one == other


def _seen(clearance: Label, event: Event) -> tuple[str, list[Term]]:
    """Return what an observer sees of an event: what kind it is, and the values it may see."""
    match event:
        case Frame(sink, label, size_bytes, content):
            size = [term_of(size_bytes)]
            terms = [term_of(content.size), z3.IntVal(0) if content.data == b"" else term_of(content.data)]
            return f"frame {sink!r}", size + (terms if label.flows_to(clearance) else [])
        case Release(name, to, _, value):
            return f"release {name!r}", [term_of(value)] if to.flows_to(clearance) else []
        case Charged(bits):
            return "charge", [term_of(bits[name]) for name in sorted(bits)]
        case Stopped(reason):
            return f"stop {reason.name}", []
