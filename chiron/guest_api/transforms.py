"""The operator's transforms: rows through the guest, each run in a fresh instance of a guest compiled once.

What a run does to the kernel's state goes with its instance: each starts from the state that a tick of a
fresh phase leaves, and gives back rows and nothing else.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from chiron.guest_api.errors import GuestApiError
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.process import GuestProcess
from chiron.policy.loader import parse_policy
from wasm_sandbox import SandboxError

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Float32Array, Schema
    from chiron.guest_api.limits import CompiledGuest
    from chiron.policy import kernel

INPUT, AUGMENT, OUTPUT = "transform_input", "augment", "transform_output"
EXPORTS = (INPUT, AUGMENT, OUTPUT)
GUEST_PADDED_BYTES = 1 << 20  # guests are padded to whole MiB
ROOM_BYTES = 1 << 17  # for the notes, their keys and a kernel state


class TransformError(GuestApiError):
    """A transform failed. The text is for a dry run alone."""


@dataclass(frozen=True, slots=True)
class Transforms:
    """What travels to workers and the query enclave: the guest, its notes, which transforms it has."""

    guest: bytes
    notes: bytes
    exports: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self) | {"exports": list(self.exports)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild what `as_dict` wrote, by an enclave of this deployment."""
        return cls(fields["guest"], fields["notes"], tuple(fields["exports"]))


def carried_bytes(guest_bytes: int) -> int:
    """Return the fixed size of what carries transforms, whether or not the guest has any.

    Args:
        guest_bytes: size of the guest, of which a submission shows whole MiB alone.
    """
    submitted = -(-max(guest_bytes, 1) // GUEST_PADDED_BYTES) * GUEST_PADDED_BYTES
    return submitted + ROOM_BYTES  # CONF-4


class Transformer:
    """Runs one guest's transforms in a process that is started beside the caller, and again if it was killed.

    One run at a time, in a thread that nobody waits for beyond a run's time: a guest that is stuck in one
    slow instruction ends later, and its process stays. A context manager: leaving it ends the process.
    """

    def __init__(
        self, transforms: Transforms, *, policy: bytes, schema: Schema, compiled: CompiledGuest | None = None
    ) -> None:
        """Start the process; the guest is compiled once, here or, where `compiled` is given, before."""
        self.exports = frozenset(transforms.exports)
        self._transforms = transforms
        self._policy, self._schema = policy, schema
        self._run_bytes = parse_policy(policy).sinks["transformed"].capacity_bytes
        self._compiled = compiled
        self._process: GuestProcess | None = None
        self._started = threading.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1)
        self._start()

    def apply(
        self,
        export: str,
        rows: Float32Array,
        *,
        state: kernel.State,
        deadline_ms: int,
        seed: bytes = b"",
    ) -> Float32Array:
        """Return what a transform makes of rows; without that transform, the rows themselves.

        Args:
            export: one of EXPORTS.
            rows: float32, shape (n, ...); the answer has the same shape.
            state: the job's kernel state.
            deadline_ms: when the guest is interrupted, for all rows; they go through it in runs of what its
                sink holds. This returns within twice that time.
            seed: of the guest's randomness; each run draws its own.

        Raises:
            TransformError: a run trapped, ran out of fuel or time, or gave other than finite values of this
                shape; or the process is not up in time.
        """
        if export not in self.exports:
            return rows
        ends = time.monotonic() + deadline_ms / 1000
        at_once = max(1, self._run_bytes // (rows[:1].nbytes or 1))

        def all_runs() -> list[Float32Array]:
            return [
                self._run(
                    export,
                    rows[at : at + at_once],
                    state=state,
                    seed=seed + at.to_bytes(8, "little"),
                    ends=ends,
                )
                for at in range(0, len(rows), at_once)
            ]

        try:
            parts = self._thread.submit(all_runs).result(2 * deadline_ms / 1000)
        except TimeoutError as error:
            raise TransformError(f"{export}() did not end when it was interrupted") from error
        return np.concatenate([rows[:0], *parts])

    def close(self) -> None:
        """End the process; one that is starting ends as soon as it is up."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.close()

    def wait(self) -> None:
        """Wait until the process is up, or could not be started."""
        self._started.wait()

    def _run(
        self, export: str, rows: Float32Array, *, state: kernel.State, seed: bytes, ends: float
    ) -> Float32Array:
        left_ms = int(1000 * (ends - time.monotonic()))
        process = self._process if self._started.wait(max(0, left_ms) / 1000) else None
        left_ms = int(1000 * (ends - time.monotonic()))
        if process is None or left_ms < 1:
            raise TransformError(f"{export}() is out of time, or its process could not be started")
        raw = np.ascontiguousarray(rows, dtype="<f4")
        try:
            report, given = process.transform(
                export,
                raw.data.cast("B"),
                row_bytes=raw[0].nbytes,
                state=state,
                seed=seed,
                deadline_ms=left_ms,
            )
        except GuestApiError as error:
            process.close()
            self._start()
            raise TransformError(f"{export}() did not end, or its process did") from error
        if not report.ok:
            raise TransformError(report.explain(export))
        return _checked(export, given, raw)

    def _start(self) -> None:
        """Start the process in a thread of its own: it takes longer than a request has."""
        if self._closed:
            return  # a run that closing ended fails without a new process, which would show
        self._started.clear()
        self._process = None
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        try:
            if self._compiled is None:
                self._compiled = compile_guest(parse_policy(self._policy), self._transforms.guest)
            process = GuestProcess(
                self._compiled, policy=self._policy, schema=self._schema, notes=self._transforms.notes
            )
        except (GuestApiError, SandboxError):
            self._started.set()
            return  # every run fails from here on, as a guest that traps would
        self._process = process
        self._started.set()
        if self._closed:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _checked(export: str, given: bytes, rows: Float32Array) -> Float32Array:
    if len(given) != rows.nbytes:
        raise TransformError(f"{export}() gave {len(given)} bytes for {rows.nbytes}: give each value once")
    values = np.frombuffer(given, dtype="<f4").reshape(rows.shape)
    if not np.isfinite(values).all():
        raise TransformError(f"{export}() gave NaN or infinity: divide by nothing that can be zero")
    return values
