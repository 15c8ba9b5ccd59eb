"""`python -m benchmarks.sandbox [--json]`: how fast the sandbox is in one thread, in ratios and times."""

from __future__ import annotations

import os

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for name in THREADS:  # before numpy is imported
    os.environ[name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from importlib.metadata import version  # noqa: E402
from itertools import chain  # noqa: E402

from benchmarks.sandbox import rows  # noqa: E402


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    about = {
        "threads": {name: os.environ[name] for name in THREADS},
        "python": platform.python_version(),
        "wasmtime": version("wasmtime"),
        "numpy": version("numpy"),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
    }
    found = list(
        chain(
            rows.host_calls(),
            rows.requests(2 * 65_536, targets=True),
            rows.requests(2 * rows.MIB, targets=False),
            rows.bulk(),
            rows.transform(),
            rows.kernel_decisions(),
        )
    )
    if as_json:
        print(json.dumps({"about": about, "rows": [row.as_dict() for row in found]}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for row in found:
        target = "" if row.target is None else f"at most {row.target:g}"
        print(f"{row.what:55} {row.figure:9.2f} {row.unit:2}  {target:12} {row.verdict:16} {row.detail}")


if __name__ == "__main__":
    main()
