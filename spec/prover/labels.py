"""Holds what the proof takes for granted against spec/labels.lock: labels, readers, directions of releases.

The proof is about labels; that the data set is the user's secret is an axiom, and so is that a call reads the
source which the policy names, for the handlers are not part of the kernel. Whoever changes an axiom must
say so: `make relock` writes the file anew, and the change shows in review.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from chiron.policy.loader import load_policy, spec_folder

if TYPE_CHECKING:
    from chiron.policy.types import Label, Policy

REMEDY = "if that is meant, run `make relock` and have the change of spec/labels.lock reviewed"


def locked_lines(policy: Policy) -> list[str]:
    """Return one line for each axiom, in the order of the policy's names."""
    lines = [f"guest = {_shown(policy.guest_label)}"]
    lines += [f"observer {name} = {_shown(label)}" for name, label in sorted(policy.observers.items())]
    lines += [f"source {name} = {_shown(label)}" for name, label in sorted(policy.sources.items())]
    lines += [f"sink {name} = {_shown(sink.label)}" for name, sink in sorted(policy.sinks.items())]
    lines += [f"call {name} reads {rule.read}" for name, rule in sorted(policy.calls.items()) if rule.read]
    for name, rule in sorted(policy.declassifiers.items()):
        lines.append(f"release {name} = {rule.input} {_shown(rule.source)} -> {_shown(rule.to)}")
    lines += [f"leak cap {name} = {bits}" for name, bits in sorted(policy.leak_cap_bits.items())]
    return lines + [f"ledger cap {name} = {bits}" for name, bits in sorted(policy.ledger_cap_bits.items())]


def _shown(label: Label) -> str:
    return "{" + " ".join(sorted(label.owners)) + "}"


def drift(policy: Policy) -> list[str]:
    """Return what differs between a policy's axioms and the locked ones; empty when nothing does.

    Raises:
        OSError: there is no lock file.
    """
    locked = (spec_folder() / "labels.lock").read_text().splitlines()  # NI-8
    now = locked_lines(policy)
    gone = [f"labels.lock has {line!r}, the policy does not: {REMEDY}" for line in locked if line not in now]
    new = [f"the policy has {line!r}, labels.lock does not: {REMEDY}" for line in now if line not in locked]
    return gone + new


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (spec_folder() / "labels.lock").write_text("\n".join(locked_lines(load_policy())) + "\n")
    for problem in drift(load_policy()):
        sys.exit(problem)
