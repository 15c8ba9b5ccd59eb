"""The query enclave: takes models from the lead, answers users over HTTP/1.1 inside the attested channel."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11

from chiron.graph import GraphError, Predictor
from chiron.guest_api.monitor import state_from_dict
from chiron.guest_api.transforms import Transformer
from chiron.serving.blackbox import BlackBox, open_monitor
from chiron.serving.budget import Budget
from chiron.serving.errors import Fault, FaultError, ServingError
from chiron.serving.protocol import inference_body, metadata_body, padded, parse_request
from chiron.training.agreement import Offer, verify_request
from chiron.training.create import admit_graph
from chiron.training.errors import TrainingError
from chiron.training.node import Role, peer_role
from chiron.training.results import Normalised
from chiron.training.sealed import unseal_model
from chiron.training.submission import PartyKey
from chiron.training.wire import receive_map, send_map
from enclave import ChannelError, EnclaveError

if TYPE_CHECKING:
    from chiron.training.node import Node
    from enclave import Channel

SCHEME = "Chiron"  # Authorization: Chiron KEY:SIGNATURE, both hexadecimal, over this connection's exporter
MAX_BODY_BYTES = 32 << 20
READ_BYTES = 1 << 16
OPEN_FAULTS = (TrainingError, ServingError, EnclaveError, GraphError, OSError)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: method, path, the Authorization header's value, body (None where over the limit)."""

    method: str
    path: str
    authorization: str
    body: bytes | None


@dataclass(slots=True)
class QueryNode:
    """The models this process serves, by job."""

    node: Node
    models: dict[str, BlackBox] = field(default_factory=dict)

    def handle(self, channel: Channel) -> None:
        """Serve one connection: the lead hands over a model, anybody else asks over HTTP."""
        if peer_role(channel) is Role.LEAD:
            send_map(channel, {"ready": self._take(receive_map(channel))})
            return
        if channel.peer is None:
            try:
                self._serve_http(channel)
            except (ChannelError, h11.ProtocolError):
                return  # the caller hung up, or does not speak HTTP

    def close(self) -> None:
        """End the processes that run models' transforms."""
        for model in self.models.values():
            _end(model)

    def _take(self, handover: dict[str, Any]) -> bool:
        """Open a sealed model; False where the platform's files do not hold it."""
        offer = Offer.from_dict(handover["offer"])
        try:
            model = open_model(self.node, offer, handover)
        except OPEN_FAULTS:
            return False
        if (older := self.models.get(offer.job)) is not None:
            _end(older)
        self.models[offer.job] = model
        self.node.emit({"event": "serving", "job": offer.job})
        return True

    def _serve_http(self, channel: Channel) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_BYTES)
        while True:
            request = _read_request(connection, channel)
            if request is None:
                return
            received = time.monotonic()
            status, body = self._answer(request, channel.exporter)
            raw = padded(body, self.node.policy.serving.answer_bytes)
            _wait_for_grid(received, self.node.policy.serving.grid_ms / 1000)
            _write_response(connection, channel, status, raw)
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()

    def _answer(self, request: Request, exporter: bytes) -> tuple[int, dict[str, Any]]:
        try:
            return 200, self._route(request, exporter)
        except FaultError as error:
            return error.fault.status, {"error": error.fault.text}

    def _route(self, request: Request, exporter: bytes) -> dict[str, Any]:
        simulated = self.node.attester.simulated
        match [request.method, *request.path.strip("/").split("/")]:
            case ["GET", "v2"]:
                return {"name": "chiron", "version": "2", "extensions": [], "simulated": simulated}
            case ["GET", "v2", "health", "live"]:
                return {"live": True}
            case ["GET", "v2", "health", "ready"]:
                return {"ready": True}
            case ["GET", "v2", "models", job]:
                model = self._model(job, request, exporter=exporter)
                return metadata_body(job, model.offer.schema, simulated=simulated)
            case ["GET", "v2", "models", job, "ready"]:
                self._model(job, request, exporter=exporter)
                return {"name": job, "ready": True}
            case ["POST", "v2", "models", job, "infer"]:
                model = self._model(job, request, exporter=exporter)
                if request.body is None:
                    raise FaultError(Fault.TOO_LARGE)
                return inference_body(job, model.answer(parse_request(request.body, model.offer.schema)))
            case _:
                raise FaultError(Fault.NOT_FOUND)

    def _model(self, job: str, request: Request, *, exporter: bytes) -> BlackBox:
        """Return a model to its user alone; whoever else asks does not learn whether it exists."""
        scheme, _, credentials = request.authorization.partition(" ")
        party, _, signature = credentials.partition(":")
        try:
            key = PartyKey(bytes.fromhex(party))
            verify_request(key, exporter, b"", signature=bytes.fromhex(signature))
        except (ValueError, TrainingError) as error:
            raise FaultError(Fault.NOT_THE_USER) from error
        model = self.models.get(job)
        if scheme != SCHEME or model is None or model.offer.user != key:  # SERVE-4
            raise FaultError(Fault.NOT_THE_USER)
        return model


def open_model(node: Node, offer: Offer, handover: dict[str, Any]) -> BlackBox:
    """Open a sealed model with the key that the lead released to this enclave.

    Raises:
        EnclaveError: the file was changed, cut, or is another job's.
        OSError: the platform lost it.
        GraphError, ServingError, TrainingError: what is inside does not hold.
    """
    blob = Path(handover["model"]).read_bytes()
    model = unseal_model(blob, key=handover["model_key"], job=offer.job, header=offer.header)
    admitted = admit_graph(model.graph, offer.header, offer.schema)
    budget = Budget(Path(handover["budget"]), key=handover["budget_key"], job=offer.job)
    monitor = open_monitor(node.policy, state_from_dict(handover["state"]), used=budget.used)
    predictor = Normalised(Predictor(admitted, model.parameters, threads=1), model.augmentation)
    box = BlackBox(offer, predictor, monitor, budget)
    if model.transforms is not None:
        box.transformer = Transformer(model.transforms, policy=node.policy_bytes, schema=offer.schema)
        box.transformer.wait()
    return box


def _end(model: BlackBox) -> None:
    """End the process that runs a model's transforms, if it has any."""
    if model.transformer is not None:
        model.transformer.close()


def _wait_for_grid(received: float, grid_s: float) -> None:
    """Sleep to the next point of the grid that starts when the request was complete."""
    elapsed = time.monotonic() - received
    time.sleep(max(1, math.ceil(elapsed / grid_s)) * grid_s - elapsed)  # SERVE-2, SERVE-8


def _read_request(connection: h11.Connection, channel: Channel) -> Request | None:
    """Read one request, or None when the caller has ended. A body over the limit is read, but not kept."""
    head: h11.Request | None = None
    body: bytearray | None = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(channel.recv(READ_BYTES))
            case h11.Request():
                head = event
            case h11.Data(data=data):
                body = _grown(body, data)
            case h11.EndOfMessage() if head is not None:
                return _request(head, None if body is None else bytes(body))
            case _:
                return None


def _grown(body: bytearray | None, data: bytes) -> bytearray | None:
    if body is None or len(body) + len(data) > MAX_BODY_BYTES:
        return None
    body += data
    return body


def _request(head: h11.Request, body: bytes | None) -> Request:
    fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    path = head.target.decode("latin-1")
    return Request(head.method.decode("latin-1"), path, fields.get("authorization", ""), body)


def _write_response(connection: h11.Connection, channel: Channel, status: int, body: bytes) -> None:
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    response = h11.Response(status_code=status, headers=headers)
    parts = (
        connection.send(response),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    )
    channel.send(b"".join(part for part in parts if part))
