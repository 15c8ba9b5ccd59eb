"""Applies each injected bug to a copy of the sources and requires the test that names it to fail.

python tests/leakage/selfcheck.py                # all, two at once: some minutes
python tests/leakage/selfcheck.py "skipped pad"  # those whose description has these words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from injected_bugs import BUGS, Bug

CHECKOUT = Path(__file__).resolve().parents[2]
COPIED = ("chiron", "wasm_sandbox", "enclave", "paramserver", "spec", "tests", "benchmarks", "examples")
FILES = ("pyproject.toml", "README.md")
TESTS_FAILED, TIMEOUT_S, AT_ONCE = 1, 300, 2


def applied(bug: Bug, tree: Path) -> None:
    """Copy the sources with the bug in them.

    Raises:
        ValueError: the text that the bug replaces does not stand there exactly once.
    """
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("build"))
    for name in FILES:
        shutil.copy(CHECKOUT / name, tree)
    file = tree / bug.file
    text = file.read_text()
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.file} has {bug.old!r} {text.count(bug.old)} times: update injected_bugs.py")
    file.write_text(text.replace(bug.old, bug.new))


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def problem(bug: Bug) -> str:
    """Return why a bug went unnoticed, or nothing."""
    try:
        return _problem(bug)
    except subprocess.TimeoutExpired:
        return f"{bug.test} did not end in {TIMEOUT_S} s: a hang names nothing"


def _problem(bug: Bug) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        applied(bug, tree)
        options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "", "-W", "default"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, bug.test],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HYPOTHESIS_PROFILE": "ci",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    if done.returncode == TESTS_FAILED and f"FAILED {bug.test}" in done.stdout:
        return ""
    last = (done.stdout + done.stderr).strip().splitlines()[-3:]
    return f"{bug.test} did not fail: " + " / ".join(last)


def main() -> int:
    """Try all bugs, or those with the given words; return how many went unnoticed."""
    words = " ".join(sys.argv[1:])
    chosen = [bug for bug in BUGS if words in bug.what]
    began, survivors = time.monotonic(), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for bug, why in zip(chosen, pool.map(problem, chosen), strict=True):
            survivors += bool(why)
            say(f"{'SURVIVED' if why else 'found   '} {bug.promise}: {bug.what} {why}")
    say(f"{len(chosen) - survivors} of {len(chosen)} found in {time.monotonic() - began:.0f} s")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
