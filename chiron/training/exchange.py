"""The lead's end of training: prepares server and workers, starts the schedule, takes the result.

Every message here has a size that depends on the public header alone, also when there is nothing to train.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.guest_api.augmentation import NOTHING
from chiron.guest_api.plan import Plan
from chiron.guest_api.transforms import carried_bytes
from chiron.training.errors import TrainingError
from chiron.training.node import Address, Role
from chiron.training.sealed import graph_message_bytes, pack_augmentation, pack_transforms
from chiron.training.wire import canonical, pad, parse_map, receive_map, send_map, unpad

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chiron.guest_api.dataset import Float32Array
    from chiron.guest_api.transforms import Transforms
    from chiron.policy import kernel
    from chiron.policy.header import Header
    from chiron.training.agreement import Offer
    from chiron.training.create import Network
    from chiron.training.inputs import Inputs
    from chiron.training.node import Node
    from enclave import Channel

PLAN_BYTES = 256
SUMMARY_BYTES = 4096  # steps and up to 100 losses


@dataclass(frozen=True, slots=True)
class Cell:
    """Where the platform says the other enclaves are, and its folder for ciphertext."""

    workers: tuple[Address, ...]
    server: Address
    query: Address
    store: Path


@dataclass(frozen=True, slots=True)
class Team:
    """Attested channels to the enclaves that train one job."""

    server: Channel
    workers: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """What the parameter server hands back: flat float32 parameters of the whole size class, losses an epoch.

    `complete` is False when a worker's graph failed, the optimiser diverged or the slots did not suffice.
    """

    parameters: Float32Array
    losses: tuple[float, ...]
    complete: bool


def parameter_message_bytes(header: Header) -> int:
    """Return the fixed size of a message that carries all parameters."""
    return 4 * header.parameters + 8


@contextmanager
def prepare(node: Node, cell: Cell, offer: Offer, *, inputs: Inputs) -> Iterator[Team]:
    """Appraise server and workers, give each what its part needs, and wait until all are ready.

    Raises:
        TrainingError: the deployment has too few workers, or one is not ready.
        ChannelError: one cannot be reached or its Evidence does not hold.
    """
    if len(cell.workers) < offer.header.workers:
        text = f"the header wants {offer.header.workers} workers, the deployment has {len(cell.workers)}"
        raise TrainingError(f"{text}: start it with --workers {offer.header.workers}")
    with ExitStack() as stack:
        server = stack.enter_context(node.dial(cell.server, Role.SERVER))
        _ask_ready(server, {"do": "prepare", "offer": offer.as_dict()})
        workers = []
        for index, address in enumerate(cell.workers[: offer.header.workers]):
            worker = stack.enter_context(node.dial(address, Role.WORKER))
            workers.append(worker)
            _ask_ready(
                worker,
                {
                    "do": "prepare",
                    "offer": offer.as_dict(),
                    "index": index,
                    "server": list(cell.server),
                    "dataset": str(inputs.dataset_path),
                    "data_key": inputs.dataset_key,
                    "transforms_bytes": carried_bytes(len(inputs.guest)),
                },
            )
        yield Team(server, tuple(workers))


def train(
    team: Team,
    offer: Offer,
    network: Network | None,
    *,
    transforms: Transforms | None,
    transforms_bytes: int,
    state: kernel.State,
) -> Trained:
    """Start the schedule and return what the parameter server has when it ends.

    Without a network the schedule runs all the same, with empty frames.

    Args:
        team: the enclaves that train.
        offer: what both parties approved.
        network: what the guest created, or None.
        transforms: the guest's, also where it created no network: their processes show.
        transforms_bytes: fixed size of the message that carries them.
        state: the job's kernel state, for the transforms.

    Raises:
        TrainingError: a worker or the server was lost.
        ChannelError: the connection to one broke.
    """
    plan = b"" if network is None else canonical(_of_server(network.plan))
    augmentation = NOTHING if network is None else network.plan.augmentation
    initial = b"" if network is None else network.admitted.initial.astype("<f4").tobytes()
    graph = b"" if network is None else network.graph
    carried = pack_transforms(transforms, transforms_bytes, state=state)
    for worker in team.workers:
        worker.send(pad(graph, graph_message_bytes(offer.header)) + carried + pack_augmentation(augmentation))
    for worker in team.workers:  # one that still reads would keep another time than the server
        if receive_map(worker) != {"listening": True}:
            raise TrainingError("a worker enclave could not prepare: see the events of `chiron up`")
    team.server.send(pad(plan, PLAN_BYTES) + pad(initial, parameter_message_bytes(offer.header)))
    answer = receive_map(team.server)
    if "lost" in answer:
        raise TrainingError(f"the exchange ended early: {answer['lost']}")
    summary = parse_map(unpad(team.server.recv_exactly(SUMMARY_BYTES)))
    raw = team.server.recv_exactly(parameter_message_bytes(offer.header))
    parameters = np.frombuffer(unpad(raw), dtype="<f4")
    return Trained(parameters, tuple(summary["losses"]), complete=summary["complete"])


def _of_server(plan: Plan) -> dict[str, Any]:
    """Return what the parameter server needs of a plan: all but what workers do to rows."""
    return {name: value for name, value in asdict(plan).items() if name != "augmentation"}


def parse_plan_message(message: bytes) -> Plan | None:
    """Return the plan inside a padded message, or None where there is nothing to train."""
    content = unpad(message)
    return Plan(**parse_map(content)) if content else None


def _ask_ready(channel: Channel, request: dict[str, object]) -> None:
    send_map(channel, request)
    if receive_map(channel) != {"ready": True}:
        raise TrainingError("an enclave of this deployment is not ready to train: see `chiron up`")
