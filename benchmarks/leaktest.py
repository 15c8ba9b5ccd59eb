"""Measures how many two-run examples a second the leak test makes, in time of one processor.

    python -m benchmarks.leaktest --examples 500 --rounds 5

A round searches each guest once for each observer, so that a change of the load meets all alike; medians are
printed. Time of the processor is what one core would take with nothing beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.leaktest.check import subject_of
from chiron.leaktest.search import search
from chiron.parties.build import build
from chiron.policy.loader import spec_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GUESTS = ("leaky/copies", "leaky/plans", "leaky/traps", "mlp-c")
OBSERVERS = ("operator", "user", "platform")


@dataclass(frozen=True, slots=True)
class Speed:
    """One search: two-run examples a second of the processor's time and of the clock's."""

    processor: float
    clock: float


def measure(guest: Path, observer: str, *, examples: int, seed: int) -> Speed:
    """Search once and return how fast it was.

    Raises:
        RuntimeError: a leak was found, so fewer examples were tried than asked for.
    """
    with subject_of(guest, observer=observer) as subject:
        began = time.process_time(), time.monotonic()
        report = search(subject, examples=examples, seed_=seed)
        took = time.process_time() - began[0], time.monotonic() - began[1]
    if report.leak is not None:
        raise RuntimeError(f"{guest.name} leaks to the {observer}: only a silent guest shows the speed")
    return Speed(report.runs / took[0], report.runs / took[1])


def rounds(folder: Path, *, examples: int, count: int) -> Iterator[tuple[str, str, Speed]]:
    """Build the guests; yield guest, observer and speed, round after round."""
    built = {name: folder / f"{Path(name).name}.wasm" for name in GUESTS}
    for name, guest in built.items():
        build(EXAMPLES / name, output=guest, sdk=spec_folder() / "sdk" / "c")
    for seed in range(count):
        for name, guest in built.items():
            for observer in OBSERVERS:
                yield name, observer, measure(guest, observer, examples=examples, seed=seed)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=500, help="two-run examples of each search")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seen: dict[tuple[str, str], list[Speed]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for name, observer, speed in rounds(Path(folder), examples=options.examples, count=options.rounds):
            seen[name, observer].append(speed)
    print("| guest | observer | a second of the processor | a second on the clock |\n|---|---|---|---|")
    for (name, observer), speeds in seen.items():
        processor, clock = (
            statistics.median(values) for values in ([s.processor for s in speeds], [s.clock for s in speeds])
        )
        print(f"| {name} | {observer} | {processor:.0f} | {clock:.0f} |")


if __name__ == "__main__":
    main()
