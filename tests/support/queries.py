"""A query enclave with one served model, and a client that sees its answers as the network does."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import CLASSES, POLICY, VALUES, make_attester, new_node, small_dataset
from graphs import linear

from chiron.guest_api.monitor import state_to_dict
from chiron.policy import kernel
from chiron.policy.header import Header, encode_header
from chiron.training.agreement import Offer, make_offer, sign_request
from chiron.training.node import Role
from chiron.training.sealed import Model, seal_model
from chiron.training.submission import JobId, Kind, draft_manifest
from chiron.training.wire import receive_map, send_map
from enclave import Channel, ChannelError, connect

if TYPE_CHECKING:
    from pathlib import Path

    from chiron.serving.query import QueryNode

JOB, OTHER_JOB = JobId("0" * 32), JobId("1" * 32)
HEADER = Header(1, 16, 1, 4096, 5, 1000)
SCHEMA = small_dataset().schema
USER, OTHER_USER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
LIMIT = POLICY.declassifiers["answer"].uses
SIZE, GRID_S = POLICY.serving.answer_bytes, POLICY.serving.grid_ms / 1000
ROW = [0.0] * VALUES
KEYS = {"model_key": bytes(32), "budget_key": bytes(31) + b"\1"}


def offer(job: JobId = JOB, user: Ed25519PrivateKey = USER) -> Offer:
    guest = draft_manifest(Kind.GUEST, job, signer=user, seed=7)
    dataset = draft_manifest(Kind.DATASET, job, signer=user, schema=SCHEMA)
    return make_offer(POLICY, guest, dataset=dataset, header=HEADER, spent={})


def serving_state() -> kernel.State:
    state = kernel.initial(POLICY, rows_class=SCHEMA.rows_class, spent={})
    return replace(state, phase="Serve", ticks_left=LIMIT, header=encode_header(POLICY.menus, HEADER))


def handover(folder: Path, job: JobId = JOB, user: Ed25519PrivateKey = USER) -> dict[str, Any]:
    """Write a sealed model and return what the lead hands over with it."""
    weights = np.zeros((VALUES, CLASSES), np.float32)
    weights[np.arange(CLASSES), np.arange(CLASSES)] = 3
    model = Model(linear(VALUES, CLASSES), weights.ravel())
    path = folder / f"{job}.model"
    path.write_bytes(seal_model(model, key=KEYS["model_key"], job=job, header=HEADER))
    files = {"model": str(path), "budget": str(folder / f"{job}.budget")}
    return {
        "do": "serve", "offer": offer(job, user).as_dict(), "state": state_to_dict(serving_state()), **KEYS,
    } | files  # fmt: skip


@dataclass(slots=True)
class Reply:
    """One HTTP answer, how it looked on the wire, and when it came after the request."""

    status: int
    raw: bytes
    head: bytes
    after_s: float

    @property
    def value(self) -> Any:  # noqa: ANN401  JSON
        return json.loads(self.raw)


@dataclass(slots=True)
class Service:
    """A query enclave with one served job."""

    folder: Path
    node: QueryNode
    address: tuple[str, int]

    def dial(self) -> Channel:
        return connect(
            self.address, identity=None, reference=make_attester(self.folder).own_reference(), timeout_s=5
        )

    def hand_over(self, message: dict[str, Any], role: Role = Role.LEAD) -> object:
        with new_node(role, make_attester(self.folder)).dial(self.address, Role.QUERY) as channel:
            send_map(channel, message)
            return receive_map(channel)["ready"]

    def ask(self, method: str = "GET", path: str = "/v2", **options: Any) -> Reply:  # noqa: ANN401  see ask
        with self.dial() as channel:
            return ask(channel, method, path, **options)

    def infer(self, *rows: list[float], signer: Ed25519PrivateKey = USER, job: str = JOB) -> Reply:
        return self.ask("POST", f"/v2/models/{job}/infer", body=tensor(*rows), signer=signer)


def tensor(*rows: list[float]) -> bytes:
    flat = [value for row in rows for value in row]
    return json.dumps({"inputs": [{"shape": [len(rows), VALUES], "data": flat}]}).encode()


def authorization(signer: Ed25519PrivateKey, exporter: bytes) -> str:
    return (
        f"Chiron {signer.public_key().public_bytes_raw().hex()}:{sign_request(signer, exporter, b'').hex()}"
    )


def ask(
    channel: Channel,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    signer: Ed25519PrivateKey | None = USER,
    header: str | None = None,
    more: tuple[tuple[str, str], ...] = (),
) -> Reply:
    """Send one request and read its answer; `header` replaces the Authorization of `signer`."""
    fields = [("host", "chiron"), ("content-length", str(len(body))), *more]
    if header is None and signer is not None:
        header = authorization(signer, channel.exporter)
    fields += [] if header is None else [("authorization", header)]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    began = time.monotonic()  # before the request can arrive: the grid starts there
    channel.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    raw = b""
    while b"\r\n\r\n" not in raw or len(raw.partition(b"\r\n\r\n")[2]) < SIZE:
        part = channel.recv(1 << 16)
        if not part:
            raise ChannelError("closed without an answer")
        raw += part
    head_bytes, _, content = raw.partition(b"\r\n\r\n")
    return Reply(int(head_bytes.split()[1]), content, head_bytes, time.monotonic() - began)
