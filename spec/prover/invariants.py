"""Obligations on single runs: the invariant, the caps, the ledger, and that nothing shows before the tick."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import z3

from chiron.policy import kernel
from chiron.policy.kernel import LAST_PHASE, Call, Charged, Fault, Frame, Release, Reply
from chiron.policy.releases import DATA_SET
from prover.proof import actions
from prover.symbolic import explore, term_of
from prover.world import any_job, bits_of_data_set, invariant, line_of, released_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.policy.kernel import Event
    from chiron.policy.types import Policy
    from prover.proof import Proof
    from prover.reach import Where
    from prover.world import Job, Named

FALSE = term_of(value=False)


def keeps_invariant(proof: Proof, place: Where) -> None:
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
    for action_name, action in actions(policy, "1"):
        for path in explore(holds, partial(kernel.step, policy, job.state, action)):
            state, reply, events = path.result
            after = job.after(state, events)
            goals = {**invariant(policy, after), **_well_formed(policy, job, after, events)}
            if isinstance(action, Call | Fault):
                goals |= _silent(job, after, events)
            if isinstance(action, Call) and reply is Reply.GRANTED:
                goals |= _paid(policy, job, action)
            hypotheses = [*holds, *path.condition]
            goals = {name: goal for name, goal in goals.items() if goal.get_id() not in known}
            proof.require(hypotheses, goals, where=place, rule="invariant", action=action_name)


def _well_formed(policy: Policy, job: Job, after: Job, events: Sequence[Event]) -> Named:
    """What leaves has the declared width and size, and what is paid goes into the ledger."""
    grown = job.state.label.flows_to(after.state.label)
    goals: Named = {"the guest's label only grows": z3.BoolVal(grown)}
    for name in policy.declassifiers:
        released = sum(isinstance(event, Release) and event.name == name for event in events)
        before, now = (term_of(state.uses.get(name, 0)) for state in (job.state, after.state))
        goals[f"each release of {name!r} is counted"] = now == before + released
    for place, event in enumerate(events, start=1):
        if isinstance(event, Release):
            value = term_of(event.value)
            goals[f"{event.name!r} has its width ({place})"] = z3.And(value >= 0, value < 1 << event.bits)
            rule = policy.declassifiers[event.name]
            goals[f"{event.name!r} is as declared ({place})"] = z3.BoolVal(
                (event.to, event.bits) == (rule.to, rule.bits)
            )
        elif isinstance(event, Frame):
            capacity = policy.sinks[event.sink].capacity_bytes
            goals[f"frame {event.sink!r} has one size ({place})"] = z3.And(
                term_of(event.size_bytes) == capacity, term_of(event.content.size) <= capacity
            )
            goals[f"frame {event.sink!r} is for its readers ({place})"] = z3.BoolVal(
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
        "what is public stays": z3.And(
            term_of(after.state.header) == term_of(job.state.header),
            term_of(after.state.rows_class) == term_of(job.state.rows_class),
        ),
        "the clock stays": term_of(after.state.ticks_left) == term_of(job.state.ticks_left),
    }


def _paid(policy: Policy, job: Job, action: Call) -> Named:
    """A guest reads the data set only in a job that both parties approved, and that was charged for it."""
    if policy.calls[action.name].read != DATA_SET:
        return {}
    return {"the data set is read in a charged job alone": job.charged}


def bounds(proof: Proof, place: Where) -> None:
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
