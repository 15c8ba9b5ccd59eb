"""The worker enclave: decrypts chunks of the data set and answers parameters with gradients on the clock."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import open_engine
from chiron.guest_api.chunks import decode_chunk, layout_of
from chiron.training.agreement import Offer
from chiron.training.batches import (
    MEMORY_BYTES,
    WINDOW_BYTES,
    Ahead,
    Batches,
    Paced,
    Resident,
    chunks_kept,
    order_of,
)
from chiron.training.create import admit_graph
from chiron.training.errors import TrainingError
from chiron.training.inputs import open_chunks
from chiron.training.node import Role, peer_role
from chiron.training.schedule import frame_format, schedule_of
from chiron.training.sealed import (
    AUGMENTATION_BYTES,
    graph_message_bytes,
    unpack_augmentation,
    unpack_transforms,
)
from chiron.training.submission import read_submission
from chiron.training.transformed import transformed
from chiron.training.wire import receive_map, send_map, unpad
from paramserver import DeferredFaultError, MonotonicClock, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from chiron.graph import Engine
    from chiron.guest_api.chunks import Chunk
    from chiron.guest_api.dataset import Float32Array
    from chiron.training.batches import Chunks, Order
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
    host, port = request["server"]
    with (
        opened_chunks(offer, Path(request["dataset"]), key=request["data_key"]) as (chunks, order, tick),
        node.dial((host, port), Role.SERVER) as server,
    ):
        send_map(server, {"do": "join", "job": offer.job, "index": index})
        if receive_map(server) != {"joined": True}:
            raise TrainingError("the parameter server did not take this worker in")
        send_map(channel, {"ready": True})
        graph = channel.recv_exactly(graph_message_bytes(offer.header))
        transforms, state = unpack_transforms(channel.recv_exactly(request["transforms_bytes"]))
        augmentation = unpack_augmentation(channel.recv_exactly(AUGMENTATION_BYTES))
        batches = Batches(chunks, order, offer.header, index=index)
        through_guest = transformed(
            batches,
            transforms,
            policy=node.policy_bytes,
            schema=offer.schema,
            state=state,
            deadline_ms=schedule_of(offer).slots * offer.header.slot_ms,
            augmentation=augmentation,
        )
        with through_guest as prepared:
            send_map(channel, {"listening": True})
            compute = GradientOfBatch(graph, offer, prepared, index=index)
            _exchange(server, offer, index=index, compute=compute, tick=tick)


@contextmanager
def opened_chunks(
    offer: Offer,
    path: Path,
    *,
    key: bytes,
    memory_bytes: int = MEMORY_BYTES,
    window_bytes: int = WINDOW_BYTES,
) -> Iterator[tuple[Chunks, Order, Callable[[int], None]]]:
    """Open the training chunks of a job's data set.

    All are read at once where they fit in `memory_bytes`, else from here on by the slot's clock. Rows are
    mixed within windows of `window_bytes`.

    Yields:
        The chunks, their order, and what to call with each slot's number.

    Raises:
        TrainingError: the file holds another data set than both parties approved.
        EnclaveError, DatasetError: it was changed since, or breaks its schema.
    """
    with path.open("rb") as source:
        load, layout = _loader(source, offer, key), layout_of(offer.schema)
        order = order_of(layout, offer.seed, window_bytes=window_bytes)
        stride, schedule = offer.header.batch * offer.header.workers, schedule_of(offer)
        kept = chunks_kept(order, stride, memory_bytes=memory_bytes)
        if layout.train <= kept:
            yield Resident([load(number) for number in range(layout.train)], order), order, lambda _: None
            return
        places = order.window_end(schedule.steps * stride - 1)
        with Ahead(load, order, kept=kept, places=places) as ahead:

            def tick(slot: int) -> None:  # TRAIN-10: a slot may ask for the next step at the soonest
                ahead.ask(order.ahead_of((slot + 2) * stride - 1))

            tick(-1)
            yield ahead, order, tick


def _loader(source: BufferedReader, offer: Offer, key: bytes) -> Callable[[int], Chunk]:
    """Check that a file is the approved data set; return what reads one of its chunks."""
    manifest, index = read_submission(source)
    if index is None or manifest.envelope != offer.dataset or manifest.schema != offer.schema:  # JOB-4
        raise TrainingError("the platform offered another data set than the one both parties approved")
    reader = open_chunks(source, index, manifest, key=key)
    schema = offer.schema
    return lambda number: decode_chunk(reader.read(number), number, schema=schema)


def _exchange(
    server: Channel, offer: Offer, *, index: int, compute: GradientOfBatch, tick: Callable[[int], None]
) -> None:
    try:
        work(
            server,
            compute,
            worker=index,
            parameters=compute.parameters,
            gradient=compute.gradient,
            schedule=schedule_of(offer),
            clock=Paced(MonotonicClock(), tick),
            frame=frame_format(offer),
        )
    except DeferredFaultError:
        return  # the server misses this worker's steps; it shows as the job's outcome, on the clock


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
