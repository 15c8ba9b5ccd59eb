"""Symbolic states of a job, what always holds of them, and when two of them look alike to an observer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import z3

from chiron.policy.kernel import EMPTY, LAST_PHASE, Charged, State
from chiron.policy.releases import DATA_SET, data_set_bits
from prover.symbolic import Bytes, Number, SymbolicContent, Term, Truth, explore, phase_ticks, term_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from chiron.policy.kernel import Event
    from chiron.policy.types import Content, Label, Policy
    from prover.reach import Where

EMPTY_TERM = z3.Int("empty")
_prices: deque[tuple[Policy, tuple[Term, Term], dict[str, Term]]] = deque(maxlen=32)
Named = dict[str, Term]


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel state with what the proof remembers beside it: whether the job was charged, and how much."""

    state: State
    charged: Term
    paid: Mapping[str, Term]

    def after(self, state: State, events: Iterable[Event]) -> Job:
        """Return the job after a step of the kernel."""
        for event in events:
            if isinstance(event, Charged):
                return Job(
                    state, term_of(value=True), {name: term_of(bits) for name, bits in event.bits.items()}
                )
        return Job(state, self.charged, self.paid)


def any_job(policy: Policy, run: str, phase: str, label: Label) -> Job:
    """Return a job in this phase with this label and everything else open.

    `run` names what may differ between two runs that look alike; the rest is one variable for both.
    """

    def number(name: str) -> Number:
        return Number(z3.Int(name))

    state = State(
        phase=phase,
        ticks_left=number("ticks left"),  # type: ignore[arg-type]
        label=label,
        alive=Truth(z3.Bool(f"alive of run {run}")),  # type: ignore[arg-type]
        rows_class=number("rows"),  # type: ignore[arg-type]
        header=number("header"),  # type: ignore[arg-type]
        sinks={name: any_content(f"{name} of run {run}") for name in policy.sinks},
        uses={name: number(f"uses of {name}") for name in policy.declassifiers},  # type: ignore[misc]
        spent={name: number(f"spent for {name}") for name in policy.observers},  # type: ignore[misc]
    )
    paid = {name: z3.Int(f"paid for {name}") for name in policy.observers}
    return Job(state, z3.Bool("charged"), paid)


def alike_jobs(policy: Policy, clearance: Label, places: tuple[Where, Where]) -> tuple[Job, Job]:
    """Return any two jobs that look alike to an observer: what `alike` makes equal is one variable."""
    left, right = places
    one = any_job(policy, "1", left.phase, left.label)
    two = any_job(policy, "2", right.phase, right.label)
    low = left.label.flows_to(clearance)
    sinks = {
        name: (one if low or sink.label.flows_to(clearance) else two).state.sinks[name]
        for name, sink in policy.sinks.items()
    }
    alive = one.state.alive if low else two.state.alive
    return one, replace(two, state=replace(two.state, sinks=sinks, alive=alive))


def any_content(name: str) -> SymbolicContent:
    """Return content of any bytes and any size."""
    size = Number(z3.If(z3.Int(f"size of {name}") < 0, 0, z3.Int(f"size of {name}")))
    return SymbolicContent(Bytes(z3.Int(f"bytes of {name}")), size)  # type: ignore[arg-type]


def content_terms(state: State, sink: str) -> tuple[Term, Term]:
    """Return a sink's bytes and size as terms."""
    return terms_of(state.sinks.get(sink, EMPTY))


def terms_of(content: Content) -> tuple[Term, Term]:
    """Return bytes and size as terms. Of real bytes the prover knows none but the empty ones."""
    empty = isinstance(content.data, bytes) and not content.data
    return EMPTY_TERM if empty else term_of(content.data), term_of(content.size)


def line_of(policy: Policy) -> list[str]:
    """Return the phases in the order that a job goes through them, up to the first that repeats."""
    line = [policy.first_phase]
    while policy.phases[line[-1]].next not in line:
        line.append(policy.phases[line[-1]].next)
    return line


def invariant(policy: Policy, job: Job) -> Named:
    """Return what holds in every state that a job can reach: each step must keep it."""
    state, line = job.state, line_of(policy)
    holds: Named = {
        "at least one tick is left": term_of(state.ticks_left) >= 1,
        "the header is a number": term_of(state.header) >= 0,
        "what the state holds is what the policy names": z3.BoolVal(_is_named(policy, state)),
    }
    if state.phase != LAST_PHASE:
        due = any(policy.phases[phase].charge for phase in line[: line.index(state.phase)])
        holds["the job has paid where it must have"] = job.charged == due
    for name, sink in policy.sinks.items():
        size = content_terms(state, name)[1]
        holds[f"sink {name!r} keeps to its frame"] = z3.And(size >= 0, size <= sink.capacity_bytes)
    for name, rule in policy.declassifiers.items():
        uses = term_of(state.uses.get(name, 0))
        holds[f"releases of {name!r} are counted and bounded"] = z3.And(uses >= 0, uses <= rule.uses)
        holds[f"releases of {name!r} are at most its ticks"] = uses <= _elapsed(policy, line, name, state)
        if rule.source.owners & policy.sources[DATA_SET].owners:
            holds[f"nothing of the data set leaves as {name!r} unpaid"] = z3.Or(job.charged, uses == 0)
    for name, cap in policy.ledger_cap_bits.items():
        spent = term_of(state.spent.get(name, 0))
        holds[f"the ledger's cap holds for {name!r}"] = z3.And(spent >= 0, spent <= cap)
        due = bits_of_data_set(policy, state)[name]
        holds[f"what was paid for {name!r} is the job's price"] = z3.Implies(
            job.charged, job.paid[name] == due
        )
    return holds


def _is_named(policy: Policy, state: State) -> bool:
    """Tell whether a state has the policy's sinks, budgets and ledgers, and no other: names tell nothing."""
    named = (policy.sinks, policy.declassifiers, policy.observers)
    held = (state.sinks, state.uses, state.spent)
    return all(set(have) == set(names) for have, names in zip(held, named, strict=True))


def bits_of_data_set(policy: Policy, state: State) -> dict[str, Term]:
    """Return the kernel's own price of a job as terms."""
    key = (term_of(state.header), term_of(state.rows_class))
    for policy_of_price, key_of_price, price in _prices:
        if policy_of_price is policy and all(map(z3.eq, key, key_of_price)):
            return price
    paths = explore([], lambda: data_set_bits(policy, header=state.header, rows_class=state.rows_class))
    price = {
        observer: _either([(path.condition, term_of(path.result[observer])) for path in paths])
        for observer in policy.observers
    }
    _prices.append((policy, key, price))
    return price


def _either(cases: list[tuple[tuple[Term, ...], Term]]) -> Term:
    *first, (_, value) = cases
    for condition, other in first:
        value = z3.If(z3.And(*condition), other, value)
    return value


def _elapsed(policy: Policy, line: list[str], name: str, state: State) -> Term:
    """Return how many ticks so far could release a declassifier."""
    total = z3.IntVal(0)
    for phase in line:
        length = phase_ticks(policy, phase, header=state.header, rows_class=state.rows_class)
        here = phase == state.phase
        if name in policy.phases[phase].release and not (here and phase == LAST_PHASE):
            total = total + term_of(length) - (term_of(state.ticks_left) if here else 0)
        if here:
            break
    return total


def released_bits(policy: Policy, job: Job, clearance: Label, *, of_data_set: bool) -> Term:
    """Return how many bits of others' secrets a job has released to an observer so far.

    Which releases count is said here once more, on sets of owners: the kernel's own word for it is what is
    proved.
    """
    owners, seen = policy.sources[DATA_SET].owners, clearance.owners
    return z3.Sum(
        [z3.IntVal(0)]
        + [
            rule.bits * term_of(job.state.uses.get(name, 0))
            for name, rule in policy.declassifiers.items()
            if rule.to.owners <= seen
            and rule.source.owners - seen
            and (rule.source.owners & owners or not of_data_set)
        ]
    )


def alike(policy: Policy, clearance: Label, left: State, right: State) -> Named:
    """Return when two states look alike, now and later, to an observer of this clearance: the relation R.

    What the guest holds in memory is equal when its label is within the clearance, and open otherwise; then
    it always was within it, for labels only grow, and so all that it has written is equal too.
    """
    low = left.label.flows_to(clearance)
    same: Named = {
        "phase": z3.BoolVal(left.phase == right.phase),
        "ticks left": term_of(left.ticks_left) == term_of(right.ticks_left),
        "header": term_of(left.header) == term_of(right.header),
        "size class of the rows": term_of(left.rows_class) == term_of(right.rows_class),
        "whether the observer may see the guest": z3.BoolVal(low == right.label.flows_to(clearance)),
    }
    if low:
        same["label of the guest"] = z3.BoolVal(left.label == right.label)
        same["whether the guest runs"] = term_of(left.alive) == term_of(right.alive)
    for name, sink in policy.sinks.items():
        if low or sink.label.flows_to(clearance):
            (one, size), (other, other_size) = content_terms(left, name), content_terms(right, name)
            same[f"content of sink {name!r}"] = z3.And(one == other, size == other_size)
    for name in policy.declassifiers:
        same[f"budget of {name!r}"] = term_of(left.uses.get(name, 0)) == term_of(right.uses.get(name, 0))
    for name in policy.observers:
        same[f"ledger of {name!r}"] = term_of(left.spent.get(name, 0)) == term_of(right.spent.get(name, 0))
    return same
