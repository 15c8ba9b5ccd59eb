"""What every worker process does: it runs as many steps as it is asked for and says how long they took.

It reads one number a line and answers one JSON document a line. Only the standard library is needed to
import it: the other side's environment has nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs


def serve(step: Callable[[], float]) -> None:
    """Answer until the input ends: seconds by the clock and of this process, largest resident size."""
    CLEAR_REFS.write_text(_RESET_PEAK)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(taken | {"peak_bytes": _peak_bytes()}), flush=True)


def _peak_bytes() -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
