"""A platform stops at a signal, whenever it comes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, threading, time
from pathlib import Path
from chiron.launch.local import Deployment

signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.02))  # returns when the 0.2 s are over
signal.setitimer(signal.ITIMER_REAL, 0.19)
stop = threading.Event()
threading.Timer(0.3, stop.set).start()
Deployment(Path("unused"), 1, tell=print).run(stop)  # waits 0.2 s for an event, again and again
print("stopped")
"""


def test_a_signal_in_the_last_moment_of_a_wait_does_not_make_it_endless() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "stopped\n"
