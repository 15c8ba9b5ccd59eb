"""One served model: rows in, released answers out, each a tick of the policy kernel."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import GraphError
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from chiron.serving.errors import Fault, FaultError
from chiron.serving.protocol import Answer, pack_answer, unpack_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph import Predictor
    from chiron.guest_api.dataset import Float32Array
    from chiron.policy.types import Policy
    from chiron.serving.budget import Budget
    from chiron.training.agreement import Offer


@dataclass(slots=True)
class BlackBox:
    """A model that only answers. Thread-safe."""

    offer: Offer
    predictor: Predictor
    monitor: Monitor
    budget: Budget
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, rows: Float32Array) -> Sequence[Answer]:
        """Return one released answer a row, after their count is on disk.

        Args:
            rows: float32, shape (n, *shape).

        Raises:
            FaultError: the budget does not cover all rows (none is answered then), or cannot be committed.
        """
        probabilities = self._predict(rows)
        with self.lock:
            limit = self.monitor.policy.declassifiers["answer"].uses
            if self.budget.used + len(rows) > limit:
                raise FaultError(Fault.BUDGET_SPENT)
            try:
                self.budget.commit(self.budget.used + len(rows))  # SERVE-3: before an answer leaves
            except OSError as error:
                raise FaultError(Fault.UNAVAILABLE) from error
            events = [
                event for row in probabilities for event in self.monitor.tick({"answer": pack_answer(row)})
            ]
        released = [event for event in events if isinstance(event, kernel.Release)]
        if len(released) != len(rows):
            raise FaultError(Fault.BUDGET_SPENT)
        return [unpack_answer(release.value) for release in released]

    def _predict(self, rows: Float32Array) -> Float32Array:
        """Return probabilities; zeros where the graph fails, for a failure is an answer and counts as one."""
        try:
            return self.predictor.predict(rows)
        except GraphError:
            return np.zeros((len(rows), self.offer.schema.classes), dtype=np.float32)


def open_monitor(policy: Policy, state: kernel.State, *, used: int) -> Monitor:
    """Return a job's monitor with the answers counted that were given before this process started."""
    monitor = Monitor(policy, state)
    for _ in range(used):
        monitor.tick({"answer": 0})
    return monitor
