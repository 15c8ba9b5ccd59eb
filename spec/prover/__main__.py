"""`python -m prover [--policy FILE] [--json]`: exit code 0 when everything is proved, 1 when not."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from chiron.policy.loader import load_policy
from chiron.policy.types import PolicyError
from prover import labels
from prover.attack import attack, show
from prover.obligations import prove


def main() -> int:
    """Prove a policy and print what fails, with an attack where there is one."""
    parser = argparse.ArgumentParser(prog="prover", description=__doc__)
    parser.add_argument("--policy", type=Path, help="policy file (default: spec/policy.toml)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    try:
        policy = load_policy(chosen.policy)
        drift = labels.drift(policy)
    except (PolicyError, OSError) as error:
        print(f"not proved: {error}", file=sys.stderr)
        return 1
    began = time.monotonic()
    proof = prove(policy)
    took = time.monotonic() - began
    failed = bool(proof.failures or drift)
    observers = sorted({failure.observer for failure in proof.failures} & set(policy.observers))
    traces = {name: trace for name in observers if (trace := attack(policy, name)) is not None}
    if chosen.json:
        found = [str(failure) for failure in proof.failures]
        print(json.dumps({"proved": not failed, "obligations": proof.obligations, "failures": found + drift}))
        return int(failed)
    for failure in proof.failures:
        print(f"FAILED {failure}")
    for name, trace in traces.items():
        print(f"two runs that {name} can tell apart, with the same public inputs:\n{show(name, trace)}")
    for line in drift:
        print(f"FAILED {line}")
    print(
        f"{'NOT PROVED' if failed else 'proved'}: policy {policy.name!r}, digest {policy.digest[:16]}, "
        f"{proof.obligations} obligations, {len(proof.failures)} failed, {took:.1f} s"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
