"""Looks for a pair of secrets that an observer can tell apart, and makes what it finds small."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from chiron.leaktest.strategies import constants, runs
from chiron.leaktest.two_runs import Run, Secrets, Subject, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = 500
OTHERS = 4  # runs that one run is compared with
FLOOR = 10  # one run in so many must have been granted a secret, or nothing was tested


@dataclass(frozen=True, slots=True)
class Leak:
    """Two runs that an observer can tell apart, the smallest that were found."""

    secrets: tuple[Secrets, Secrets]
    traces: tuple[Trace, Trace]

    @property
    def at(self) -> int:
        """Return the number of the first line that differs."""
        left, right = (trace.lines for trace in self.traces)
        pairs = enumerate(zip(left, right, strict=False))
        return next((i for i, (one, other) in pairs if one != other), min(len(left), len(right)))

    @property
    def rule(self) -> str:
        """Return the rule that the first difference breaks."""
        for trace in self.traces:
            if self.at < len(trace.lines):
                return trace.lines[self.at].rule
        return ""


@dataclass(slots=True)
class Report:
    """What a search saw: `runs` two-run examples, of which `reads` read secrets in both runs."""

    observer: str
    seed: int
    runs: int = 0
    reads: int = 0
    ended_early: int = 0
    seconds: float = 0.0
    leak: Leak | None = None
    carried: dict[str, Counter[int]] = field(default_factory=dict)

    @property
    def inconclusive(self) -> str:
        """Return why nothing can be said, or nothing."""
        if self.leak is not None:
            return ""
        if self.ended_early == self.runs:
            return (
                "no job came to create(): configure() declared no header for such data (give a data set that "
                "the guest is written for, with --data), or the policy's ledger refuses the job"
            )
        if self.reads * FLOOR < self.runs:
            return (
                f"only {self.reads} of {self.runs} runs read secrets, fewer than one in {FLOOR}: test with "
                "data for which create() reads rows or statistics, with --data, or raise --examples"
            )
        return ""


class _FoundError(AssertionError):
    """The two runs differ."""


def search(
    subject: Subject,
    *,
    examples: int = EXAMPLES,
    seed_: int = 0,
    progress: Callable[[], None] = lambda: None,
    run: Callable[[Subject, Secrets], Trace] = lambda subject, secrets: Run(subject, secrets).go(),
) -> Report:
    """Compare the two runs of each of `examples` pairs; stop at the first difference and make it small.

    Pairs come four at once: a run is compared with four others, which costs five runs and not eight.

    Args:
        subject: guest, policy, schema and observer.
        examples: pairs of secrets to try.
        seed_: of the choice of pairs; the same seed tries the same.
        progress: called after each pair.
        run: makes one run.
    """
    report = Report(subject.observer, seed_)
    began = time.monotonic()

    @seed(seed_)
    @_settings(examples)
    @given(runs(subject.schema, subject.observer, constants(subject.binary), count=1 + OTHERS))
    def compare(chosen: tuple[Secrets, ...]) -> None:
        one = run(subject, chosen[0])
        for secrets in chosen[1:]:
            if report.leak is None and report.runs == examples:
                return
            other = run(subject, secrets)
            _count(report, (one, other))
            progress()
            if one.lines != other.lines:
                report.leak = Leak((chosen[0], secrets), (one, other))  # the last that fails is the smallest
                raise _FoundError

    gc.freeze()  # what is loaded by now stays: collections need not look at it again and again
    try:
        compare()
    except _FoundError:
        pass  # the report has it
    finally:
        gc.unfreeze()
    report.seconds = time.monotonic() - began
    return report


def _settings(examples: int) -> settings:
    return settings(
        max_examples=-(-examples // OTHERS),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


def _count(report: Report, traces: tuple[Trace, Trace]) -> None:
    if report.leak is None:
        report.runs += 1
        report.reads += all(trace.reads for trace in traces)
        report.ended_early += not any(trace.reached_create for trace in traces)
    for trace in traces:
        for name, value in trace.carried.items():
            report.carried.setdefault(name.split()[0], Counter())[value] += 1


def as_dict(report: Report) -> dict[str, Any]:
    """Return a report as plain values."""
    leak = report.leak
    return {
        "observer": report.observer,
        "seed": report.seed,
        "runs": report.runs,
        "read_secrets": report.reads,
        "seconds": round(report.seconds, 2),
        "verdict": "leak" if leak else "inconclusive" if report.inconclusive else "no difference found",
        "inconclusive": report.inconclusive,
        "carried_bits": carried_bits(report),
        "leak": None if leak is None else {
            "rule": leak.rule,
            "first_difference": leak.at,
            "secrets": [{"data": s.data.shown(), "guest": s.guest.shown()} for s in leak.secrets],
            "traces": [[[x.phase, x.tick, x.way, x.shown] for x in trace.lines] for trace in leak.traces],
        },
    }  # fmt: skip


def carried_bits(report: Report) -> dict[str, float]:
    """Return, for each declared release, the entropy in bits of what it would have carried in these runs."""
    bits = {}
    for name, counts in report.carried.items():
        total = sum(counts.values())
        bits[name] = round(-sum(n / total * math.log2(n / total) for n in counts.values()), 3) + 0.0
    return bits
