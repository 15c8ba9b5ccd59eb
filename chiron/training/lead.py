"""The lead enclave: holds the keys of its jobs, answers both parties and drives jobs through their phases."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import cbor2

from chiron.guest_api.errors import GuestApiError
from chiron.policy.kernel import StopReason
from chiron.training.agreement import verify_approval, verify_request
from chiron.training.closing import reopen
from chiron.training.errors import Code, RefusedError, TrainingError
from chiron.training.job import JobRun
from chiron.training.ledger import Ledgers
from chiron.training.submission import JobId, PartyKey
from chiron.training.wire import canonical, receive_map, send_map
from enclave import ChannelError, EnclaveError
from wasm_sandbox import SandboxError

if TYPE_CHECKING:
    from chiron.training.exchange import Cell
    from chiron.training.node import Node
    from enclave import Channel

Value = TypeVar("Value")
# What a party alone may read answers in one size, also with an error: the network and the other party see it.
REPLY_BYTES = {"log": 1 << 18, "metrics": 1 << 11}
PLATFORM_FAULTS = (TrainingError, GuestApiError, SandboxError, EnclaveError, OSError)


@dataclass(slots=True)
class Lead:
    """The jobs of one lead process: one thread a connection, one a job."""

    node: Node
    cell: Cell
    jobs: dict[JobId, JobRun] = field(default_factory=dict)
    ledgers: Ledgers = field(init=False)

    def __post_init__(self) -> None:
        """Find the data sets' ledgers in the platform's folder."""
        self.ledgers = Ledgers(self.cell.store, self.node.attester)

    def handle(self, channel: Channel) -> None:
        """Answer one party's requests until it hangs up. Each is signed for this connection."""
        while True:
            try:
                request = receive_map(channel)
                send_map(channel, self._reply(channel.exporter, request), size=_reply_bytes(request))
            except ChannelError:
                return  # the party hung up
            except TrainingError:
                return  # it does not speak the protocol

    def _reply(self, exporter: bytes, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": self._answer(exporter, request)}
        except RefusedError as error:
            return {"error": error.code.value}  # ERR-1
        except (TrainingError, KeyError, TypeError, ValueError, cbor2.CBORError):
            return {"error": Code.BAD_REQUEST.value}

    def _answer(self, exporter: bytes, request: dict[str, Any]) -> object:
        party, body = PartyKey(request["party"]), request["body"]
        try:
            verify_request(party, exporter, canonical(body), signature=request["signature"])
        except TrainingError as error:
            raise RefusedError(Code.NOT_A_PARTY) from error
        job = self.jobs.get(JobId(body["job"]))
        if job is None:
            raise RefusedError(Code.UNKNOWN_JOB)
        return answer_party(job, party, body=body)

    def attach(self, job: JobId, *, guest: str, dataset: str) -> None:
        """Run a job from its two submissions (paths on the platform's disk), in a thread of its own."""
        if job in self.jobs:
            return  # a platform that attaches a job twice gets it once
        run = JobRun(self.node, self.cell, job, self.ledgers)
        self.jobs[job] = run
        threading.Thread(target=_drive, args=(run, guest, dataset), daemon=True).start()

    def resume(self, job: JobId) -> None:
        """Serve a job again that was closed before this process started.

        Raises:
            TrainingError, EnclaveError, OSError: the record is lost, changed, or another enclave's.
        """
        closing = reopen(self.node, self.cell, job)
        offer = closing.offer
        run = JobRun(self.node, self.cell, job, self.ledgers, parties=(offer.operator, offer.user))
        run.offer, run.closing = offer, closing
        run.decided.set()
        self.jobs[job] = run


def _reply_bytes(request: dict[str, Any]) -> int | None:
    """Return the one size of all answers to a question; None where the answer is public."""
    body = request.get("body")
    ask = body.get("ask") if isinstance(body, dict) else None
    return REPLY_BYTES.get(ask) if isinstance(ask, str) else None  # NI-4


def _drive(run: JobRun, guest: str, dataset: str) -> None:
    """Run a job; whatever the platform does to it ends it with a public reason."""
    try:
        run.run(guest, dataset)
    except PLATFORM_FAULTS:
        run.stop(StopReason.PLATFORM_FAULT)


def answer_party(job: JobRun, party: PartyKey, *, body: dict[str, Any]) -> object:
    """Answer one verified request of one party of one job.

    Raises:
        RefusedError: with a code of the closed list.
    """
    if party not in job.parties:
        raise RefusedError(Code.NOT_A_PARTY)
    is_operator = party == job.parties[0]
    match body["ask"]:
        case "offer":
            return _known(job.offer).as_dict()
        case "approve":
            return _approve(job, party, signature=body["approval"])
        case "refuse":
            _undecided(job)
            job.refuse()
            return True
        case "log" if is_operator:
            return job.operator_log
        case "metrics" if is_operator:
            return _known(job.closing).metrics
        case "receipt":
            return _known(job.closing).receipt.to_bytes()
        case _:
            raise RefusedError(Code.BAD_REQUEST)


def _known(value: Value | None) -> Value:
    if value is None:
        raise RefusedError(Code.TOO_EARLY)
    return value


def _undecided(job: JobRun) -> None:
    _known(job.offer)
    if job.decided.is_set():
        raise RefusedError(Code.TOO_LATE)


def _approve(job: JobRun, party: PartyKey, *, signature: bytes) -> bool:
    _undecided(job)
    try:
        verify_approval(party, _known(job.offer), signature)
    except TrainingError as error:
        raise RefusedError(Code.STALE_OFFER) from error
    job.approve(party, signature)
    return True
