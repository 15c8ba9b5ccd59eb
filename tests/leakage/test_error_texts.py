"""Errors are an output channel: what the platform reads of one is its kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from chiron.launch.role import _log_kind_only

if TYPE_CHECKING:
    import pytest


def test_a_thread_that_dies_tells_its_kind_of_error_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", _log_kind_only)

    def die() -> None:
        raise ValueError("the first row begins with 7.25")

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    assert capfd.readouterr() == ("", "a thread ended: ValueError\n")
