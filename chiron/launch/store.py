"""The platform's job store: SQLite, public facts only."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  phase TEXT NOT NULL DEFAULT '',
  planned_ms INTEGER NOT NULL DEFAULT 0,
  phase_started REAL NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT '',
  offer TEXT NOT NULL DEFAULT 'null',
  created REAL NOT NULL
) STRICT
"""
WAITING, RUNNING, SEALED, FAILED, REFUSED = "waiting", "running", "sealed", "failed", "refused"
UNFINISHED = (WAITING, RUNNING)
COLUMNS = ("id", "state", "phase", "planned_ms", "phase_started", "reason", "offer", "created")


class JobStore:
    """Jobs and what is public of them. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(_SCHEMA)

    def add(self, job: str) -> None:
        """Note a job that waits for its second submission; a known one stays as it is."""
        self._run(
            "INSERT OR IGNORE INTO jobs (id, state, created) VALUES (?, ?, ?)", job, WAITING, time.time()
        )

    def set_state(self, job: str, state: str, *, reason: str = "") -> None:
        """Change a job's state."""
        self._run("UPDATE jobs SET state = ?, reason = ? WHERE id = ?", state, reason, job)

    def set_phase(self, job: str, phase: str, *, planned_ms: int) -> None:
        """Note that a phase began, and how long it lasts by its public schedule."""
        statement = "UPDATE jobs SET state = ?, phase = ?, planned_ms = ?, phase_started = ? WHERE id = ?"
        self._run(statement, RUNNING, phase, planned_ms, time.time(), job)

    def set_offer(self, job: str, offer: dict[str, Any]) -> None:
        """Note the public offer."""
        self._run("UPDATE jobs SET offer = ? WHERE id = ?", json.dumps(offer), job)

    def get(self, job: str) -> dict[str, Any] | None:
        """Return one job, or None."""
        rows = self._run(f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE id = ?", job)  # noqa: S608  constants
        return _row(rows[0]) if rows else None

    def all(self) -> list[dict[str, Any]]:
        """Return all jobs, oldest first."""
        rows = self._run(f"SELECT {', '.join(COLUMNS)} FROM jobs ORDER BY created")  # noqa: S608  constants
        return [_row(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def _row(row: tuple[Any, ...]) -> dict[str, Any]:
    fields = dict(zip(COLUMNS, row, strict=True))
    fields["offer"] = json.loads(fields["offer"])
    fields["elapsed_ms"] = round(1000 * (time.time() - fields["phase_started"])) if fields["phase"] else 0
    return fields
