"""Which rows a worker takes at a step, and reading their chunks ahead of the compute in bounded memory.

What the platform sees: which chunks are read and at which slot. Both follow from the public header, the
public schema and the public seed alone. The order of chunks in a pass is drawn from the seed; a window of
some chunks is in memory, and its rows are drawn in a seeded order too. Every pass visits every place of every
chunk, also those that hold no row: in their stead rows of the same window come a second time, each as likely
as another, so that nothing tells how many rows of its size class a data set has. Reads are asked for by the
slot's clock, not by the compute, whose pace is secret.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from chiron.guest_api.chunks import Chunk, Counts, Layout, chunks_of, decode_chunk, layout_of
from chiron.guest_api.dataset import as_float
from chiron.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from chiron.guest_api.dataset import Dataset, Float32Array
    from chiron.policy.header import Header
    from paramserver import Clock

WINDOW_BYTES = 16 << 20  # rows are mixed within so much; all rows were mixed before they were stored
MEMORY_BYTES = 256 << 20  # of chunks in a worker; a data set that fits is read once
CHUNK_ORDER = (1 << 64) - 1  # place of a pass's chunk order among its windows' row orders
READ_S = 60.0  # the compute waits so long for a chunk that the clock has asked for


@dataclass(slots=True)
class Order:
    """The order of chunks in each pass, of layout and seed alone, and of rows, of the exact counts too."""

    layout: Layout
    seed: int
    window: int
    _passes: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _windows: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)

    @property
    def pass_rows(self) -> int:
        """Places in one pass: the rows that all training chunks have room for."""
        return self.layout.train * self.layout.rows

    def chunk_at(self, place: int) -> int:
        """Return the chunk at a place in the endless sequence of chunks of all passes."""
        number, at = divmod(place, self.layout.train)
        return int(self._pass(number)[at])

    def window_end(self, position: int) -> int:
        """Return the place behind the window that holds a position in the endless sequence of rows."""
        number, at = divmod(position, self.pass_rows)
        behind = (at // (self.window * self.layout.rows) + 1) * self.window
        return number * self.layout.train + min(behind, self.layout.train)

    def ahead_of(self, position: int) -> int:
        """Return the place behind the window after the one that holds a position."""
        return self.window_end(self.window_end(position) * self.layout.rows)

    def rows_at(self, positions: NDArray[np.int64], counts: Counts) -> Iterator[tuple[Any, int, Any]]:
        """Yield (which of the positions, their chunk's place, their rows in the chunk)."""
        window_rows = self.window * self.layout.rows
        passes, within = np.divmod(positions, self.pass_rows)
        windows, within = np.divmod(within, window_rows)
        for number, window in {(int(p), int(w)) for p, w in zip(passes, windows, strict=True)}:
            here = (passes == number) & (windows == window)
            first = number * self.layout.train + window * self.window
            sizes = [b - a for a, b in (self.layout.place(c, counts) for c in self._chunks(number, window))]
            bounds = np.cumsum(sizes)
            drawn = self._drawn(number, window, int(bounds[-1]))[within[here]]
            chunks = np.searchsorted(bounds, drawn, side="right")
            for chunk in np.unique(chunks):
                mine = chunks == chunk
                yield np.flatnonzero(here)[mine], first + int(chunk), drawn[mine] - (bounds - sizes)[chunk]

    def _chunks(self, number: int, window: int) -> list[int]:
        order = self._pass(number)[window * self.window : (window + 1) * self.window]
        return [int(chunk) for chunk in order]

    def _drawn(self, number: int, window: int, rows: int) -> NDArray[np.int64]:
        """Return the row for each place of a window: all in a random order, then some again in another."""
        if (number, window) not in self._windows:
            places = len(self._chunks(number, window)) * self.layout.rows
            generator = self._generator(number, window)
            orders = [generator.permutation(rows) for _ in range(-(-places // rows))]
            kept = list(self._windows.items())[-1:]
            self._windows = dict(kept) | {(number, window): np.concatenate(orders)[:places]}
        return self._windows[number, window]

    def _pass(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            kept = list(self._passes.items())[-1:]
            order = self._generator(number, CHUNK_ORDER).permutation(self.layout.train)
            self._passes = dict(kept) | {number: order}
        return self._passes[number]

    def _generator(self, number: int, place: int) -> np.random.Generator:
        key = np.array([self.seed, number], dtype=np.uint64)  # a list would go through float64
        counter = np.array([0, 0, 0, place], dtype=np.uint64)  # streams of 2^192 numbers, one a place
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def order_of(layout: Layout, seed: int, *, window_bytes: int = WINDOW_BYTES) -> Order:
    """Return a job's order: windows of about `window_bytes`, at least one chunk."""
    return Order(layout, seed, max(1, window_bytes // layout.chunk_bytes))


class Chunks(Protocol):
    """The training chunks, by their place in the endless sequence that an Order gives."""

    counts: Counts

    def at(self, place: int) -> Chunk:
        """Return the chunk at a place."""


class Resident:
    """All training chunks in memory."""

    def __init__(self, chunks: list[Chunk], order: Order) -> None:
        self._chunks, self._order, self.counts = chunks, order, chunks[0].counts

    def at(self, place: int) -> Chunk:
        """Return the chunk at a place."""
        return self._chunks[self._order.chunk_at(place)]


class Ahead:
    """Chunks that a thread reads when they are asked for; where memory is full the oldest go.

    Where the compute falls back behind what is kept it fails, which shows as the job's outcome.
    A context manager: leaving it ends the thread.
    """

    def __init__(self, load: Callable[[int], Chunk], order: Order, *, kept: int, places: int) -> None:
        """Start the thread, which has nothing to read yet.

        Args:
            load: reads a chunk by its number.
            order: the job's.
            kept: chunks in memory at most; at least what `chunks_kept` gives.
            places: how many places the whole training visits.
        """
        self._load, self._order, self._kept, self._places = load, order, kept, places
        self._chunks: dict[int, Chunk] = {}
        self._asked, self._done, self._closed = 0, 0, False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self.counts = load(order.chunk_at(0)).counts
        self._thread = threading.Thread(target=self._read, name="chunks-ahead", daemon=True)
        self._thread.start()

    def ask(self, place: int) -> None:
        """Have every chunk before a place read."""
        with self._changed:
            self._asked = max(self._asked, min(place, self._places))
            self._changed.notify_all()

    def at(self, place: int) -> Chunk:
        """Return the chunk at a place, once it is read.

        Raises:
            TrainingError: it is gone already, could not be read, or the disk is too slow.
        """
        with self._changed:
            ready = self._changed.wait_for(lambda: self._done > place or self._error is not None, READ_S)
            if self._error is not None:
                raise TrainingError("a chunk of the data set could not be read") from self._error
            if not ready or place not in self._chunks:
                raise TrainingError("the compute fell behind what is kept of the data: choose a longer slot")
            return self._chunks[place]

    def _read(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._asked > self._done or self._closed)
                    if self._closed:
                        return
                    place = self._done
                chunk = self._load(self._order.chunk_at(place))
                with self._changed:
                    self._chunks.pop(place - self._kept, None)
                    self._chunks[place] = chunk
                    self._done = place + 1
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  whatever it is, the compute meets it at this chunk
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Paced:
    """A clock that tells of each tick it has slept until, by its number."""

    def __init__(self, clock: Clock, tick: Callable[[int], None]) -> None:
        self._clock, self._tick, self._ticks = clock, tick, 0

    def now(self) -> float:
        """Return the clock's time in seconds."""
        return self._clock.now()

    def sleep_until(self, deadline: float) -> None:
        """Sleep as the clock does, then tell."""
        self._clock.sleep_until(deadline)
        self._tick(self._ticks)
        self._ticks += 1


def chunks_kept(order: Order, stride: int, *, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return how many chunks a worker keeps: so much memory of them, or what three steps and windows need."""
    a_step = -(-stride // order.layout.rows) + 1
    return max(memory_bytes // order.layout.chunk_bytes, 3 * (a_step + order.window))


class Batches:
    """Which rows a worker takes at a step: its part of the stream of rows that all workers share.

    A run is the same to the last bit for the same seed and number of workers.
    """

    def __init__(self, chunks: Chunks, order: Order, header: Header, *, index: int) -> None:
        self.index, self.seed = index, order.seed
        self._chunks, self._order = chunks, order
        self._size = header.batch
        self._stride = header.batch * header.workers

    def __call__(self, step: int) -> tuple[Float32Array, NDArray[np.int64]]:
        """Return rows, float32 (batch, *shape), and targets, int64 (batch,).

        Raises:
            TrainingError: see `Ahead.at`.
        """
        first = step * self._stride + self.index * self._size
        rows: NDArray[Any] | None = None
        targets = np.empty(self._size, dtype=np.int64)
        positions = np.arange(first, first + self._size)
        for chosen, place, within in self._order.rows_at(positions, self._chunks.counts):
            chunk = self._chunks.at(place)
            if rows is None:
                rows = np.empty((self._size, *chunk.rows.shape[1:]), chunk.rows.dtype)
            rows[chosen], targets[chosen] = chunk.rows[within], chunk.targets[within]
        return as_float(np.empty(0) if rows is None else rows), targets


def batches_of(dataset: Dataset, header: Header, *, seed: int, index: int) -> Batches:
    """Return the batches of a data set in memory, those that a worker takes of it on the platform."""
    layout, schema = layout_of(dataset.schema), dataset.schema
    order = order_of(layout, seed)
    raw = (chunk for _, chunk in zip(range(layout.train), chunks_of(dataset), strict=False))
    chunks = [decode_chunk(each, number, schema=schema) for number, each in enumerate(raw)]
    return Batches(Resident(chunks, order), order, header, index=index)
