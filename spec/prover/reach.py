"""The places a job can reach: pairs of phase and label, each with a shortest way there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import z3

from chiron.policy import kernel
from chiron.policy.kernel import Call, Fault, Stop, StopReason, Tick
from prover.symbolic import AnyValues, explore
from prover.world import any_content, any_job, invariant

if TYPE_CHECKING:
    from chiron.policy.kernel import Action
    from chiron.policy.types import Label, Policy

UNKNOWN_CALL = "a call that the policy does not name"


@dataclass(frozen=True, slots=True)
class Where:
    """A reachable pair of phase and label of the guest, and the actions of a shortest way there."""

    phase: str
    label: Label
    way: tuple[str, ...]


def reachable(policy: Policy) -> list[Where]:
    """Return every reachable place, found by running the kernel from each on open values."""
    start = Where(policy.first_phase, policy.guest_label, ())
    found, waiting = {(start.phase, start.label): start}, deque([start])
    while waiting:
        place = waiting.popleft()
        job = any_job(policy, "1", place.phase, place.label)
        holds = [z3.And(*invariant(policy, job).values())]
        actions: dict[str, Action] = {
            **{name: Call(name, any_content("the payload")) for name in (*policy.calls, UNKNOWN_CALL)},
            "trap": Fault(),
            "tick": Tick(AnyValues("1")),  # type: ignore[arg-type]
            **{f"stop {reason.name}": Stop(reason) for reason in StopReason},
        }
        for name, action in actions.items():
            for path in explore(holds, partial(kernel.step, policy, job.state, action)):
                state = path.result[0]
                if (state.phase, state.label) not in found:
                    there = Where(state.phase, state.label, (*place.way, name))
                    found[state.phase, state.label] = there
                    waiting.append(there)
    return list(found.values())
