"""Ends a job: seals the model, makes the declared releases, signs the receipt, hands over for serving."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chiron.guest_api.monitor import Monitor, state_from_dict, state_to_dict
from chiron.policy import kernel
from chiron.training.agreement import RECEIPT_VERSION, Offer, Receipt, sign_receipt
from chiron.training.errors import TrainingError
from chiron.training.node import Role
from chiron.training.results import ACCURACY_STEPS, LOSS_STEP, quantise
from chiron.training.sealed import seal_model
from chiron.training.wire import filled, parse_map, receive_map, send_map
from enclave import seal, unseal, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from chiron.training.exchange import Cell
    from chiron.training.node import Node
    from chiron.training.results import Result
    from chiron.training.submission import JobId

RECORD = "record"
RECORD_BYTES = HANDOVER_BYTES = (
    1 << 17
)  # offer, receipt with Evidence, metrics, state: one size on disk and network


@dataclass(frozen=True, slots=True)
class Closing:
    """A closed job: the signed receipt for everybody, the metrics for the operator, the state for serving."""

    offer: Offer
    receipt: Receipt
    metrics: dict[str, Any]
    state: kernel.State
    succeeded: bool


def close_job(  # noqa: PLR0913  what a receipt states comes from all over the job
    node: Node,
    cell: Cell,
    offer: Offer,
    *,
    monitor: Monitor,
    result: Result,
    approvals: dict[str, bytes],
    charged: Mapping[str, int],
    publish_at: float,
    room: int = 8,
) -> Closing:
    """Seal, wait for the publishing time, release, sign, hand over. Files are complete before it is told.

    Args:
        node: the lead.
        cell: the deployment.
        offer: what both parties approved.
        monitor: the job's monitor, at the start of its Seal phase.
        result: what training gave.
        approvals: each party's signature by its key in hexadecimal.
        charged: what the job was charged to its data set's ledger, in bits for each observer.
        publish_at: monotonic time in seconds before which nothing is written or released.
        room: bytes that the sealed model has for the guest's transforms.
    """
    time.sleep(max(0.0, publish_at - time.monotonic()))
    if result.model is not None:
        blob = seal_model(
            result.model, key=model_key(node, offer.job), job=offer.job, header=offer.header, room=room
        )
        write_atomically(stored(cell, offer.job, "model"), blob)
    quantised = quantise(result, epochs=offer.header.epochs)
    events = [
        event for loss in quantised.losses for event in monitor.tick(quantised.trusted | {"loss": loss})
    ]
    metrics = _metrics(events)
    succeeded = metrics["succeeded"]  # what the kernel released, and nothing beside it
    fields = _receipt_fields(node, offer, approvals=approvals, charged=charged, succeeded=succeeded)
    receipt = sign_receipt(node.signer, fields)
    closing = Closing(offer, receipt, metrics, monitor.state, succeeded)
    write_atomically(stored(cell, offer.job, RECORD), _sealed_record(node, closing))
    write_atomically(stored(cell, offer.job, "receipt"), receipt.to_bytes())
    if succeeded:
        hand_over(node, cell, closing)
    node.emit({"event": "ended", "job": offer.job, "outcome": "sealed" if succeeded else "failed"})
    return closing


def reopen(node: Node, cell: Cell, job: JobId) -> Closing:
    """Read a closed job's sealed record and hand it to the query enclave again.

    Raises:
        EnclaveError: the record is another enclave's or another job's, or was changed.
        OSError: the platform lost the file.
    """
    blob = stored(cell, job, RECORD).read_bytes()
    fields = parse_map(unseal(_record_key(node, job), blob, purpose=RECORD, context=job.encode()))
    closing = Closing(
        offer=Offer.from_dict(fields["offer"]),
        receipt=Receipt.from_bytes(fields["receipt"]),
        metrics=fields["metrics"],
        state=state_from_dict(fields["state"]),
        succeeded=fields["succeeded"],
    )
    if closing.succeeded:
        hand_over(node, cell, closing)
    return closing


def hand_over(node: Node, cell: Cell, closing: Closing) -> None:
    """Give the query enclave, once appraised, the keys and rules to serve a sealed model.

    Raises:
        ChannelError: it cannot be reached or its Evidence does not hold.
        TrainingError: it cannot open the model.
    """
    job = closing.offer.job
    with node.dial(cell.query, Role.QUERY) as channel:
        send_map(
            channel,
            {
                "do": "serve",
                "offer": closing.offer.as_dict(),
                "model": str(stored(cell, job, "model")),
                "model_key": model_key(node, job),
                "budget": str(stored(cell, job, "budget")),
                "budget_key": node.attester.sealing_key(f"budget {job}"),
                "state": state_to_dict(closing.state),
            },
            size=HANDOVER_BYTES,
        )
        if receive_map(channel) != {"ready": True}:
            raise TrainingError("the query enclave cannot open the sealed model: see `chiron up`")


def model_key(node: Node, job: JobId) -> bytes:
    """Return the key that a job's model is sealed with."""
    return node.attester.sealing_key(f"model {job}")


def stored(cell: Cell, job: JobId, what: str) -> Path:
    """Return the path of one of a job's files on the platform's disk."""
    return cell.store / f"{job}.{what}"


def _record_key(node: Node, job: JobId) -> bytes:
    return node.attester.sealing_key(f"record {job}")


def _sealed_record(node: Node, closing: Closing) -> bytes:
    content = filled(
        {
            "offer": closing.offer.as_dict(),
            "receipt": closing.receipt.to_bytes(),
            "metrics": closing.metrics,
            "state": state_to_dict(closing.state),
            "succeeded": closing.succeeded,
        },
        RECORD_BYTES,  # NI-4: metrics are the operator's alone, and the state tells what its guest did
    )
    job = closing.offer.job
    return seal(_record_key(node, job), content, purpose=RECORD, context=job.encode())


def _metrics(events: Sequence[kernel.Event]) -> dict[str, Any]:
    """Return what the policy released to the operator, in the units of the result."""
    released = [event for event in events if isinstance(event, kernel.Release)]
    values = {name: [e.value for e in released if e.name == name] for name in ("outcome", "accuracy", "loss")}
    return {
        "succeeded": values["outcome"] == [1],
        "accuracy": values["accuracy"][0] / ACCURACY_STEPS,
        "losses": [value * LOSS_STEP for value in values["loss"]],
    }


def _receipt_fields(
    node: Node, offer: Offer, *, approvals: dict[str, bytes], charged: Mapping[str, int], succeeded: bool
) -> dict[str, Any]:
    return {
        "version": RECEIPT_VERSION,
        "offer": offer.as_dict(),
        "approvals": {party: signature.hex() for party, signature in sorted(approvals.items())},
        "charged": dict(charged),
        "outcome": "sealed" if succeeded else "failed",
        "simulated": node.attester.simulated,
        "evidence": node.identity.evidence.to_bytes(),
        "private_training": None,
        "finished_at": int(time.time()),
    }
