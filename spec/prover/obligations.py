"""The proof obligations of a policy; each is discharged by z3.

Source: Rushby, "Noninterference, transitivity, and channel-control security policies", SRI CSL-92-02, 1992:
declared releases are the only downgraders. spec/Unwinding.v proves once that these obligations imply the
property; its comment says which obligation stands for which hypothesis.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from prover.invariants import bounds, keeps_invariant
from prover.proof import Proof, RefutedError
from prover.reach import reachable
from prover.symbolic import symbolic_ticks
from prover.unwinding import comparable, releases_are_of_their_source, unwind

if TYPE_CHECKING:
    from chiron.policy.types import Policy


def prove(policy: Policy, *, first_only: bool = False, phase: str = "") -> Proof:
    """Discharge every obligation for a policy; `failures` is empty exactly when it is proved.

    With `first_only` it stops at the first that fails. With `phase` it looks at that phase alone: enough to
    refute a policy, and not to prove one.
    """
    proof = Proof(policy, first_only)  # NI-7
    with symbolic_ticks(), suppress(RefutedError):
        _discharge(proof, phase)
    return proof


def _discharge(proof: Proof, phase: str) -> None:
    policy = proof.policy
    places = [place for place in reachable(policy) if phase in {"", place.phase}]
    for place in places:
        bounds(proof, place)
        keeps_invariant(proof, place)
    for source in dict.fromkeys(rule.source for rule in policy.declassifiers.values()):
        for left in places:
            for right in places:
                if comparable(source, left, right):
                    releases_are_of_their_source(proof, source, left, right)
    for observer, clearance in policy.observers.items():
        for left in places:
            for right in places:
                if comparable(clearance, left, right):
                    unwind(proof, observer, left, right)
