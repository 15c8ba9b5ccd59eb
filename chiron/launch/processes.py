"""Starts one enclave process, reads its public events and ends it by its own id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chiron.launch.errors import LaunchError
from chiron.launch.runtime import code_root

if TYPE_CHECKING:
    from pathlib import Path
    from queue import Queue

    from chiron.training.node import Role

STOP_S = 5.0
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class EnclaveProcess:
    """One running enclave. Its events arrive in `events` as (name, event); None stands for its end."""

    def __init__(
        self,
        name: str,
        role: Role,
        *,
        configuration: dict[str, Any],
        log: Path,
        events: Queue[tuple[str, dict[str, Any] | None]],
    ) -> None:
        self.name, self.role = name, role
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": str(code_root()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            **THREADS,
        }
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chiron.launch.role"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher, which ends its children in order
                text=True,
            )
        self._events = events
        threading.Thread(target=self._read, daemon=True).start()
        self.send({"role": role.value, **configuration})

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Write one line to the process.

        Raises:
            LaunchError: it has ended.
        """
        if self._process.stdin is None:
            raise LaunchError(f"{self.name} has no standard input")
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise LaunchError(f"{self.name} has ended ({self.ending()})") from error

    def ending(self) -> str:
        """Say how the process ended."""
        code = self._process.wait(STOP_S)
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """End the process: first its standard input, then by force."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it is gone already, which is what is wanted
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for line in lines:
                self._events.put((self.name, json.loads(line)))
        self._events.put((self.name, None))
