"""Watches what this process lets out beside what it returns: output, logs, files, processes, connections.

Python's audit hooks (PEP 578) cannot be removed: one is added, once, which does nothing unless a watch is on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod")
_active = threading.local()
_hooked: list[bool] = []


@contextmanager
def watched(note: Callable[[str, str], None]) -> Iterator[None]:
    """Call `note(way, what)` for everything that this thread lets out while the block runs."""
    _hook()
    handler = _Logs(note)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(note, "standard output"), _Stream(note, "standard error")
    logging.getLogger().addHandler(handler)
    _active.note = note
    try:
        yield
    finally:
        _active.note = None
        logging.getLogger().removeHandler(handler)
        sys.stdout, sys.stderr = before


class _Stream:
    """A text stream that passes on what is written."""

    def __init__(self, note: Callable[[str, str], None], way: str) -> None:
        self._note, self._way = note, way

    def write(self, text: str) -> int:
        """Note the text."""
        self._note(self._way, text)
        return len(text)

    def flush(self) -> None:
        """Hold nothing back."""


class _Logs(logging.Handler):
    def __init__(self, note: Callable[[str, str], None]) -> None:
        super().__init__(0)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note("log", record.getMessage())


def _hook() -> None:
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    note = getattr(_active, "note", None)
    if note is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        note("file", f"opens {arguments[0]}")
    elif event in _CHANGES:
        note("file", f"{event} {arguments[0]}")
    elif event == "subprocess.Popen":
        note("process", f"starts {arguments[1]}")
    elif event in {"socket.connect", "socket.sendto"}:
        note("network", f"{event} {arguments[1]}")
