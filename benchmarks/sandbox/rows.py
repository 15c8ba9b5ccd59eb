"""What is measured: one function for each group of rows."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sandbox.guests import compile_guest
from benchmarks.sandbox.timing import Row, in_turns, median_ratio, quantile
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.loader import parse_policy
from wasm_sandbox import (
    Ending,
    Guest,
    GuestMemory,
    HostCall,
    Limits,
    Profile,
    Rules,
    load,
)
from wasm_sandbox.lean import LeanBinding
from wasm_sandbox.public import PublicBinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

CALLS = 200  # of request.c: so few that most rounds are not interrupted by other processes
DECISIONS = 20
GRANTED = {"input": 3, "output": 3, "nothing": 1}
SPEC = Path(__file__).resolve().parents[2] / "spec"
BINDINGS: dict[str, Any] = {"public": PublicBinding, "lean": LeanBinding}
MIB = 1 << 20
# The second, the time of the processor that this thread used, leaves out what other processes took.
CLOCKS = (time.perf_counter, time.thread_time)
IMAGES, PIXELS = 60_000, 784


class Buffers:
    """Hands out one array as input and takes output into another of the same size."""

    def __init__(self, source: NDArray[Any]) -> None:
        self.source = source.reshape(-1).view(np.uint8)
        self.taken = np.empty_like(self.source)

    def imports(self) -> dict[str, HostCall]:
        """Return the host calls of guest.h."""
        return {
            "input": HostCall(3, self._input),
            "output": HostCall(3, self._output),
            "nothing": HostCall(1, _nothing),
        }

    def _input(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        first, pointer, size = arguments
        data = self.source[first : first + size]
        memory.write(pointer, data)
        return len(data)

    def _output(self, memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        first, pointer, size = arguments
        memory.read_into(pointer, self.taken[first : first + size])
        return 0


def _nothing(_memory: GuestMemory, _arguments: tuple[int, ...]) -> int:
    return 0


def loaded(source: str, *, memory_bytes: int, binding: str, profile: Profile = Profile.ENCLAVE) -> Guest:
    """Compile and load one guest of the benchmark."""
    limits = Limits(10**12, memory_bytes, output_bytes=1 << 30, host_calls=10**9)
    rules = Rules(GRANTED, limits, profile=profile, binding=BINDINGS[binding])
    return load(compile_guest(source, memory_bytes=memory_bytes), rules)


def runner(guest: Guest, export: str, buffers: Buffers) -> Callable[[], None]:
    """Return one whole request: fresh instance, run, result."""
    imports = buffers.imports()

    def request() -> None:
        outcome = guest.run(export, imports=imports)
        if outcome.ending is not Ending.RETURNED:
            raise RuntimeError(f"the benchmark's guest ended: {outcome.ending.value} {outcome.detail}")

    return request


def host_calls() -> Iterator[Row]:
    """Time one host call through each binding."""
    buffers = Buffers(np.zeros(1, np.float32))
    guests = [loaded("request.c", memory_bytes=2 * 65_536, binding=name) for name in BINDINGS]
    works = [runner(guest, export, buffers) for guest in guests for export in ("call", "idle")]
    wall, own = (in_turns(works, rounds=200, warm_up=20, clock=clock) for clock in CLOCKS)
    for name, first, target in (("public", 0, 25.0), ("lean", 2, 1.5)):
        each, alone = (
            (statistics.median(taken[first]) - statistics.median(taken[first + 1])) / CALLS * 1e6
            for taken in (wall, own)
        )
        detail = f"in time of the processor {alone:.2f} us"
        yield Row(f"host call, {name} binding", each, "us", target, detail)


def requests(memory_bytes: int, *, targets: bool) -> Iterator[Row]:
    """Time a fresh instance that reads 3 KiB and answers 3 KiB."""
    buffers = Buffers(np.arange(768, dtype=np.float32))
    guests = [loaded("request.c", memory_bytes=memory_bytes, binding=name) for name in BINDINGS]
    works = [runner(guest, "answer", buffers) for guest in guests]
    taken = in_turns(works, rounds=3000, warm_up=200)
    used = in_turns(works, rounds=3000, warm_up=0, clock=CLOCKS[1])
    expected = np.arange(768, dtype=np.float32) * np.float32(0.5) + np.float32(1)
    if buffers.taken.view(np.float32).tolist() != expected.tolist():
        raise RuntimeError("the benchmark's guest answered wrongly")
    ratio = f"public / lean {median_ratio(*taken):.1f}, memory {memory_bytes >> 10} KiB"
    for name, values, own, target in zip(BINDINGS, taken, used, (400.0, 150.0), strict=True):
        median, tail = quantile(values, 0.5) * 1e6, quantile(values, 0.99) * 1e6
        alone = (
            f"p99 {tail:.0f} us; in time of the processor {quantile(own, 0.99) / quantile(own, 0.5):.2f} x"
        )
        what = f"fresh instance, 3 KiB in and out, {name}"
        yield Row(f"{what}, p50", median, "us", target if targets else None, ratio)
        yield Row(f"{what}, p99 / p50", tail / median, "x", 3.0 if targets else None, alone)


def bulk() -> Iterator[Row]:
    """Time 10 MiB of float32 into and out of a guest beside numpy's copies of the same bytes."""
    source = np.random.default_rng(1).standard_normal(10 * MIB // 4, dtype=np.float32)
    buffers = Buffers(source)
    guest = loaded("bulk.c", memory_bytes=11 * MIB, binding="lean")
    between, taken = np.empty_like(source), np.empty_like(source)
    memory = bytearray(11 * MIB)
    view = GuestMemory(memoryview(memory), output_bytes=1 << 40)

    def copy() -> None:
        np.copyto(between, source)
        np.copyto(taken, between)

    def in_and_out() -> None:
        view.write(0, source)
        view.read_into(0, buffers.taken)

    whole = runner(guest, "pass", buffers)
    copies, calls, fresh = in_turns([copy, in_and_out, whole], rounds=40, warm_up=3)
    if not np.array_equal(buffers.taken.view(np.float32), source):
        raise RuntimeError("the benchmark's guest changed the data")
    base = f"numpy {statistics.median(copies) * 1e3:.2f} ms"
    for what, values, target in (
        ("10 MiB float32 in and out, the two copies", calls, 2.0),
        ("10 MiB float32 in and out, with its fresh instance", fresh, None),
    ):
        detail = f"{statistics.median(values) * 1e3:.2f} ms, {base}"
        yield Row(what, median_ratio(values, copies), "x", target, detail)


def transform() -> Iterator[Row]:
    """Time the normalisation of 60,000 images beside the same arithmetic in numpy."""
    rows = np.random.default_rng(2).random((IMAGES, PIXELS), dtype=np.float32)
    mean, scale = np.float32(0.5), np.float32(3.25)
    buffers = Buffers(np.concatenate([np.array([mean, scale]), rows.reshape(-1)]))
    buffers.taken = np.empty(rows.nbytes, np.uint8)
    out = np.empty_like(rows)

    def in_numpy() -> None:
        np.subtract(rows, mean, out=out)
        np.multiply(out, scale, out=out)

    profiles = {
        profile: loaded("bulk.c", memory_bytes=11 * MIB, binding="lean", profile=profile)
        for profile in Profile
    }
    works = [in_numpy, *(runner(guest, "transform", buffers) for guest in profiles.values())]
    base, *others = in_turns(works, rounds=7, warm_up=1)
    if not np.array_equal(buffers.taken.view(np.float32), out.reshape(-1)):
        raise RuntimeError("the benchmark's guest and numpy differ")
    for profile, values in zip(profiles, others, strict=True):
        detail = f"{statistics.median(values):.3f} s, numpy {statistics.median(base):.3f} s"
        what = f"transform of 60,000 28x28 images, {profile.value} profile"
        yield Row(what, median_ratio(values, base), "x", 3.0, detail)


def kernel_decisions() -> Iterator[Row]:
    """Time one decision of the policy kernel through the monitor."""
    policy = parse_policy((SPEC / "policy.toml").read_bytes())
    state = kernel.initial(policy, rows_class=1024, spent={})
    for phase, call, payload in (
        ("Configure", "schema", b""),
        ("Create", "batch", b""),
        ("Create", "plan", bytes(32)),
    ):
        fresh = replace(state, phase=phase)

        def decide(begin: kernel.State = fresh, name: str = call, content: bytes = payload) -> None:
            monitor = Monitor(policy, begin)
            for _ in range(DECISIONS):
                monitor.state = begin
                monitor.call(name, content)

        wall, own = (
            statistics.median(in_turns([decide], rounds=200, warm_up=20, clock=clock)[0]) / DECISIONS * 1e6
            for clock in CLOCKS
        )
        detail = f"phase {phase}; in time of the processor {own:.2f} us"
        yield Row(f"kernel decision, {call}", wall, "us", 5.0, detail)
