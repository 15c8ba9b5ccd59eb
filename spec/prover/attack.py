"""Searches for two runs of the real kernel that an observer can tell apart: the shortest attack on a policy.

The guest's program is arbitrary: while both runs have seen the same, they do the same; from then on one of
them acts alone. Breadth-first, in a small scope: each phase lasts one tick and each secret has two values.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from chiron.policy import kernel, releases
from chiron.policy.kernel import Call, Charged, Fault, Frame, Release, Reply, State, Stopped, Tick
from chiron.policy.types import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chiron.policy.kernel import Event
    from chiron.policy.types import Label, Policy

CONSTANT = 1
SECRETS = (2, 3)  # what a secret source brings in the first and in the second run


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs: their kernel states, what each guest knows, and whether they still act alike."""

    states: tuple[State, State]
    known: tuple[int, int]
    alike: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the trace: the phase, what each run does, and what the observer sees of each."""

    phase: str
    actions: tuple[str, str]
    seen: tuple[tuple[str, ...], tuple[str, ...]]


def attack(policy: Policy, observer: str, *, depth: int = 9, pairs: int = 30_000) -> list[Line] | None:
    """Return the shortest trace at whose end an observer sees a difference, or None if none was found.

    Args:
        policy: the policy to attack.
        observer: who looks.
        depth: the most actions of a trace.
        pairs: the most pairs of states to look at.
    """
    one_tick = patch.multiple(kernel, phase_ticks=_one_tick)
    with one_tick, patch.multiple(releases, phase_ticks=_one_tick):
        start = _start(policy, observer)
        waiting: deque[tuple[Pair, tuple[Line, ...]]] = deque([(start, ())])
        known = {_key(start)}
        while waiting and len(known) < pairs:
            pair, trace = waiting.popleft()
            for following, line in _steps(policy, observer, pair):
                if line.seen[0] != line.seen[1]:
                    return [*trace, line]
                if len(trace) + 1 < depth and _key(following) not in known:
                    known.add(_key(following))
                    waiting.append((following, (*trace, line)))
    return None


def show(observer: str, trace: Sequence[Line]) -> str:
    """Return a trace in two columns, the difference marked."""
    rows = [("phase", "run 1", "run 2", f"{observer} sees")]
    for line in trace:
        left, right = (", ".join(seen) or "nothing" for seen in line.seen)
        rows.append(
            (line.phase, *line.actions, left if left == right else f"1: {left}  2: {right}  <-- differs")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    )


def _one_tick(*_: object, **__: object) -> int:
    return 1


def _start(policy: Policy, observer: str) -> Pair:
    state = kernel.initial(policy, rows_class=1, spent={})
    alike = policy.guest_label.flows_to(policy.observers[observer])
    return Pair((state, state), (0, 0) if alike else SECRETS, alike)


def _steps(policy: Policy, observer: str, pair: Pair) -> Iterator[tuple[Pair, Line]]:
    phase = pair.states[0].phase
    for name, rule in policy.calls.items():
        if phase in rule.phases:
            for payload in ("known", "a constant") if rule.write else ("",):
                yield _call(policy, observer, pair, name, payload)
    yield _trap(policy, observer, pair)
    ticked = _tick(policy, observer, pair)
    if ticked is not None:
        yield ticked


def _call(policy: Policy, observer: str, pair: Pair, name: str, payload: str) -> tuple[Pair, Line]:
    """Both runs call when they act alike; else the first alone."""
    states, known, seen = list(pair.states), list(pair.known), _nothing()
    shown = f"{name}({payload})"
    for run in (0, 1) if pair.alike else (0,):
        value = known[run] if payload == "known" else CONSTANT
        action = Call(name, Content.of(value.to_bytes(8, "little")))
        states[run], reply, events = kernel.step(policy, states[run], action)
        known[run] = _learnt(policy, observer, name, reply, known[run], run)
        seen[run] = visible(policy.observers[observer], events)
    alike = pair.alike and known[0] == known[1]
    after = Pair((states[0], states[1]), (known[0], known[1]), alike)
    return after, Line(pair.states[0].phase, (shown, shown if pair.alike else "-"), (seen[0], seen[1]))


def _nothing() -> list[tuple[str, ...]]:
    return [(), ()]


def _learnt(policy: Policy, observer: str, name: str, reply: Reply, known: int, run: int) -> int:
    source = policy.calls[name].read
    if source is None or reply is Reply.DENIED or policy.sources[source].flows_to(policy.observers[observer]):
        return known
    return SECRETS[run]


def _trap(policy: Policy, observer: str, pair: Pair) -> tuple[Pair, Line]:
    states, seen = list(pair.states), _nothing()
    for run in (0, 1) if pair.alike else (0,):
        states[run], _, events = kernel.step(policy, states[run], Fault())
        seen[run] = visible(policy.observers[observer], events)
    line = Line(pair.states[0].phase, ("trap", "trap" if pair.alike else "-"), (seen[0], seen[1]))
    return replace(pair, states=(states[0], states[1])), line


def _tick(policy: Policy, observer: str, pair: Pair) -> tuple[Pair, Line] | None:
    """Both runs tick. None where a declared release differs: that difference is permitted."""
    everything = _everything(policy, pair)
    steps = []
    for run in (0, 1):
        trusted = {
            name: CONSTANT if everything.flows_to(rule.source) else SECRETS[run]
            for name, rule in policy.declassifiers.items()
        }
        steps.append(kernel.step(policy, pair.states[run], Tick(trusted)))
    (left, _, events), (right, _, others) = steps
    for event, other in zip(events, others, strict=False):
        if isinstance(event, Release) and isinstance(other, Release) and event.value != other.value:
            rule = policy.declassifiers[event.name]
            carried = everything if rule.input == "trusted" else policy.sinks[rule.input].label
            for state in pair.states:
                carried = carried.join(state.label)
            if carried.flows_to(rule.source):
                return None
    clearance = policy.observers[observer]
    seen = (visible(clearance, events), visible(clearance, others))
    return replace(pair, states=(left, right)), Line(pair.states[0].phase, ("clock tick", "clock tick"), seen)


def _everything(policy: Policy, pair: Pair) -> Label:
    total = policy.guest_label
    for label in (*policy.sources.values(), pair.states[0].label, pair.states[1].label):
        total = total.join(label)
    return total


def visible(clearance: Label, events: Sequence[Event]) -> tuple[str, ...]:
    """Return what an observer of this clearance sees of events."""
    seen = []
    for event in events:
        match event:
            case Frame(sink, label, size_bytes, content):
                text = f" {content.data.hex()}" if label.flows_to(clearance) else ""
                seen.append(f"frame {sink} of {size_bytes} bytes{text}")
            case Release(name, to, bits, value):
                seen.append(
                    f"release {name}" + (f" = {value}" if to.flows_to(clearance) else f" of {bits} bits")
                )
            case Charged(bits):
                seen.append(f"charge {dict(bits)}")
            case Stopped(reason):
                seen.append(f"stop {reason.name}")
    return tuple(seen)


def _key(pair: Pair) -> object:
    """Return a pair without what cannot matter any more: all but the last number of a sink, high counts."""
    return (pair.known, pair.alike, *map(_state_key, pair.states))


def _state_key(state: State) -> object:
    sinks = tuple(sorted((name, min(c.size, 16), c.number()) for name, c in state.sinks.items()))
    uses = tuple(sorted((name, min(count, 2)) for name, count in state.uses.items()))
    return (state.phase, state.label, state.alive, state.header, sinks, uses)
