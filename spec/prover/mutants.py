"""Weakens the policy by one rule at a time: each weakening must be refuted, or be reviewed as harmless.

`python -m prover.mutants [--shard I/N]`. A weakening is caught by the loader, by labels.lock or by the
proof. What nothing catches must stand in spec/mutants.toml with the reason why it does no harm.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.progress import track

from chiron.policy.loader import policy_from_table, spec_folder
from chiron.policy.types import PolicyDigest, PolicyError
from prover import labels
from prover.attack import attack
from prover.obligations import prove

if TYPE_CHECKING:
    from collections.abc import Iterator

Table = dict[str, Any]
LABELS: tuple[list[str], ...] = ([], ["operator"], ["user"], ["operator", "user"])


@dataclass(frozen=True, slots=True)
class Mutant:
    """A policy with one rule changed: `path` leads to the entry, which gets this value."""

    name: str
    path: tuple[str, ...]
    value: object

    def table(self, base: Table) -> Table:
        """Return the changed policy as a table."""
        changed = copy.deepcopy(base)
        *folders, last = self.path
        entry = changed
        for folder in folders:
            entry = entry[folder]
        entry[last] = self.value
        return changed


@dataclass(frozen=True, slots=True)
class Verdict:
    """What caught a mutant (nothing: a survivor), and whether an attack on it was found."""

    mutant: str
    caught_by: str
    detail: str
    attacked: bool


def mutants(base: Table) -> Iterator[Mutant]:
    """Yield every single-rule weakening of a policy."""
    yield from _of_calls(base)
    yield from _of_phases(base)
    yield from _of_releases(base)
    for kind in ("sources", "observers"):
        for name in base[kind]:
            yield from _labels(base, (kind, name))
    yield from _labels(base, ("guest", "label"))
    for name in base["sinks"]:
        yield from _labels(base, ("sinks", name, "label"))
    for kind in ("leak_cap_bits", "ledger_cap_bits"):
        for name, bits in base[kind].items():
            yield _set((kind, name), 2 * bits)


def _set(path: tuple[str, ...], value: object) -> Mutant:
    return Mutant(f"{'.'.join(path)} = {json.dumps(value)}", path, value)


def _more(path: tuple[str, ...], values: list[str], one: str) -> Mutant:
    return Mutant(f"{'.'.join(path)} + {one}", path, [*values, one])


def _labels(base: Table, path: tuple[str, ...]) -> Iterator[Mutant]:
    entry: Any = base
    for step in path:
        entry = entry[step]
    return (_set(path, label) for label in LABELS if entry != label)


def _of_calls(base: Table) -> Iterator[Mutant]:
    for name, rule in base["calls"].items():
        here = ("calls", name)
        for phase in base["phases"]:
            if phase not in rule["phases"]:
                yield _more((*here, "phases"), rule["phases"], phase)
        if "write" in rule:
            yield from (_set((*here, "write"), sink) for sink in base["sinks"] if sink != rule["write"])
        else:
            yield from (_set((*here, "read"), source) for source in base["sources"] if source != rule["read"])


def _of_phases(base: Table) -> Iterator[Mutant]:
    for name, rule in base["phases"].items():
        here = ("phases", name)
        for kind, all_of in (("frames", base["sinks"]), ("release", base["declassify"])):
            yield from (_more((*here, kind), rule[kind], one) for one in all_of if one not in rule[kind])
        yield from (_set((*here, "next"), phase) for phase in base["phases"] if phase != rule["next"])
        for flag in ("fresh", "charge"):
            yield _set((*here, flag), not rule.get(flag, False))


def _of_releases(base: Table) -> Iterator[Mutant]:
    for name, rule in base["declassify"].items():
        here = ("declassify", name)
        yield _set((*here, "uses"), 2 * rule["uses"])
        yield _set((*here, "bits"), 2 * rule["bits"])
        yield from _labels(base, (*here, "from"))
        yield from _labels(base, (*here, "to"))
        inputs = ["trusted", *base["sinks"]]
        yield from (_set((*here, "input"), other) for other in inputs if other != rule["input"])


def judge(mutant: Mutant, base: Table) -> Verdict:
    """Say what catches a mutant."""
    try:
        policy = policy_from_table(mutant.table(base), PolicyDigest("mutant"))
    except PolicyError as error:
        return Verdict(mutant.name, "loader", str(error), attacked=False)
    if drift := labels.drift(policy):
        return Verdict(mutant.name, "labels.lock", drift[0], attacked=False)
    proof = prove(policy, first_only=True)
    if not proof.failures:
        return Verdict(mutant.name, "", "", attacked=False)
    attacked = any(attack(policy, observer, pairs=5000) for observer in policy.observers)
    return Verdict(mutant.name, "proof", str(proof.failures[0]), attacked=attacked)


def main() -> int:
    """Judge a shard of the mutants; fail on one that nothing catches and nobody reviewed."""
    parser = argparse.ArgumentParser(prog="prover.mutants", description=__doc__)
    parser.add_argument("--shard", default="1/1", help="I/N: every Nth mutant, beginning with the Ith")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each mutant")
    chosen = parser.parse_args()
    index, count = map(int, chosen.shard.split("/"))
    base = tomllib.loads((spec_folder() / "policy.toml").read_text())
    reviewed = read_reviewed((spec_folder() / "mutants.toml").read_text())
    everything = list(mutants(base))
    unknown = sorted(reviewed - {mutant.name for mutant in everything})
    verdicts = []
    for mutant in track(everything[index - 1 :: count], "mutants", disable=not sys.stderr.isatty()):
        verdicts.append(judge(mutant, base))
        if chosen.json:
            print(json.dumps(vars_of(verdicts[-1])), flush=True)
    return report(verdicts, reviewed, unknown, total=len(everything))


def read_reviewed(text: str) -> set[str]:
    """Return the weakenings that a file of reviewed ones lists: groups, each with its reason.

    Raises:
        ValueError: a group has no reason, or a weakening is listed twice.
    """
    listed: list[str] = []
    for group in tomllib.loads(text)["harmless"]:
        if set(group) != {"why", "weakenings"} or not group["why"].strip():
            raise ValueError("each group of spec/mutants.toml has a reason, why, and its weakenings")
        listed += group["weakenings"]
    if len(set(listed)) != len(listed):
        raise ValueError("spec/mutants.toml lists a weakening twice")
    return set(listed)


def vars_of(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as plain values."""
    return {
        "mutant": verdict.mutant,
        "caught_by": verdict.caught_by,
        "detail": verdict.detail,
        "attacked": verdict.attacked,
    }


def report(verdicts: list[Verdict], reviewed: set[str], unknown: list[str], *, total: int) -> int:
    """Print the result; return 1 on an unreviewed survivor or an entry that names no survivor."""
    survivors = [v.mutant for v in verdicts if not v.caught_by]
    wrong = [f"nothing catches {name}: refute it, or give the reason in spec/mutants.toml"
             for name in survivors if name not in reviewed]  # fmt: skip
    caught = {v.mutant for v in verdicts if v.caught_by}
    wrong += [
        f"spec/mutants.toml names {name}, which is caught: remove it" for name in sorted(reviewed & caught)
    ]
    wrong += [f"spec/mutants.toml names {name}, which is no mutant: remove it" for name in unknown]
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    by = {kind: sum(v.caught_by == kind for v in verdicts) for kind in ("loader", "labels.lock", "proof")}
    attacked = sum(v.attacked for v in verdicts)
    print(
        f"{len(verdicts)} of {total} weakenings: {by['loader']} refused by the loader, "
        f"{by['labels.lock']} by labels.lock, {by['proof']} refuted by the proof ({attacked} with two runs), "
        f"{len(survivors)} harmless"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
