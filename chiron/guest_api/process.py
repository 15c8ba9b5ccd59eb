"""Runs a guest in a process of its own that is killed when its time is up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.monitor import state_from_dict, state_to_dict
from chiron.guest_api.wire import read_message, read_rows, write_message, write_rows
from wasm_sandbox import LINES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.guest_api.dataset import Schema
    from chiron.guest_api.limits import CompiledGuest
    from chiron.guest_api.monitor import Monitor
    from chiron.guest_api.statistics import Statistics
    from chiron.policy import kernel

OUT_OF_TIME = "out of time"
ENVIRONMENT = ("PATH", "PYTHONPATH")  # all that the child is told of this process's environment
STUCK_MS = 5_000  # longer than any one instruction of a guest takes
LOAD_MS = 60_000  # start, transfer of the largest data set
EXCEPTION = 100_000  # beyond it, what spec/sdk/python returns for an exception: this and its line


@dataclass(frozen=True, slots=True)
class GuestReport:
    """How one run of a guest ended. Secret after taint: only a dry run may show it.

    `ending` is an ending of the sandbox or "out of time", `value` the export's result, `fuel` what it used.
    """

    ending: str
    value: int | None
    fuel: int
    detail: str

    @property
    def ok(self) -> bool:
        """Tell whether the guest returned zero."""
        return self.ending == "returned" and self.value == 0

    def explain(self, export: str) -> str:
        """Say in a sentence what went wrong, for the operator alone."""
        if self.ending == "returned":
            line = (self.value or 0) - EXCEPTION
            where = f" (in Python: an exception in line {line} of the module)" if line > 0 else ""
            return f"{export}() returned {self.value}: it must return 0{where}"
        text = f"{export}() ended: {self.ending}"
        return f"{text} ({self.detail})" if self.detail else text


class GuestProcess:
    """One child process for one run of one export, or for any number of transforms.

    A context manager: leaving it ends the child. `exports` names the functions that the guest has.
    """

    def __init__(
        self,
        guest: CompiledGuest,
        *,
        policy: bytes,
        schema: Schema,
        dataset: bytes | None = None,
        statistics: Statistics | None = None,
        notes: bytes = b"",
    ) -> None:
        """Start the child and load it; the data set goes in here, once: its first chunks, None before taint.

        `statistics` are of all its rows; None: of those given.
        `notes` is what `create` kept for the transforms.

        Raises:
            GuestApiError: the child died, or the guest's machine code is not its enclave's.
        """
        command = [sys.executable, "-m", "chiron.guest_api.child"]
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= LINES if guest.lines else {}
        self._child = subprocess.Popen(  # noqa: S603  our own module, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        try:
            with self._killed_after(LOAD_MS):
                self._send(
                    {
                        "guest": asdict(guest),
                        "policy": policy,
                        "schema": schema.as_dict(),
                        "dataset": dataset,
                        "statistics": None if statistics is None else statistics.as_dict(),
                        "notes": notes,
                    }
                )
                self.exports = frozenset[str](self._receive()["exports"])
        except BaseException:
            self.close()
            raise

    def run(self, export: str, monitor: Monitor, *, seed: bytes, deadline_ms: int) -> GuestReport:
        """Run one export; afterwards `monitor` holds the state that the kernel reached.

        A guest that is not done after `deadline_ms` is killed, and counts as faulted.
        """
        try:
            with self._killed_after(deadline_ms):  # SAND-5
                self._send({"export": export, "state": state_to_dict(monitor.state), "seed": seed})
                answer = self._receive()
        except GuestApiError:
            monitor.fault()
            return GuestReport(OUT_OF_TIME, None, 0, f"killed after {deadline_ms} ms, or out of memory")
        monitor.take_back(state_from_dict(answer["state"]))
        return GuestReport(answer["ending"], answer["value"], answer["fuel"], answer["detail"])

    def transform(
        self,
        export: str,
        rows: memoryview,
        *,
        row_bytes: int,
        state: kernel.State,
        seed: bytes,
        deadline_ms: int,
    ) -> tuple[GuestReport, bytes]:
        """Run a transform in a fresh instance; return how it ended and what it gave.

        The child interrupts a guest that is not done after `deadline_ms`.

        Raises:
            GuestApiError: the child was not done long after that, and was killed.
        """
        with self._killed_after(deadline_ms + STUCK_MS):
            self._send(
                {
                    "export": export,
                    "state": state_to_dict(state),
                    "seed": seed,
                    "row_bytes": row_bytes,
                    "deadline_ms": deadline_ms,
                },
                rows,
            )
            answer, given = self._receive(), self._receive_rows()
        report = GuestReport(answer["ending"], answer["value"], answer["fuel"], answer["detail"])
        return report, given

    @property
    def pid(self) -> int:
        """The child's process id; it names the child until `close`."""
        return self._child.pid

    def close(self) -> None:
        """End the child, by its own id, and close the pipes."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # unsent bytes of a child that is gone
                    pipe.close()

    @contextmanager
    def _killed_after(self, deadline_ms: int) -> Iterator[None]:
        killer = threading.Timer(deadline_ms / 1000, self._child.kill)
        killer.start()
        try:
            yield
        finally:
            killer.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _send(self, message: dict[str, Any], rows: memoryview | None = None) -> None:
        if self._child.stdin is None:  # pragma: no branch  Popen was given a pipe
            raise GuestApiError("the guest's process has no standard input")
        try:
            write_message(self._child.stdin, message)
            if rows is not None:
                write_rows(self._child.stdin, rows)
        except BrokenPipeError as error:
            raise GuestApiError("the guest's process ended before it answered") from error

    def _receive(self) -> dict[str, Any]:
        if self._child.stdout is None:
            raise GuestApiError("the guest's process has no standard output")
        return read_message(self._child.stdout)

    def _receive_rows(self) -> bytes:
        if self._child.stdout is None:
            raise GuestApiError("the guest's process has no standard output")
        return read_rows(self._child.stdout)
