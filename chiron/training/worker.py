"""The worker enclave: decrypts the data set, then answers parameters with gradients on the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import open_engine
from chiron.guest_api.dataset import as_float, decode_dataset
from chiron.training.agreement import Offer
from chiron.training.create import admit_graph
from chiron.training.errors import TrainingError
from chiron.training.inputs import read_plaintext
from chiron.training.node import Role, peer_role
from chiron.training.schedule import frame_format, schedule_of
from chiron.training.sealed import graph_message_bytes, unpack_transforms
from chiron.training.submission import read_manifest
from chiron.training.transformed import transformed
from chiron.training.wire import receive_map, send_map, unpad
from paramserver import DeferredFaultError, MonotonicClock, work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.graph import Engine
    from chiron.guest_api.dataset import Dataset, Float32Array
    from chiron.policy.header import Header
    from chiron.training.node import Node
    from chiron.training.transformed import Transformed
    from enclave import Channel

NOISE = 0xD407  # tells dropout's stream from that of the order of rows


def handle(node: Node, channel: Channel) -> None:
    """Serve the lead's connection: one job.

    Raises:
        TrainingError: the other end is not the lead.
        ChannelError, ExchangeError: a connection broke; the job is over for this worker.
    """
    request = receive_map(channel)
    if peer_role(channel) is not Role.LEAD or request.get("do") != "prepare":
        raise TrainingError("only the lead drives a worker")
    offer, index = Offer.from_dict(request["offer"]), int(request["index"])
    dataset = _load(offer, Path(request["dataset"]), key=request["data_key"])
    host, port = request["server"]
    with node.dial((host, port), Role.SERVER) as server:
        send_map(server, {"do": "join", "job": offer.job, "index": index})
        if receive_map(server) != {"joined": True}:
            raise TrainingError("the parameter server did not take this worker in")
        send_map(channel, {"ready": True})
        graph = channel.recv_exactly(graph_message_bytes(offer.header))
        transforms, state = unpack_transforms(channel.recv_exactly(request["transforms_bytes"]))
        batches = Batches(dataset, offer.header, seed=offer.seed, index=index)
        through_guest = transformed(
            batches,
            transforms,
            policy=node.policy_bytes,
            schema=offer.schema,
            state=state,
            deadline_ms=schedule_of(offer).slots * offer.header.slot_ms,
        )
        with through_guest as prepared:
            send_map(channel, {"listening": True})
            _exchange(
                server, offer, index=index, compute=GradientOfBatch(graph, offer, prepared, index=index)
            )


def _load(offer: Offer, path: Path, *, key: bytes) -> Dataset:
    with path.open("rb") as source:
        manifest = read_manifest(source)
        if manifest.envelope != offer.dataset or manifest.schema != offer.schema:  # JOB-4
            raise TrainingError("the platform offered another data set than the one both parties approved")
        return decode_dataset(read_plaintext(source, key, manifest), offer.schema)


def _exchange(server: Channel, offer: Offer, *, index: int, compute: GradientOfBatch) -> None:
    try:
        work(
            server,
            compute,
            worker=index,
            parameters=compute.parameters,
            gradient=compute.gradient,
            schedule=schedule_of(offer),
            clock=MonotonicClock(),
            frame=frame_format(offer),
        )
    except DeferredFaultError:
        return  # the server misses this worker's steps; it shows as the job's outcome, on the clock


class Batches:
    """Which rows a worker takes at a step: its part of a stream of seeded permutations of the data set.

    All workers draw the same stream, so a run is the same to the last bit for the same seed and workers.
    """

    def __init__(self, dataset: Dataset, header: Header, *, seed: int, index: int) -> None:
        self.rows = dataset.rows
        self.index = index
        self._targets = dataset.targets
        self.seed = seed
        self._size = header.batch
        self._stride = header.batch * header.workers
        self._offset = index * header.batch
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __call__(self, step: int) -> tuple[Float32Array, NDArray[np.int64]]:
        """Return rows, float32 (batch, *shape), and targets, int64 (batch,)."""
        rows = len(self.rows)
        first = step * self._stride + self._offset
        passes, places = np.divmod(np.arange(first, first + self._size), rows)
        chosen = np.empty(self._size, dtype=np.int64)
        for number in np.unique(passes):
            chosen[passes == number] = self._order(int(number))[places[passes == number]]
        return as_float(self.rows[chosen]), self._targets[chosen].astype(np.int64)

    def _order(self, number: int) -> NDArray[np.int64]:
        if number not in self._orders:
            self._orders = {n: order for n, order in self._orders.items() if n >= number - 1}
            key = np.array([self.seed, number], dtype=np.uint64)  # a list would go through float64
            generator = np.random.Generator(np.random.Philox(key=key))
            self._orders[number] = generator.permutation(len(self.rows))
        return self._orders[number]


def noise_of(seed: int, step: int, index: int) -> np.random.Generator:
    """Return what a worker's dropout draws from at a step: the same whenever the step is computed."""
    key = np.array([seed, NOISE], dtype=np.uint64)  # a list would go through float64
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class GradientOfBatch:
    """Computes one step. The engine is built at the first step, beside the exchange: its time shows nowhere.

    `graph` is the padded message, whose content is not looked at before either.

    `parameters` and `gradient` are flat float32 of the whole size class; what the graph does not use is zero.
    """

    def __init__(self, graph: bytes, offer: Offer, batches: Batches | Transformed, *, index: int = 0) -> None:
        self.parameters = np.zeros(offer.header.parameters, dtype=np.float32)
        self.gradient = np.zeros_like(self.parameters)
        self._graph, self._offer, self._batches, self._index = graph, offer, batches, index
        self._engine: Engine | None = None

    def __call__(self, parameters: Float32Array, step: int) -> float:
        """Fill `gradient` at these parameters and return the batch's mean loss."""
        engine = self._engine = self._engine or self._build()
        used = engine.parameters.size
        engine.parameters[:] = parameters[:used]
        loss = engine.run(*self._batches(step), noise=noise_of(self._offer.seed, step, self._index))
        self.gradient[:used] = engine.gradient
        return loss

    def _build(self) -> Engine:
        header = self._offer.header
        admitted = admit_graph(unpad(self._graph), header, self._offer.schema)
        return open_engine(admitted, batch=header.batch, threads=1)
