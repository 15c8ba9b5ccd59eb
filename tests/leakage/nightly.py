"""Looks for leaks with new secrets and new sequences for as long as it is given, and stops at the first.

    python tests/leakage/nightly.py --minutes 60 --seed 1

Two processes: one compares runs of every example guest for every observer, with another seed each time round;
the other runs the two-run tests of this folder again and again, with another seed of Hypothesis.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.guest_api.dataset import Schema
from chiron.leaktest.check import subject_of
from chiron.leaktest.report import describe
from chiron.leaktest.search import search
from chiron.parties.build import build
from chiron.policy.loader import spec_folder
from wasm_sandbox import GuestRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
GUESTS = ("mlp-c", "transforms-c", "automl-c", "leaky/copies", "leaky/plans", "leaky/tells", "leaky/traps")
DIGITS = Schema((1, 8, 8), 10, "uint8", 60, 12)
TESTS = ("side_by_side", "query_sequences", "failure_schedules", "message_sizes", "leaktest_parts")
PAIRS = 200


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def comparisons(folder: Path) -> Iterator[tuple[str, Path, str, Schema | None]]:
    """Build the guests; yield what is compared: name, file, observer and schema."""
    for name in GUESTS:
        guest = folder / f"{Path(name).name}.wasm"
        build(CHECKOUT / "examples" / name, output=guest, sdk=spec_folder() / "sdk" / "c")
        for observer in ("operator", "user", "platform"):
            yield name, guest, observer, None if "leaky" in name or "transforms" in name else DIGITS


def compare_guests(deadline: float, seed: int) -> tuple[int, str]:
    """Compare runs until the time is over; return the pairs compared and a leak's report, or nothing."""
    pairs = 0
    with tempfile.TemporaryDirectory() as folder:
        every = list(comparisons(Path(folder)))
        while time.monotonic() < deadline:
            for name, guest, observer, schema in every:
                try:
                    with subject_of(guest, observer=observer, schema=schema) as subject:
                        report = search(subject, examples=PAIRS, seed_=seed)
                except GuestRefusedError as error:
                    if error.rule != "compile-time":
                        raise
                    say(f"{name}: compiled too slowly on a busy machine; tried again the next time round")
                    continue
                pairs += report.runs
                if report.leak is not None:
                    return pairs, f"{name}, seed {seed}: {describe(report)}"
                if time.monotonic() > deadline:
                    break
            seed += 1
    return pairs, ""


def repeat_tests(deadline: float, seed: int) -> tuple[int, str]:
    """Run the two-run tests until the time is over; return how often and what failed, or nothing."""
    rounds = 0
    files = [f"tests/leakage/test_{name}.py" for name in TESTS]
    while time.monotonic() < deadline:
        options = ["-q", "-p", "no:cacheprovider", f"--hypothesis-seed={seed + rounds}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=CHECKOUT,
            env=os.environ | {"HYPOTHESIS_PROFILE": "dev"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return rounds, f"seed {seed + rounds} of Hypothesis:\n{done.stdout[-5000:]}"
        rounds += 1
    return rounds, ""


def main() -> int:
    """Look until the time is over; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400, help="default: of the day")
    chosen = parser.parse_args()
    deadline = time.monotonic() + 60 * chosen.minutes
    with ThreadPoolExecutor(2) as pool:
        tests = pool.submit(repeat_tests, deadline, chosen.seed)
        pairs, leak = compare_guests(deadline, chosen.seed)
        rounds, failed = tests.result()
    told = {"minutes": chosen.minutes, "seed": chosen.seed, "pairs": pairs, "rounds_of_tests": rounds}
    say(json.dumps(told | {"found": leak or failed}))
    return int(bool(leak or failed))


if __name__ == "__main__":
    sys.exit(main())
