"""One job in the lead: from two submissions to a sealed model, phase by phase under the monitor."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.guest_api.monitor import Monitor
from chiron.guest_api.transforms import Transformer, carried_bytes
from chiron.policy import kernel
from chiron.policy.kernel import StopReason
from chiron.training.agreement import make_offer
from chiron.training.closing import Closing, close_job
from chiron.training.create import configure, create
from chiron.training.exchange import Cell, prepare, train
from chiron.training.inputs import Inputs, StopError, open_inputs
from chiron.training.results import Held, evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.guest_api.limits import CompiledGuest
    from chiron.guest_api.transforms import Transforms
    from chiron.training.agreement import Offer
    from chiron.training.ledger import Ledgers
    from chiron.training.node import Node
    from chiron.training.submission import JobId, PartyKey

APPROVAL_S = 24 * 3600.0
SEAL_GRID_MS = 2000  # what training gave is published this long after the last slot, whatever it was
TRANSFORM_MS = SEAL_GRID_MS // 4  # of it, the most that either transform of the held-out rows takes


@dataclass(slots=True)
class JobRun:
    """A job's progress in the lead, as its parties may read it."""

    node: Node
    cell: Cell
    job: JobId
    ledgers: Ledgers
    parties: tuple[PartyKey, ...] = ()
    offer: Offer | None = None
    approvals: dict[str, bytes] = field(default_factory=dict)
    decided: threading.Event = field(default_factory=threading.Event)
    refused: bool = False
    operator_log: str = ""
    closing: Closing | None = None
    monitor: Monitor | None = None

    def approve(self, party: PartyKey, signature: bytes) -> None:
        """Note one party's approval; when all have approved, the job goes on."""
        self.approvals[party.hex()] = signature
        if {key.hex() for key in self.parties} == set(self.approvals):
            self.decided.set()

    def refuse(self) -> None:
        """Note that a party refused: the job ends."""
        self.refused = True
        self.decided.set()

    def run(self, guest: str, dataset: str) -> None:
        """Drive the job to its end.

        Args:
            guest: path of the operator's submission on the platform's disk.
            dataset: path of the user's submission.

        Raises:
            TrainingError, EnclaveError, GuestApiError, OSError: the platform lost something; the caller
                stops the job.
        """
        try:
            inputs = open_inputs(self.node, self.job, guest=Path(guest), dataset=Path(dataset))
        except StopError as error:
            self.stop(error.reason)
            return
        self.parties = (inputs.guest_manifest.party, inputs.dataset_manifest.party)
        data_set = self.ledgers.identify(inputs.dataset_manifest.party, inputs.content)
        spent = self.ledgers.spent(data_set)
        state = kernel.initial(self.node.policy, rows_class=inputs.schema.rows_class, spent=spent)
        self.monitor = Monitor(self.node.policy, state)
        agreed = self._agree(inputs, self.monitor)
        if agreed is None:
            return
        charged = self.ledgers.charge(data_set, self.monitor)
        if charged is None:
            self.stop(StopReason.LEDGER_SPENT)
            return
        offer, compiled = agreed
        self._train(inputs, self.monitor, offer=offer, compiled=compiled, charged=charged)

    def _agree(self, inputs: Inputs, monitor: Monitor) -> tuple[Offer, CompiledGuest] | None:
        """Configure, publish the offer and wait for both parties; None when the job ended."""
        self._phase("Configure", self.node.policy.limits.configure_ms)
        self.operator_log, compiled = configure(self.node, inputs, monitor)
        header = monitor.header
        if header is None or compiled is None:
            self.node.emit({"event": "ended", "job": self.job, "outcome": "no-header"})
            return None
        offer = make_offer(
            self.node.policy,
            inputs.guest_manifest,
            dataset=inputs.dataset_manifest,
            header=header,
            spent=monitor.state.spent,
        )
        self.offer = offer
        self._phase("Approve", 0, offer=offer.as_dict())
        if not self.decided.wait(APPROVAL_S) or self.refused:
            self.stop(StopReason.PARTY_REFUSED)
            return None
        return offer, compiled

    def _train(
        self,
        inputs: Inputs,
        monitor: Monitor,
        *,
        offer: Offer,
        compiled: CompiledGuest,
        charged: Mapping[str, int],
    ) -> None:
        self._phase("Create", offer.header.create_ms, charged=dict(charged))
        room = carried_bytes(len(inputs.guest))
        with ExitStack() as guests:
            with prepare(self.node, self.cell, offer, inputs=inputs) as team:
                network, transforms = create(self.node, inputs, monitor, guest=compiled)
                monitor.finish_phase()
                transformer = self._open_transformer(transforms, inputs, compiled, guests)
                self._phase("Train", monitor.state.ticks_left * offer.header.slot_ms)
                trained = train(
                    team, offer, network, transforms=transforms, transforms_bytes=room, state=monitor.state
                )
            monitor.finish_phase()
            publish_at = time.monotonic() + SEAL_GRID_MS / 1000
            self._phase("Seal", SEAL_GRID_MS)
            held = None if transformer is None else Held(transformer, monitor.state, TRANSFORM_MS)
            result = evaluate(network, trained, inputs.dataset, held=held)
        self.closing = close_job(
            self.node,
            self.cell,
            offer,
            monitor=monitor,
            result=result,
            approvals=self.approvals,
            charged=charged,
            publish_at=publish_at,
            room=room,
        )

    def _open_transformer(
        self, transforms: Transforms | None, inputs: Inputs, compiled: CompiledGuest, guests: ExitStack
    ) -> Transformer | None:
        """Start what transforms the held-out rows; it gets ready beside the training."""
        if transforms is None:
            return None
        opened = Transformer(
            transforms, policy=self.node.policy_bytes, schema=inputs.schema, compiled=compiled
        )
        return guests.enter_context(opened)

    def stop(self, reason: StopReason) -> None:
        """End the job early; everybody learns one of a closed list of reasons and nothing else."""
        if self.monitor is not None:
            self.monitor.stop(reason)
        self.node.emit({"event": "stopped", "job": self.job, "reason": reason.name})

    def _phase(self, phase: str, planned_ms: int, **public: Any) -> None:  # noqa: ANN401  JSON values
        event = {"event": "phase", "job": self.job, "phase": phase, "planned_ms": planned_ms}
        self.node.emit(event | public)
