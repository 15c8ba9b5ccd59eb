"""Small sabotages of the runtime that a leak test must notice: a check that cannot fail checks nothing."""

from __future__ import annotations

import logging
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.monitor import Monitor
from chiron.training import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_granted_data = HostCalls._granted_data  # noqa: SLF001  what is sabotaged
_call, _pad = Monitor.call, wire.pad


@dataclass(frozen=True, slots=True)
class Sabotage:
    """A change of the runtime: `replacement` stands for attribute `name` of `target` while it is on.

    `observers` are those who see it whatever the guest, as long as it reads data and writes a graph.
    """

    what: str
    target: Any
    name: str
    replacement: Callable[..., Any]
    observers: tuple[str, ...]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Sabotage the runtime while the block runs."""
        with mock.patch.object(self.target, self.name, self.replacement):
            yield


def _prints(calls: HostCalls, name: str) -> object:
    dataset = _granted_data(calls, name)
    print(f"{name}: {len(dataset.rows)} rows, the first begins with {dataset.rows.flat[0]}")  # noqa: T201
    return dataset


def _logs(calls: HostCalls, name: str) -> object:
    dataset = _granted_data(calls, name)
    logging.getLogger("chiron").warning("%s of data with sum %s", name, dataset.rows.sum())
    return dataset


def _says(calls: HostCalls, name: str) -> object:
    dataset = _granted_data(calls, name)
    sys.stderr.write(f"{dataset.rows.mean()}\n")
    return dataset


def _caches(calls: HostCalls, name: str) -> object:
    dataset = _granted_data(calls, name)
    path = Path(tempfile.gettempdir()) / f"chiron-{abs(hash(dataset.rows.tobytes()))}"
    path.write_bytes(b"")
    path.unlink()
    return dataset


def _ticks_at_a_read(monitor: Monitor, name: str, payload: bytes = b"") -> bool:
    granted = _call(monitor, name, payload)
    if name == "graph" and sum(payload) % 2:
        monitor.tick()
    return granted


def _not_padded(content: bytes, size: int) -> bytes:
    return _pad(content, min(size, len(content) + 8))


SABOTAGES = (
    Sabotage("a call prints a value", HostCalls, "_granted_data", _prints, ("operator", "platform")),
    Sabotage("a call logs a sum of the data", HostCalls, "_granted_data", _logs, ("operator", "platform")),
    Sabotage(
        "a call writes a mean to standard error", HostCalls, "_granted_data", _says, ("operator", "platform")
    ),
    Sabotage("a file's name tells the data", HostCalls, "_granted_data", _caches, ("operator", "platform")),
    Sabotage("a slot ends at a call of the guest", Monitor, "call", _ticks_at_a_read, ("user", "platform")),
    Sabotage("the message with the graph is not padded", wire, "pad", _not_padded, ("user", "platform")),
)
