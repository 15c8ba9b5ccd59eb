"""How long a Python guest takes: a fresh instance with a 3 KB request, and lists of a megabyte.

    python benchmarks/sandbox_component.py [RUNS]

Builds a component (about 10 s), compiles it (10 to 40 s) and prints one line a measurement.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chiron.guest_api.lowering import CALLS, component_call, component_signatures
from chiron.parties.build_python import componentize
from wasm_sandbox import ComponentRules, Ending, Limits, load_component

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.guest_api.lowering import Logic

SPEC = Path(__file__).resolve().parents[1] / "spec"
LIMITS = Limits(
    fuel=10**11, memory_bytes=256 << 20, table_elements=10_000, component_bytes=32 << 20, output_bytes=1 << 32
)
REQUEST_BYTES, CHUNK_BYTES, CHUNKS = 3072, 1 << 20, 10
GUEST = f"""
from wit_world import exports
from wit_world.imports import calls

class Model(exports.Model):
    def configure(self):
        calls.graph(calls.random({REQUEST_BYTES}))
        return 0

    def create(self):
        for _ in range({CHUNKS}):
            calls.batch(0, 1)
        return 0
"""


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "guest.py").write_text(GUEST, encoding="utf-8")
        output = Path(folder) / "guest.wasm"
        began = time.perf_counter()
        componentize(Path(folder), output, spec=SPEC)
        report("build", time.perf_counter() - began)
        binary = output.read_bytes()
    began = time.perf_counter()
    with load_component(
        binary, ComponentRules(component_signatures(), LIMITS, ["configure", "create"])
    ) as guest:
        report("compile", time.perf_counter() - began)

        def once(export: str) -> None:
            outcome = guest.run(export, imports=IMPORTS)
            if outcome.ending is not Ending.RETURNED:
                raise SystemExit(outcome.detail)

        times = timed(lambda: once("configure"), runs)
        report("fresh instance, 3 KB in, 3 KB out: p50", statistics.median(times))
        report("fresh instance, 3 KB in, 3 KB out: p99", statistics.quantiles(times, n=100)[98])
        times = timed(lambda: once("create"), 5)
        report(f"{CHUNKS} MiB of float32 into a Python list: p50", statistics.median(times))


def timed(work: Callable[[], None], runs: int) -> list[float]:
    """Return the seconds of each run after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def report(what: str, seconds: float) -> None:
    """Print one measurement."""
    print(f"{what:60} {1000 * seconds:10.1f} ms")


CHUNK = np.zeros(CHUNK_BYTES // 4, dtype="<f4")
LOGIC: dict[str, Logic] = {
    "random": lambda _, buffer: bytes(buffer.size),
    "batch": lambda *_: CHUNK,
}
# A Python guest imports the whole interface, whatever it calls.
IMPORTS = {name: component_call(form, LOGIC.get(name, lambda *_: 0)) for name, form in CALLS.items()}

if __name__ == "__main__":
    main()
