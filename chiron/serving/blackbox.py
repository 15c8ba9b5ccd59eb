"""One served model: rows in, released answers out, each a tick of the policy kernel."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import GraphError
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.transforms import INPUT, OUTPUT, TransformError
from chiron.policy import kernel
from chiron.serving.errors import Fault, FaultError
from chiron.serving.protocol import Answer, pack_answer, unpack_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph import Predictor
    from chiron.guest_api.dataset import Float32Array
    from chiron.guest_api.transforms import Transformer
    from chiron.policy.types import Policy
    from chiron.serving.budget import Budget
    from chiron.training.agreement import Offer
    from chiron.training.results import Normalised


FAILED = 0  # what is released when a model fails: class 0 with score 0


@dataclass(slots=True)
class BlackBox:
    """A model that only answers. Thread-safe."""

    offer: Offer
    predictor: Predictor | Normalised
    monitor: Monitor
    budget: Budget
    transformer: Transformer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    guest_lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, rows: Float32Array) -> Sequence[Answer]:
        """Return one released answer a row, after their count is on disk.

        Args:
            rows: float32, shape (n, *shape).

        Raises:
            FaultError: the budget does not cover all rows (none is answered then), or cannot be committed;
                or the model failed, which is charged as an answer.
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
        released = [event.value for event in events if isinstance(event, kernel.Release)]
        if len(released) != len(rows):
            raise FaultError(Fault.BUDGET_SPENT)
        if self.transformer is not None and FAILED in released:
            raise FaultError(Fault.NOT_ANSWERED)  # a function of what was released: it tells nothing more
        return [unpack_answer(value) for value in released]

    def _predict(self, rows: Float32Array) -> Float32Array:
        """Return scores; zeros where graph or guest fails, for a failure is an answer and counts as one.

        A guest that fails takes as long as one that does not.
        """
        given, failed = self._transform(INPUT, rows)
        try:
            scores = self.predictor.predict(given)
        except GraphError:
            scores, failed = np.zeros((len(rows), self.offer.schema.classes), dtype=np.float32), True
        scores, failed_last = self._transform(OUTPUT, scores)
        return np.zeros_like(scores) if failed or failed_last else scores

    def _transform(self, export: str, values: Float32Array) -> tuple[Float32Array, bool]:
        """Run a transform in a slot of its own, of which the guest has half; tell whether it failed."""
        if self.transformer is None or export not in self.transformer.exports:
            return values, False
        slot_ms, state = self.monitor.policy.serving.transform_ms, self.monitor.state
        with self.guest_lock:  # SERVE-9: a whole slot, whatever another's guest does
            ends = time.monotonic() + slot_ms / 1000
            try:
                return self.transformer.apply(export, values, state=state, deadline_ms=slot_ms // 2), False
            except TransformError:
                return values, True
            finally:
                time.sleep(max(0.0, ends - time.monotonic()))


def open_monitor(policy: Policy, state: kernel.State, *, used: int) -> Monitor:
    """Return a job's monitor with the answers counted that were given before this process started."""
    monitor = Monitor(policy, state)
    for _ in range(used):
        monitor.tick({"answer": 0})
    return monitor
