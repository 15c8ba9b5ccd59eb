"""Records what somebody outside the enclaves can see of a run, at the edges of this process.

A recorder belongs to the thread that starts it and to every thread that is started from there, so several
runs can go on at once. What it notes is grouped by the way by which it leaves; two runs are then compared.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from deployments import ROLE

from chiron.launch import role as launched
from chiron.training.node import Role
from enclave.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WATCHED = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.system",
}
RANDOM = (  # what differs from run to run whatever the secrets: keys, digests, names of files in the making
    (re.compile(r"\b(?:[0-9a-f]{128}|[0-9a-f]{64})\b"), "<digest>"),
    (re.compile(r"\.[0-9a-f]{16}\.part\b"), ".<random>.part"),
    (re.compile(r"(127\.0\.0\.1[:', ]+)\d+"), r"\1<port>"),
)
TIMES = {"created", "phase_started", "elapsed_ms", "finished_at"}
RELEASER = "chiron.guest_api.releaser"  # is killed when it has just done its work: how it ends is chance
_local = threading.local()


@dataclass(frozen=True, slots=True)
class Sent:
    """One message on the network: ports of the connection's ends, plaintext bytes, monotonic seconds.

    `turn` counts the connections between the same two ports: Linux gives a port again after a second.
    """

    source: int
    target: int
    size: int
    at: float
    turn: int = 0


@dataclass(slots=True)
class Recorder:
    """What one run lets out, by way. `hide` are texts that stand for themselves, such as a folder's path."""

    hide: dict[str, str] = field(default_factory=dict)
    ways: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    network: list[Sent] = field(default_factory=list)
    turns: dict[tuple[int, int], dict[Transport, int]] = field(default_factory=dict)
    ended: set[Any] = field(default_factory=set)
    on_send: Callable[[Transport, Sent], None] | None = None

    def note(self, way: str, what: object) -> None:
        """Note something that left by a way, and whether the query enclave did it."""
        by_query = getattr(_local, "role", "") == Role.QUERY.value
        self.ways[f"{way} by query" if by_query else way].append(self.plain(what))

    def plain(self, what: Any) -> Any:  # noqa: ANN401  JSON values
        """Return a value without what is random in every run, and without times."""
        if isinstance(what, dict):
            return {key: self.plain(value) for key, value in what.items() if key not in TIMES}
        if isinstance(what, (list, tuple)):
            return [self.plain(value) for value in what]
        if not isinstance(what, str):
            return what
        for text, name in self.hide.items():
            what = what.replace(text, name)
        for pattern, name in RANDOM:
            what = pattern.sub(name, what)
        return what

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record what this thread does, and every thread it starts."""
        before, _local.recorder = current(), self
        try:
            yield
        finally:
            _local.recorder = before


def current() -> Recorder | None:
    """Return this thread's recorder."""
    return getattr(_local, "recorder", None)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Record nothing of what this thread does."""
    before, _local.recorder = current(), None
    try:
        yield
    finally:
        _local.recorder = before


def differences(left: Mapping[str, list[Any]], right: Mapping[str, list[Any]]) -> list[str]:
    """Return a line for each way by which two runs differ: its name and the first difference."""
    return [
        f"{way}: {_first_difference(left.get(way, []), right.get(way, []))}"
        for way in sorted({*left, *right})
        if left.get(way, []) != right.get(way, [])
    ]


def _first_difference(left: list[Any], right: list[Any]) -> str:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return f"at {index}: {_fields(one, other)}"
    extra = (left[len(right) :] or right[len(left) :])[0]
    return f"{len(left)} against {len(right)}, the first more is {extra!r}"


def _fields(one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
        return ", ".join(f"{key} {one.get(key)!r} against {other.get(key)!r}" for key in keys)
    return f"{one!r} against {other!r}"


@contextmanager
def edges() -> Iterator[None]:
    """Watch the edges of this process: network, files, processes, output, logs, dying threads."""
    _install_audit_hook()
    handler = _LogHandler(0)
    with ExitStack() as stack:
        for target, name, replacement in (
            (Transport, "send", _sending(Transport.send)),
            (threading.Thread, "start", _starting(threading.Thread.start)),
            (subprocess.Popen, "wait", _waiting(subprocess.Popen.wait)),
            (threading, "excepthook", launched._log_kind_only),
            (sys, "stdout", _Output(sys.stdout, "standard output")),
            (sys, "stderr", _Output(sys.stderr, "standard error")),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        yield


def _sending(send: Callable[..., None]) -> Callable[..., None]:
    def recorded(transport: Transport, data: bytes | bytearray | memoryview) -> None:
        recorder = current()
        if recorder is not None:
            ends = (transport._socket.getsockname()[1], transport._socket.getpeername()[1])
            turns = recorder.turns.setdefault(ends, {})
            turn = turns.setdefault(transport, len(turns))
            sent = Sent(*ends, memoryview(data).nbytes, time.monotonic(), turn)
            recorder.network.append(sent)
            if recorder.on_send is not None:
                recorder.on_send(transport, sent)
        send(transport, data)

    return recorded


def _starting(start: Callable[..., None]) -> Callable[..., None]:
    def inheriting(thread: threading.Thread) -> None:
        recorder, run = current(), thread.run
        named = thread.name.removeprefix(ROLE) if thread.name.startswith(ROLE) else ""
        role = named or getattr(_local, "role", "")

        def recorded() -> None:
            _local.recorder, _local.role = recorder, role
            run()

        thread.run = recorded  # type: ignore[method-assign]
        start(thread)

    return inheriting


def _waiting(wait: Callable[..., int]) -> Callable[..., int]:
    def recorded(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        code = wait(process, timeout)
        recorder = current()
        name = str(process.args[-1] if isinstance(process.args, list) else process.args)
        if recorder is not None and process not in recorder.ended and name != RELEASER:
            recorder.ended.add(process)
            recorder.note("exit codes", f"{name}: {code}")
        return code

    return recorded


class _Output:
    """A stream that keeps what a recorded thread writes, and passes on the rest."""

    def __init__(self, stream: Any, way: str) -> None:  # noqa: ANN401  pytest's own kinds of stream
        self._stream, self._way = stream, way

    def write(self, text: str) -> int:
        recorder = current()
        if recorder is None:
            return int(self._stream.write(text))
        recorder.note(self._way, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (recorder := current()) is not None:
            recorder.note("logging", record.getMessage())


_audited: list[bool] = []


def _install_audit_hook() -> None:
    """Python's audit hooks cannot be removed: one is added, once, which does nothing without a recorder."""
    if not _audited:
        _audited.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    recorder = current()
    if recorder is None:
        return
    if event == "open" and not isinstance(arguments[0], int) and (arguments[2] or 0) & WRITING:
        recorder.note("files written", os.fsdecode(arguments[0]))
    elif event in WATCHED:
        recorder.note("files changed", [event, *map(str, arguments)])
    elif event == "subprocess.Popen":
        command, environment = list(map(str, arguments[1]))[1:], dict(arguments[3] or {})
        recorder.note("processes", {"arguments": command, "environment": environment})
    elif event == "socket.connect":
        recorder.note("connections", str(arguments[1]))
