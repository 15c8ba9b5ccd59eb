"""Changes small things in what decides; for each a test must fail, or there is a written reason why not.

    python tests/mutation/survivors.py          # mutmut on all of it, then the verdict
    python tests/mutation/survivors.py --again  # the verdict alone, on the last run's results

mutmut (its options are in pyproject.toml) changes policy kernel, verifier, frames and budgets. A change that
no test notices has to stand in reviewed.toml with its reason. Exits with 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT = Path(__file__).resolve().parents[2]
REVIEWED = Path(__file__).with_name("reviewed.toml")
# In blackbox.py the budget is these two; what else is there runs the model, in real time.
CHANGED: Final = (
    "chiron.policy.kernel.*",
    "enclave.verifier.*",
    "paramserver.frames.*",
    "chiron.serving.budget.*",
    "chiron.serving.blackbox.x_open_monitor__*",
    "chiron.serving.blackbox.xǁBlackBoxǁanswer__*",
    "chiron.training.ledger.*",
)
FOUND: Final = {"killed", "timeout"}
OLD, NEW = "-", "+"


@dataclass(frozen=True, slots=True)
class Change:
    """One mutant: the function, and the lines that were removed and added, without their margin."""

    function: str
    old: str
    new: str


def function_of(mutant: str) -> str:
    """Return the function's dotted name: mutmut writes x_f__mutmut_1 for f, xǁCǁf__mutmut_1 for C.f."""
    module, _, name = mutant.rpartition(".")
    plain = name.rpartition("__mutmut_")[0].removeprefix("x")
    return f"{module}.{plain.strip('ǁ').replace('ǁ', '.') if 'ǁ' in plain else plain.removeprefix('_')}"


def parse_change(mutant: str, diff: str) -> Change:
    """Return what a unified diff changes."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "# "))]
    old, new = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in (OLD, NEW))
    return Change(function_of(mutant), old, new)


def reviewed(text: str) -> dict[Change, str]:
    """Return the reason for each change of a reviewed file.

    Raises:
        ValueError: an entry gives no reason.
    """
    reasons = {}
    for entry in tomllib.loads(text)["reviewed"]:
        if not entry["why"].strip():
            raise ValueError(f"{entry['changes']} without a reason: say why no test can fail, or write one")
        for function, old, new in entry["changes"]:
            reasons[Change(function, old, new)] = entry["why"]
    return reasons


def unreviewed(survivors: list[Change], reasons: dict[Change, str]) -> list[Change]:
    """Return the changes that neither a test nor a reason answers."""
    return [change for change in survivors if change not in reasons]


def mutmut(*arguments: str) -> str:
    """Run mutmut and return what it prints.

    Raises:
        CalledProcessError: it failed; its output was passed on.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=CHECKOUT,
        env=os.environ | {"HYPOTHESIS_PROFILE": "ci"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-5000:] + done.stderr[-5000:])
        done.check_returncode()
    return done.stdout


def results() -> dict[str, str]:
    """Return the state of each mutant that was tried."""
    lines = [line.strip().partition(": ") for line in mutmut("results", "--all", "true").splitlines()]
    return {name: state for name, _, state in lines if state and state != "not checked"}


def main() -> int:
    """Try all changes and print the verdict; 1 where one is unreviewed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--again", action="store_true", help="judge the results of the last run")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="mutants tried at once")
    options = parser.parse_args()
    began = time.monotonic()
    if not options.again:
        mutmut("run", "--max-children", str(options.children), *CHANGED)
    states = results()
    survived = [name for name, state in states.items() if state not in FOUND]
    changes = {name: parse_change(name, mutmut("show", name)) for name in survived}
    open_ = unreviewed(list(changes.values()), reviewed(REVIEWED.read_text()))
    for change in open_:
        sys.stdout.write(
            f"UNREVIEWED\n    [{change.function!r},\n     '''{change.old}''',\n     '''{change.new}'''],\n"
        )
    sys.stdout.write(
        f"{len(states)} changes: a test failed for {len(states) - len(survived)}, "
        f"{len(survived) - len(open_)} reviewed, {len(open_)} neither; {time.monotonic() - began:.0f} s\n"
    )
    return int(bool(open_) or not states)


if __name__ == "__main__":
    sys.exit(main())
