"""Says what a leak test found: in words, in two columns, as JUnit's XML."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from chiron.leaktest.search import carried_bits

if TYPE_CHECKING:
    from chiron.leaktest.search import Leak, Report
    from chiron.leaktest.two_runs import Line, Trace

COLUMN, AROUND = 52, 4
RUNS = ("first", "second")


def describe(report: Report) -> str:
    """Return the verdict in words; never that there is no leak."""
    rate = report.runs / report.seconds if report.seconds else 0.0
    counted = f"{report.runs} runs, {report.reads} of which read secrets ({rate:.0f} pairs a second)"
    if report.leak is not None:
        found = f"LEAK: the {report.observer} can tell two runs apart, after {counted}"
        return f"{found}\n\n{columns(report.leak)}"
    if report.inconclusive:
        return f"inconclusive: {report.inconclusive}"
    carried = ", ".join(f"{name} {bits} bits" for name, bits in carried_bits(report).items())
    return f"no difference found in {counted}\ndeclared releases would have carried: {carried or 'nothing'}"


def columns(leak: Leak) -> str:
    """Return secrets and traces side by side around the first difference, which is marked."""
    lines = [_row(*(f"{run} run" for run in RUNS)), _row("-" * COLUMN, "-" * COLUMN)]
    for part in ("data", "guest"):
        left, right = (getattr(secrets, part).shown() for secrets in leak.secrets)
        lines += [
            _row(f"{part} {name} {left[name]}", f"{part} {name} {right[name]}")
            for name in left
            if left[name] != right[name]
        ]
    lines.append(_row("", ""))
    first = max(0, leak.at - AROUND)
    for number in range(first, leak.at + 2):
        left, right = (_line(trace, number) for trace in leak.traces)
        lines.append(_row(left, right, differ=number == leak.at))
    whole = [f"{run} run:  {_line(trace, leak.at)}" for run, trace in zip(RUNS, leak.traces, strict=True)]
    return "\n".join([*lines, "", *whole, f"It breaks: {leak.rule}"])


def _row(left: str, right: str, *, differ: bool = False) -> str:
    mark = ">" if differ else " "
    return f"{mark} {left[:COLUMN]:<{COLUMN}} | {right[:COLUMN]}".rstrip()


def _line(trace: Trace, number: int) -> str:
    if number >= len(trace.lines):
        return "(nothing more)"
    line: Line = trace.lines[number]
    return f"{line.phase} {line.tick}: {line.way}: {line.shown}"


def junit(report: Report, name: str) -> bytes:
    """Return the result as JUnit's XML, which CI systems show."""
    failed, skipped = int(report.leak is not None), int(bool(report.inconclusive))
    suite = Element(
        "testsuite", name="chiron leaktest", tests="1", failures=str(failed), errors="0", skipped=str(skipped)
    )
    case = SubElement(suite, "testcase", classname=f"leaktest.{report.observer}", name=name)
    case.set("time", f"{report.seconds:.3f}")
    if report.leak is not None:
        SubElement(case, "failure", message=report.leak.rule).text = describe(report)
    elif report.inconclusive:
        SubElement(case, "skipped", message=report.inconclusive)
    SubElement(case, "system-out").text = describe(report)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(suite)
