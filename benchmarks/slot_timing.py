"""Measures when the slot of `create` is seen to end, for behaviours of a guest that a secret could choose.

    python -m benchmarks.slot_timing --runs 1000

A lead of its own process runs `chiron.training.create.create` in short slots. The observer, another process,
sees what a platform sees: when the guest's process ends (at half slot) and when the lead sends (at the slot's
end). Every pair of behaviours is compared by a two-sample Kolmogorov-Smirnov test with Holm's correction. The
guest's process is forked from a warm one, because only the time from the slot's start counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from deployments import POLICY_BYTES, small_dataset
from guests import LOOP, TRAP, guest

from chiron.guest_api import child, process
from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.loader import parse_policy
from chiron.training import create

START = struct.Struct("<cqq")  # "S", process id, monotonic nanoseconds
COUNTED = """(loop $more {body} (br_if $more
  (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {n}))))"""
BATCH = "(drop (call $batch (i32.const 0) (i32.const 8) (i32.const 1024) (i32.const 4096)))"
EMIT = "(drop (call $graph (i32.const 0) (i32.const 65536)))"
STORE = "(i32.store (i32.shl (local.get $i) (i32.const 2)) (local.get $i))"
GUESTS = {
    "returns at once": guest(),
    "traps": guest(create=TRAP),
    "runs out of fuel": guest(create=LOOP),
    "loops to the deadline": guest(create=f"(loop $again {BATCH} (br $again))"),
    "calls the host 200 times": guest(create=COUNTED.format(body=BATCH, n=200)),
    "emits 6 MiB": guest(create=COUNTED.format(body=EMIT, n=96)),
    "writes all memory": guest(create=COUNTED.format(body=STORE, n=30000)),
    "makes a denied call": guest(create="(drop (call $log (i32.const 0) (i32.const 4)))"),
}
POLICY_FILE = POLICY_BYTES.replace(b"fuel = 20000000000", b"fuel = 1000000")
QUANTILES = (0.5, 0.9, 0.99)
SIGNIFICANT = 0.05


class WarmChild:
    """A stand-in for Popen: the guest's process as a fork of this one, which has imported all it needs."""

    def __init__(self, _command: list[str], **_options: object) -> None:
        inbox, self_out = os.pipe()
        self_in, outbox = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self_out)
            os.close(self_in)
            sys.stdin = SimpleNamespace(buffer=os.fdopen(inbox, "rb"))
            sys.stdout = SimpleNamespace(buffer=os.fdopen(outbox, "wb"))
            try:
                child.main()
                select.select([], [], [])
            finally:
                os._exit(0)
        os.close(inbox)
        os.close(outbox)
        self.stdin, self.stdout = os.fdopen(self_out, "wb"), os.fdopen(self_in, "rb")

    def kill(self) -> None:
        """End it; it stays a zombie until `wait`."""
        os.kill(self.pid, 9)

    def wait(self) -> None:
        """Reap it."""
        os.waitpid(self.pid, 0)


class TimedProcess(process.GuestProcess):
    """Tells the observer when the slot starts and which process to watch."""

    def run(self, *arguments: Any, **options: Any) -> process.GuestReport:  # noqa: ANN401
        """Run as the real one."""
        os.write(1, START.pack(b"S", self._child.pid, time.monotonic_ns()))
        return super().run(*arguments, **options)


def lead(slot_ms: int) -> None:
    """Run one slot for each line of standard input, the name of a guest; send one byte when it ends."""
    process.subprocess = SimpleNamespace(Popen=WarmChild, PIPE=None, DEVNULL=None)  # type: ignore[attr-defined,assignment]
    create.GuestProcess = TimedProcess  # type: ignore[attr-defined]
    raw = POLICY_FILE.replace(b"create_ms = [", b"create_ms = [%d, " % slot_ms)
    policy, dataset = parse_policy(raw), small_dataset()
    header = encode_header(policy.menus, Header(1, 16, 1, 4096, 5, slot_ms))
    begin = kernel.initial(policy, rows_class=60, spent={})
    state = replace(begin, phase="Create", header=header)
    node = SimpleNamespace(policy_bytes=raw)
    plaintext = encode_dataset(dataset)
    compiled = {name: compile_guest(policy, binary) for name, binary in GUESTS.items()}
    for line in sys.stdin:
        guest = compiled[line.strip()]
        inputs = SimpleNamespace(
            guest=guest.binary, schema=dataset.schema, plaintext=plaintext, seed=bytes(8), statistics=None
        )
        create.create(node, inputs, Monitor(policy, state), guest=guest)  # type: ignore[arg-type]
        os.write(1, b"R")


def observe(names: list[str], *, slot_ms: int) -> dict[str, list[tuple[float, float]]]:
    """Run these guests in this order; return for each the milliseconds to its end and to the release."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in GUESTS}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.slot_timing", "--lead", str(slot_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as started:  # noqa: S603
        if started.stdin is None or started.stdout is None:
            raise RuntimeError("Popen was given pipes")
        for name in names:
            started.stdin.write(name.encode() + b"\n")
            seen[name].append(_one(started.stdout))
        started.stdin.close()
    return seen


def _one(pipe: Any) -> tuple[float, float]:  # noqa: ANN401
    record = pipe.read(START.size)
    if len(record) != START.size:
        raise RuntimeError("the lead ended: run it alone with --lead to see why")
    _, pid, began = START.unpack(record)
    ended = _when_ended(pid) - began
    if not pipe.read(1):
        raise RuntimeError("the lead ended within a slot")
    return ended / 1e6, (time.monotonic_ns() - began) / 1e6


def _when_ended(pid: int) -> int:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:  # on a busy machine this process may come to look only after the whole slot
        return time.monotonic_ns()
    select.select([watched], [], [])
    ended = time.monotonic_ns()
    os.close(watched)
    return ended


def ks_p_value(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov statistic and its asymptotic p-value.

    Source: Stephens, "Use of the Kolmogorov-Smirnov, Cramer-Von Mises and Related Statistics Without
    Extensive Tables", J. R. Stat. Soc. B 32 (1970), as in Press et al., Numerical Recipes, 3rd edition,
    section 14.3.3.
    """
    left, right = np.sort(left), np.sort(right)
    both = np.concatenate([left, right])
    shares = (np.searchsorted(part, both, "right") / len(part) for part in (left, right))
    distance = float(np.abs(np.subtract(*shares)).max())
    root = np.sqrt(len(left) * len(right) / len(both))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # noqa: PLR2004  the series converges slowly where the p-value is 1 to ten digits
        return distance, 1.0
    terms = np.arange(1, 101)
    series = 2 * np.sum((-1.0) ** (terms - 1) * np.exp(-2 * (terms * scaled) ** 2))
    return distance, float(np.clip(series, 0, 1))


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number. Source: Holm, Scand. J. Statistics 6 (1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(np.array(p_values)[order] * factors), 1)
    return [float(value) for value in adjusted[np.argsort(order)]]


def summary(samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return quantiles in milliseconds for each behaviour, and the pairs that the test tells apart."""
    pairs = list(itertools.combinations(samples, 2))
    tests = [ks_p_value(samples[a], samples[b]) for a, b in pairs]
    adjusted = holm([p for _, p in tests])
    told = [
        {"pair": pair, "distance": round(distance, 3), "p": p}
        for pair, (distance, _), p in zip(pairs, tests, adjusted, strict=True)
        if p < SIGNIFICANT
    ]
    quantiles = {
        name: [round(float(q), 3) for q in np.quantile(values, QUANTILES)] for name, values in samples.items()
    }
    return {"quantiles_ms": quantiles, "pairs": len(pairs), "told_apart": told}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="slots for each behaviour")
    parser.add_argument("--slot-ms", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lead", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lead:
        lead(options.lead)
        return
    shuffle, names = random.Random(options.seed), []  # noqa: S311 - an order, no key
    for _ in range(options.runs):
        names += shuffle.sample(list(GUESTS), len(GUESTS))
    seen = observe(names, slot_ms=options.slot_ms)
    ends = ("the guest's process ends", "the slot ends")
    result = {
        what: summary({name: np.array(values)[:, column] for name, values in seen.items()})
        for column, what in enumerate(ends)
    }
    if options.json:
        print(json.dumps({"runs": options.runs, "slot_ms": options.slot_ms, **result}))
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    for what, found in result.items():
        print(f"{what}, ms after the slot's start{'p50':>12}{'p90':>10}{'p99':>10}")
        for name, values in found["quantiles_ms"].items():
            print(f"  {name:40}" + "".join(f"{value:10.3f}" for value in values))
        print(f"  told apart: {len(found['told_apart'])} of {found['pairs']} pairs (Holm, {SIGNIFICANT})")
        for told in found["told_apart"]:
            left, right = told["pair"]
            print(f"    {left} / {right}: distance {told['distance']}, p {told['p']:.1e}")


if __name__ == "__main__":
    main()
