"""The process that keeps a slot's clock: kills the guest's process at half slot, lets the lead go at its end.

It does the same things at the same times whatever the guest does, and holds no secret. Run as a program it
imports the standard library alone.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Self

from chiron.guest_api.errors import GuestApiError

AWAKE_S = 0.003
_SLOT = struct.Struct("<qdd")  # id of the guest's process, monotonic seconds of half slot and of its end


class Releaser:
    """One releaser for one slot. A context manager: leaving it ends its process, and waits for nothing."""

    def __init__(self) -> None:
        """Start the process; the slot starts with `start`."""
        command = [sys.executable, "-m", "chiron.guest_api.releaser"]
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._expect(b"r")

    def start(self, guest_pid: int, *, slot_ms: int) -> None:
        """Start a slot of `slot_ms` now; the process `guest_pid` is killed at half of it."""
        now = time.monotonic()
        try:
            _pipe(self._process.stdin).write(
                _SLOT.pack(guest_pid, now + slot_ms / 2000, now + slot_ms / 1000)
            )
        except BrokenPipeError as error:
            raise GuestApiError("the releaser's process ended before its slot") from error

    def wait_for_half(self) -> None:
        """Return once the guest's process was killed, at half slot.

        Raises:
            GuestApiError: the platform ended the releaser.
        """
        self._expect(b"h")

    def wait_for_end(self) -> None:
        """Return at the slot's end; raises as `wait_for_half`."""
        self._expect(b"e")

    def _expect(self, wanted: bytes) -> None:
        if _pipe(self._process.stdout).read(1) != wanted:
            raise GuestApiError("the releaser's process ended before its slot")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        # a process takes milliseconds to end, which must not come between the slot's end and what follows it
        threading.Thread(target=self._process.wait, daemon=True).start()
        _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:  # pragma: no cover  Popen was given pipes
        raise GuestApiError("the releaser's process has no pipes")
    return pipe


def main() -> None:
    """Keep one slot: say when ready, take its times, kill at half, let go at the end."""
    os.write(1, b"r")
    raw = os.read(0, _SLOT.size)
    if len(raw) != _SLOT.size:
        return  # the lead gave up before the slot
    guest_pid, half_at, end_at = _SLOT.unpack(raw)
    guest = os.pidfd_open(guest_pid)  # names this process even if its id is given to another
    _sleep_until(half_at)
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(guest, signal.SIGKILL)  # SAND-5
    os.write(1, b"h")
    _sleep_until(end_at)  # TRAIN-4
    os.write(1, b"e")


def _sleep_until(at: float) -> None:
    """Sleep, and for the last moments stay awake: how deep a processor slept depends on what ran before."""
    time.sleep(max(0.0, at - AWAKE_S - time.monotonic()))
    while time.monotonic() < at:
        pass


if __name__ == "__main__":
    main()
