"""Checks many random modules as pairs of jobs that differ in the user's data alone, and says what had power.

    python -m benchmarks.random_modules --count 100000

Exits with 1 when a module ends the host's process, takes too long or shows a difference; prints its number,
which always gives the same module: `--first NUMBER --count 1` runs it again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from smith import hunt


def main() -> int:
    """Run and print; 0 when nothing was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="modules")
    parser.add_argument("--first", type=int, default=0, help="number of the first module")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    counts, leaks, began = Counter[str](), [], time.monotonic()
    for line in hunt(options.count, first=options.first, processes=options.processes):
        if line.get("leak"):
            leaks.append(f"module {line['seed']}: {line['leak']}")
            sys.stderr.write(leaks[-1] + "\n")
        counts.update(_facts(line))
    took_s = time.monotonic() - began
    result = {
        "modules": options.count,
        "seconds": round(took_s, 1),
        "modules_per_s": round(options.count / took_s, 1),
        "leaks": leaks,
        **{name: round(counts[name] / options.count, 4) for name in sorted(counts)},
    }
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:40} {value}" for name, value in result.items()))
    return 1 if leaks else 0


def _facts(line: dict[str, object]) -> list[str]:
    """Return what one module counts as, each a share of all modules in the result."""
    if not line.get("made", True):
        return ["not generated"]
    if line.get("refusal"):
        return [f"refused: {line['refusal']}"]
    facts = [name for name in ("reads", "diverged") if line.get(name)]
    endings = line.get("endings")
    return [*facts, *(f"ended: {ending or 'before create'}" for ending in set(endings or ()))]  # type: ignore[call-overload]


if __name__ == "__main__":
    raise SystemExit(main())
