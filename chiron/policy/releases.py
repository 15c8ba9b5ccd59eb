"""How many bits a job may release: arithmetic over the policy's declassifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.policy.header import phase_ticks

if TYPE_CHECKING:
    from chiron.policy.types import Declassifier, Label, Policy

DATA_SET = "dataset"  # the source whose owner the ledger protects


def counts(rule: Declassifier, clearance: Label) -> bool:
    """Tell whether a declassifier tells an observer of this clearance a secret that is not its own."""
    return rule.to.flows_to(clearance) and not rule.source.flows_to(clearance)


def job_bits(policy: Policy, clearance: Label) -> int:
    """Return how many bits of others' secrets an observer may learn from one job, whatever its header."""
    rules = policy.declassifiers.values()
    return sum(rule.bits * rule.uses for rule in rules if counts(rule, clearance))


def header_bits(policy: Policy, clearance: Label, *, header: int, rows_class: int) -> int:
    """Return the same for a job with this public header (its number), which may end phases sooner."""
    return sum(
        rule.bits * uses_of(policy, name, header=header, rows_class=rows_class)
        for name, rule in policy.declassifiers.items()
        if counts(rule, clearance)
    )


def data_set_bits(policy: Policy, *, header: int, rows_class: int) -> dict[str, int]:
    """Return what a job with this header may tell each observer of the data set, in bits."""
    owners = policy.sources[DATA_SET].owners
    return {
        observer: sum(
            rule.bits * uses_of(policy, name, header=header, rows_class=rows_class)
            for name, rule in policy.declassifiers.items()
            if counts(rule, clearance) and rule.source.owners & owners
        )
        for observer, clearance in policy.observers.items()
    }


def uses_of(policy: Policy, name: str, *, header: int, rows_class: int) -> int:
    """Return the most releases of a declassifier in one job: its budget, or the ticks that may release it."""
    ticks = sum(
        phase_ticks(policy, phase, header=header, rows_class=rows_class)
        for phase, rule in policy.phases.items()
        if name in rule.release
    )
    return min(policy.declassifiers[name].uses, ticks)
