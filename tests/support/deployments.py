"""All roles of one deployment as threads of this process, with real sockets and attested channels."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chiron.guest_api.chunks import encode_dataset
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.limits import compile_guest
from chiron.parties.home import Home
from chiron.parties.platform import Platform
from chiron.policy.loader import parse_policy, spec_folder
from chiron.serving.query import QueryNode
from chiron.training import worker
from chiron.training.exchange import Cell
from chiron.training.lead import Lead
from chiron.training.node import HANDSHAKE_S, Node, Role, listen, make_node, serve_connections
from chiron.training.node import POLICY as POLICY_STATEMENT
from chiron.training.server import ServerNode
from chiron.training.submission import JobId, Kind
from enclave import Channel, Measurement, SimulatedAttester, connect, create_simulated_cpu

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chiron.guest_api.dataset import Float32Array
    from chiron.guest_api.limits import CompiledGuest
    from chiron.policy.types import Policy
    from enclave import ReferenceValues

TIMEOUT_S = 60.0
ROLE = "role "  # begins the name of a role's thread
POLICY_BYTES = (spec_folder() / "policy.toml").read_bytes()
POLICY = parse_policy(POLICY_BYTES)
WITH_COMPONENTS_BYTES = POLICY_BYTES.replace(b"component_bytes = 0", b"component_bytes = 33554432")
WITH_COMPONENTS = parse_policy(WITH_COMPONENTS_BYTES)
MEASUREMENT = Measurement("ab" * 32)
VALUES, CLASSES = 8, 3
Event = dict[str, Any]


@cache
def compiled(guest: bytes, policy_bytes: bytes = POLICY_BYTES) -> CompiledGuest:
    """Return a guest compiled under a policy, once for all tests of a process."""
    return compile_guest(parse_policy(policy_bytes), guest)


def small_dataset(rows: int = 60, held_out: int = 12, *, seed: int = 1) -> Dataset:
    """Return separable float rows of rank 1 with VALUES values in CLASSES targets."""
    random = np.random.default_rng(seed)

    def part(count: int) -> tuple[Float32Array, Any]:
        targets = np.arange(count) % CLASSES
        values = random.normal(size=(count, VALUES)).astype(np.float32)
        values[np.arange(count), targets] += 5
        return values, targets

    return make_dataset(*part(rows), held_out=part(held_out), classes=CLASSES)


def content_of(dataset: Dataset) -> bytes:
    """Return the digest that the lead takes of a data set's chunks."""
    return hashlib.sha256(encode_dataset(dataset)).digest()


def with_policy(reference: ReferenceValues, policy: Policy = POLICY) -> ReferenceValues:
    """Return values that also want this policy, as `chiron reference` writes them."""
    return replace(reference, require={POLICY_STATEMENT: bytes.fromhex(policy.digest)})


def make_attester(folder: Path) -> SimulatedAttester:
    """Return an attester of a simulated CPU in this folder, which is made when it is not there."""
    cpu = folder / "cpu"
    if not cpu.exists():
        create_simulated_cpu(cpu)
    return SimulatedAttester(cpu, MEASUREMENT, real_device=folder / "none")


def new_node(role: Role, attester: SimulatedAttester, emit: Callable[[Event], None] = lambda _: None) -> Node:
    """Return a node under the policy in force."""
    return make_node(role, POLICY, policy_bytes=POLICY_BYTES, attester=attester, emit=emit)


def node_of(role: Role, folder: Path, emit: Callable[[Event], None] = lambda _: None) -> Node:
    """Return a node under the policy in force on the simulated CPU of this folder."""
    return new_node(role, make_attester(folder), emit)


@contextmanager
def listening(node: Node, handle: Callable[[Channel], None], *, anonymous: bool) -> Iterator[tuple[str, int]]:
    """Serve a node's connections while the block runs; yield its address."""
    listener = listen()

    def serve() -> None:
        with suppress(OSError):  # the listener was shut down
            serve_connections(node, listener, handle, allow_anonymous=anonymous)

    thread = threading.Thread(target=serve, name=f"{ROLE}{node.role.value}")
    thread.start()
    host, port = listener.getsockname()
    try:
        yield host, port
    finally:
        _end(listener, thread)


def _end(listener: socket.socket, thread: threading.Thread) -> None:
    listener.shutdown(2)
    thread.join()
    listener.close()


class Events:
    """Public events with the time they came."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._seen: list[tuple[float, Event]] = []

    def __call__(self, event: Event) -> None:
        """Take one event: what a node's `emit` is."""
        with self._came:
            self._seen.append((time.monotonic(), event))
            self._came.notify_all()

    def of(self, job: str) -> list[tuple[float, Event]]:
        """Return a job's events with their times."""
        with self._came:
            return [(at, event) for at, event in self._seen if event.get("job") == job]

    def wait_for(self, **wanted: object) -> Event:
        """Return the first event with these values, once it has come."""
        with self._came:
            if not self._came.wait_for(lambda: self._find(wanted) is not None, TIMEOUT_S):
                raise TimeoutError(f"no event {wanted}; seen: {self._seen}")
            return self._find(wanted) or {}

    def wait_for_end(self, job: str) -> Event:
        """Return the event that ended a job, once it has come."""
        with self._came:
            if not self._came.wait_for(lambda: self._end(job) is not None, TIMEOUT_S):
                raise TimeoutError(f"job {job} did not end; seen: {self._seen}")
            return self._end(job) or {}

    def _find(self, wanted: dict[str, object]) -> Event | None:
        fits = (e for _, e in self._seen if all(e.get(key) == value for key, value in wanted.items()))
        return next(fits, None)

    def _end(self, job: str) -> Event | None:
        ends = (e for _, e in self._seen if e.get("job") == job and e["event"] in {"ended", "stopped"})
        return next(ends, None)


@dataclass(slots=True)
class Deployment:
    """A running deployment. `lead`, `query` are the real objects, to look into."""

    folder: Path
    attester: SimulatedAttester
    events: Events
    lead: Lead
    query: QueryNode
    addresses: dict[Role, tuple[str, int]] = field(default_factory=dict)

    @property
    def reference(self) -> ReferenceValues:
        """What this deployment's enclaves show."""
        return self.attester.own_reference()

    def platform(self) -> Platform:
        """Return a platform that answers without a network and attaches a job's two files to the lead."""
        return offline_platform(self._respond)

    def home(self) -> Home:
        """Return a new party."""
        return Home(Ed25519PrivateKey.generate(), self.reference, POLICY)

    def dial_anonymously(self, role: Role) -> Channel:
        """Connect as a party does."""
        return connect(self.addresses[role], identity=None, reference=self.reference, timeout_s=HANDSHAKE_S)

    def path(self, job: str, kind: Kind) -> Path:
        """Return where the platform keeps a submission."""
        return self.folder / f"{job}.{kind.value}"

    def attach(self, job: JobId) -> None:
        """Start a job from the two files on the platform's disk."""
        guest, dataset = (str(self.path(job, kind)) for kind in (Kind.GUEST, Kind.DATASET))
        self.lead.attach(job, guest=guest, dataset=dataset)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            endpoints = {role.value: f"{host}:{port}" for role, (host, port) in self.addresses.items()}
            return httpx.Response(200, json={"endpoints": endpoints})
        job, kind = request.url.path.split("/")[-2:]
        self.path(job, Kind(kind)).write_bytes(request.read())
        return httpx.Response(201, json={"stored": True})


def offline_platform(respond: Callable[[httpx.Request], httpx.Response]) -> Platform:
    """Return a platform client whose requests this function answers."""
    platform = Platform("http://platform.invalid")
    platform._client.close()
    platform._client = httpx.Client(base_url=platform.url, transport=httpx.MockTransport(respond))
    return platform


def platform_saying(status: int, content: object) -> Platform:
    """Return a platform client that gets one answer to everything; text goes out as it is."""
    raw = content if isinstance(content, str) else json.dumps(content)
    return offline_platform(lambda _: httpx.Response(status, text=raw))


@contextmanager
def deployment(folder: Path, *, workers: int = 2) -> Iterator[Deployment]:
    """Run a deployment in this process."""
    attester, events = make_attester(folder), Events()
    query = QueryNode(new_node(Role.QUERY, attester, events))
    server = new_node(Role.SERVER, attester, events)
    members = [new_node(Role.WORKER, attester, events) for _ in range(workers)]
    with (
        listening(query.node, query.handle, anonymous=True) as query_address,
        listening(server, ServerNode(server).handle, anonymous=False) as server_address,
        _workers(members) as worker_addresses,
    ):
        cell = Cell(tuple(worker_addresses), server_address, query_address, folder)
        lead = Lead(new_node(Role.LEAD, attester, events), cell)
        with listening(lead.node, lead.handle, anonymous=True) as lead_address:
            running = Deployment(folder, attester, events, lead, query)
            running.addresses |= {Role.LEAD: lead_address, Role.QUERY: query_address}
            running.addresses |= {Role.SERVER: server_address}
            running.addresses |= {Role.WORKER: worker_addresses[0]}
            yield running


@contextmanager
def _workers(nodes: list[Node]) -> Iterator[list[tuple[str, int]]]:
    if not nodes:
        yield []
        return
    node, *others = nodes
    handle = partial(worker.handle, node)
    with listening(node, handle, anonymous=False) as address, _workers(others) as addresses:
        yield [address, *addresses]
