"""Batches from chunks: the order, reading ahead, what shows of it, and memory that stays as it is."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deployments import POLICY
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api import chunks as stored
from chiron.guest_api.chunks import Counts, chunks_of, decode_chunk, encode_dataset, layout_of
from chiron.guest_api.dataset import Dataset, Schema, make_dataset
from chiron.policy.header import Header, size_class
from chiron.training import inputs, worker
from chiron.training.agreement import Offer, make_offer
from chiron.training.batches import Ahead, Batches, Order, Paced, Resident, chunks_kept, order_of
from chiron.training.errors import TrainingError
from chiron.training.submission import (
    JobId,
    Kind,
    chunking_of,
    draft_manifest,
    read_submission,
    write_submission,
)
from enclave import EnclaveError, chunks, generate_hpke_key, unwrap_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

HEADER = Header(1, 16, 2, 4096, 5, 1000)
JOB = JobId("0123456789abcdef" * 2)
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
LEAD = generate_hpke_key()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK_BYTES", 400)


def numbered(rows: int, held_out: int = 4, *, seed: int = 0) -> Dataset:
    """Return rows that hold their own number."""
    values = np.arange(rows, dtype=np.float32)[:, np.newaxis].repeat(8, axis=1) + 1000 * seed
    held = values[:1].repeat(held_out, axis=0)
    return make_dataset(values, np.arange(rows) % 3, held_out=(held, np.arange(held_out) % 3), classes=3)


def streamed(dataset: Dataset, header: Header, *, window: int = 2, index: int = 0) -> tuple[Batches, Order]:
    layout = layout_of(dataset.schema)
    order = Order(layout, 7, window)
    raw = list(chunks_of(dataset))
    whole = [decode_chunk(raw[number], number, schema=dataset.schema) for number in range(layout.train)]
    return Batches(Resident(whole, order), order, header, index=index), order


# The layout


@given(rows=st.integers(1, 400), held_out=st.integers(1, 90), width=st.integers(1, 200))
def test_every_chunk_of_every_data_set_has_a_row_and_none_more_than_its_room(
    rows: int, held_out: int, width: int
) -> None:
    schema = Schema((width,), 2, "float32", size_class(rows), size_class(held_out))
    layout, counts = layout_of(schema), Counts(rows, held_out)
    places = [layout.place(number, counts) for number in range(layout.count)]
    assert all(1 <= behind - first <= layout.rows for first, behind in places)
    for part, count in ((places[: layout.train], rows), (places[layout.train :], held_out)):
        assert (part[0][0], part[-1][1]) == (0, count)
        assert all(one[1] == other[0] for one, other in pairwise(part))


@given(rows=st.integers(1, 3000), other=st.integers(0, 400), seed=st.integers(0, (1 << 64) - 1))
@settings(deadline=None)
def test_count_size_and_order_of_chunks_follow_the_size_class(rows: int, other: int, seed: int) -> None:
    second = max(1, size_class(rows) - other)
    if size_class(second) != size_class(rows):
        second = rows
    one, two = numbered(rows), numbered(second, seed=1)
    assert one.schema == two.schema  # CONF-3
    sizes = [[len(chunk) for chunk in chunks_of(each)] for each in (one, two)]
    assert sizes[0] == sizes[1]
    orders = [order_of(layout_of(each.schema), seed, window_bytes=900) for each in (one, two)]
    places = range(3 * layout_of(one.schema).train)
    assert [orders[0].chunk_at(p) for p in places] == [orders[1].chunk_at(p) for p in places]


# The order


@given(rows=st.integers(1, 300), window=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_each_pass_takes_every_row_at_least_once_and_none_much_more(rows: int, window: int) -> None:
    data = numbered(rows)
    _, order = streamed(data, HEADER, window=window)
    for number in (0, 1):
        first = number * order.pass_rows
        positions = np.arange(first, first + order.pass_rows)
        taken = np.full(order.pass_rows, -1)
        for chosen, place, within in order.rows_at(positions, Counts(rows, 4)):
            assert first <= place * order.layout.rows < first + order.pass_rows
            start = order.layout.place(order.chunk_at(place), Counts(rows, 4))[0]
            taken[chosen] = start + within
        counts = np.bincount(taken, minlength=rows)
        assert len(counts) == rows
        most = math.ceil(order.layout.rows / (rows // order.layout.train))
        assert 1 <= counts.min() <= counts.max() <= most


def test_over_many_passes_every_row_is_as_likely_as_another_to_come_twice() -> None:
    rows = 70  # of a class of 72
    _, order = streamed(numbered(rows), HEADER)
    counts: NDArray[Any] = np.zeros(rows)
    passes = 400
    for chosen, place, within in order.rows_at(np.arange(passes * order.pass_rows), Counts(rows, 4)):
        start = order.layout.place(order.chunk_at(place), Counts(rows, 4))[0]
        np.add.at(counts, start + within, 1)
        assert len(chosen) == len(within)
    share = order.pass_rows / rows
    assert abs(counts / passes - share).max() < 0.12  # five standard deviations


def test_chunks_come_in_another_order_in_each_pass_and_for_each_seed() -> None:
    layout = layout_of(numbered(300).schema)
    places = range(2 * layout.train)
    one, other = ([Order(layout, seed, 2).chunk_at(p) for p in places] for seed in (7, 8))
    assert one != other
    assert one[: layout.train] != one[layout.train :]
    assert sorted(one[: layout.train]) == list(range(layout.train))


# Reading ahead


def same(one: Batches, other: Batches, step: int) -> None:
    (rows, targets), (other_rows, other_targets) = one(step), other(step)
    assert np.array_equal(rows, other_rows)
    assert np.array_equal(targets, other_targets)


def ahead_of(dataset: Dataset, order: Order, *, kept: int, places: int = 10_000) -> Ahead:
    raw = list(chunks_of(dataset))
    return Ahead(lambda n: decode_chunk(raw[n], n, schema=dataset.schema), order, kept=kept, places=places)


def test_rows_read_ahead_are_the_rows_of_a_set_in_memory_to_the_last_bit() -> None:
    data = numbered(300)
    for index in (0, 1):
        resident, order = streamed(data, HEADER, index=index)
        with ahead_of(data, order, kept=chunks_kept(order, 32, memory_bytes=0)) as ahead:
            own = Batches(ahead, order, HEADER, index=index)
            for step in range(40):
                ahead.ask(order.ahead_of((step + 1) * 32 - 1))
                same(resident, own, step)


def test_chunks_in_memory_are_bounded_and_a_compute_that_falls_back_fails() -> None:
    data = numbered(300)
    _, order = streamed(data, HEADER)
    with ahead_of(data, order, kept=9) as ahead:
        ahead.ask(500)
        ahead.at(499)
        assert len(ahead._chunks) == 9
        with pytest.raises(TrainingError, match="fell behind"):
            ahead.at(490)
        assert ahead.at(491).rows.size


def test_a_chunk_that_cannot_be_read_fails_the_compute() -> None:
    data = numbered(300)
    _, order = streamed(data, HEADER)

    def load(number: int) -> Any:  # noqa: ANN401
        if number == order.chunk_at(5):
            raise OSError("gone")
        raw = list(chunks_of(data))[number]
        return decode_chunk(raw, number, schema=data.schema)

    with Ahead(load, order, kept=9, places=100) as ahead:
        ahead.ask(8)
        with pytest.raises(TrainingError, match="could not be read"):
            ahead.at(7)


def test_the_clock_tells_of_every_tick_after_it_has_slept() -> None:
    told: list[int] = []

    class Still:
        def now(self) -> float:
            return 5.0

        def sleep_until(self, deadline: float) -> None:
            told.append(int(deadline))

    paced = Paced(Still(), lambda tick: told.append(-tick))
    for deadline in (10, 20, 30):
        paced.sleep_until(deadline)
    assert told == [10, 0, 20, -1, 30, -2]
    assert paced.now() == 5.0


# A worker and its file


def offer_of(schema: Schema, envelope: str, header: Header = HEADER) -> Offer:
    guest = draft_manifest(Kind.GUEST, JOB, signer=SIGNER, seed=7)
    manifest = dataclasses.replace(
        draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=schema), envelope=envelope
    )
    return make_offer(POLICY, guest, dataset=manifest, header=header, spent={})


def submitted(
    folder: Path, dataset: Dataset, name: str = "data", job: JobId = JOB
) -> tuple[Path, str, bytes]:
    """Write a submission; return its path, its envelope's digest and its data key."""
    path = folder / name
    draft = draft_manifest(Kind.DATASET, job, signer=SIGNER, schema=dataset.schema)
    with path.open("w+b") as sink:
        manifest = write_submission(
            sink,
            io.BytesIO(encode_dataset(dataset)),
            draft=draft,
            signer=SIGNER,
            recipient=LEAD.public_bytes,
        )
    with path.open("rb") as source:
        read_submission(source)
        key = unwrap_key(source, private=LEAD, purpose="dataset", context=manifest.context)
    return path, manifest.envelope, key


@contextmanager
def training(
    path: Path, offer: Offer, key: bytes, *, memory_bytes: int = 0, window_bytes: int = 900
) -> Iterator[tuple[Batches, Any]]:
    limits = {"memory_bytes": memory_bytes, "window_bytes": window_bytes}
    with worker.opened_chunks(offer, path, key=key, **limits) as (read, order, tick):
        yield Batches(read, order, offer.header, index=0), tick


def test_a_worker_reads_from_disk_what_it_would_hold_in_memory(tmp_path: Path) -> None:
    data = numbered(1000)
    path, envelope, key = submitted(tmp_path, data)
    offer = offer_of(data.schema, envelope)
    with (
        training(path, offer, key) as (own, tick),
        training(path, offer, key, memory_bytes=1 << 30) as (
            held,
            _,
        ),
    ):
        assert isinstance(own._chunks, Ahead)
        assert isinstance(held._chunks, Resident)
        for step in range(32):
            same(own, held, step)
            tick(step)


def reads(
    monkeypatch: pytest.MonkeyPatch, folder: Path, data: Dataset, compute: int
) -> list[tuple[int, int]]:
    """Return (slot, chunk) of each read while a compute lags `compute` steps behind the clock."""
    path, envelope, key = submitted(folder, data)
    seen: list[tuple[int, int]] = []
    slot = -1
    decode = decode_chunk

    def noted(plaintext: bytes, number: int, *, schema: Schema) -> Any:  # noqa: ANN401
        seen.append((slot, number))
        return decode(plaintext, number, schema=schema)

    monkeypatch.setattr(worker, "decode_chunk", noted)
    with training(path, offer_of(data.schema, envelope, dataclasses.replace(HEADER, epochs=2)), key) as (
        own,
        tick,
    ):
        ahead = own._chunks
        assert isinstance(ahead, Ahead)
        for slot in range(-1, 80):
            tick(slot)
            with ahead._changed:
                ahead._changed.wait_for(lambda: ahead._done == ahead._asked)
            if 0 <= slot - compute < 64:
                own(slot - compute)
    monkeypatch.setattr(worker, "decode_chunk", decode)
    return seen


def test_what_is_read_at_which_slot_is_the_same_for_other_rows_counts_and_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [
        reads(monkeypatch, tmp_path, numbered(rows, seed=seed), compute)
        for rows, seed, compute in ((1000, 0, 0), (993, 1, 0), (1000, 0, 1))
    ]
    assert len(seen[0]) > 100
    assert {number for _, number in seen[0]} == set(range(layout_of(numbered(1000).schema).train))
    assert seen[0] == seen[1] == seen[2]


def chunk_bytes(data: Dataset) -> int:
    return layout_of(data.schema).chunk_bytes + 16


@pytest.mark.parametrize("attack", ["swap", "replay", "cut", "flip"])
def test_chunks_that_the_platform_changes_in_training_are_refused(tmp_path: Path, attack: str) -> None:
    data = numbered(1000)
    path, envelope, key = submitted(tmp_path, data)
    other = submitted(tmp_path, data, "other")[0].read_bytes()
    raw, size = path.read_bytes(), chunk_bytes(data)
    first = len(raw) - layout_of(data.schema).count * size
    parts = [raw[at : at + size] for at in range(first, len(raw), size)]
    with training(path, offer_of(data.schema, envelope), key) as (own, tick):
        own(0)
        if attack == "swap":  # each authentic, at another's place
            parts = parts[1:] + parts[:1]
        elif attack == "replay":  # the same rows of the same party, sealed another time
            parts = [other[first + n * size : first + (n + 1) * size] for n in range(len(parts))]
        elif attack == "flip":
            parts = [part[:-1] + bytes([part[-1] ^ 1]) for part in parts]
        path.write_bytes(raw[:first] + b"" if attack == "cut" else raw[:first] + b"".join(parts))
        with pytest.raises(TrainingError) as caught:  # noqa: PT012  which step meets it is not the point
            for step in range(32):
                tick(step)
                own(step)
        assert isinstance(caught.value.__cause__, EnclaveError)


def test_even_who_holds_the_key_cannot_show_a_worker_other_rows_than_were_approved(tmp_path: Path) -> None:
    data, forged = numbered(1000), numbered(1000, seed=1)
    path, envelope, key = submitted(tmp_path, data)
    with path.open("rb") as source:
        manifest, index = read_submission(source)
    assert index is not None
    chunking = chunking_of(data.schema)
    cipher = chunks._cipher(key, index.head)
    bound = chunks._associated(index.head, chunking, purpose="dataset", context=manifest.context)
    sealed = [
        cipher.encrypt(chunks._nonce(index.head, number, chunking), plain, bound)
        for number, plain in enumerate(chunks_of(forged))
    ]
    raw = path.read_bytes()
    with path.open("rb") as source:
        load = worker._loader(source, offer_of(data.schema, envelope), key)
        path.write_bytes(raw[: len(raw) - sum(map(len, sealed))] + b"".join(sealed))
        with pytest.raises(EnclaveError, match="not the one that was there before"):
            load(3)


@pytest.mark.parametrize("change", ["cut", "longer", "other job"])
def test_a_file_of_another_size_or_job_is_refused_before_a_row_is_read(tmp_path: Path, change: str) -> None:
    data = numbered(1000)
    path, envelope, key = submitted(tmp_path, data)
    raw = path.read_bytes()
    if change == "other job":
        path = submitted(tmp_path, data, "other", JobId("f" * 32))[0]
    else:
        path.write_bytes(raw[:-1] if change == "cut" else raw + b"\0")
    with pytest.raises(TrainingError), training(path, offer_of(data.schema, envelope), key):
        pass


# Memory

LIMITED = """
import resource, sys, threading
from pathlib import Path
import numpy as np
import test_batches as here
from chiron.guest_api.dataset import Schema
from chiron.policy.header import Header

path, envelope, key, rows = Path(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3]), int(sys.argv[4])
schema = Schema((4096,), 3, "uint8", rows, 64)
offer = here.offer_of(schema, envelope, Header(1, 256, 2, 4096, 5, 1000))
with here.training(path, offer, key, memory_bytes=16 << 20, window_bytes=4 << 20) as (own, tick):
    used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20),) * 2)
    for step in range(rows // 512):
        assert own(step)[0].shape == (256, 4096)
        tick(step)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def big_submission(folder: Path, rows: int) -> tuple[Path, str, bytes]:
    """Write a data set of 4 KiB a row without holding it."""
    schema = Schema((4096,), 3, "uint8", rows, 64)
    layout, counts = layout_of(schema), Counts(rows, 64)
    path = folder / f"{rows}"

    class Source(io.RawIOBase):
        number = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            if self.number == layout.count:
                return b""
            first, behind = layout.place(self.number, counts)
            values = np.full((behind - first, 4096), self.number % 251, np.uint8)
            self.number += 1
            chunk = stored.encode_chunk(values, np.arange(behind - first) % 3, counts=counts, layout=layout)
            assert size in (len(chunk), 1)
            return chunk

    draft = draft_manifest(Kind.DATASET, JOB, signer=SIGNER, schema=schema)
    with path.open("w+b") as sink:
        manifest = write_submission(
            sink,
            cast("BinaryIO", Source()),
            draft=draft,
            signer=SIGNER,
            recipient=LEAD.public_bytes,
        )
    with path.open("rb") as source:
        read_submission(source)
        key = unwrap_key(source, private=LEAD, purpose="dataset", context=manifest.context)
    return path, manifest.envelope, key


def test_a_worker_trains_on_a_data_set_larger_than_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CHUNK_BYTES", 1 << 20)
    peaks = []
    for rows in (16384, 65536):  # 64 and 256 MiB, with 64 MiB to use beside what is loaded
        path, envelope, key = big_submission(tmp_path, rows)
        here = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(path), envelope, key.hex(), str(rows)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": f"{here}:{here.parent / 'support'}"},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 16_384  # KiB: four times the data, the same memory


def test_the_thread_that_reads_ahead_ends_with_its_job(tmp_path: Path) -> None:
    data = numbered(1000)
    path, envelope, key = submitted(tmp_path, data)
    before = threading.active_count()
    with training(path, offer_of(data.schema, envelope), key):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_lead_takes_statistics_of_a_data_set_larger_than_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(inputs, "SAMPLE_BYTES", 4 << 20)
    path, _, key = big_submission(tmp_path, 16384)
    with path.open("rb") as source:
        manifest, index = read_submission(source)
        assert index is not None
        assert manifest.schema is not None
        reader = inputs.open_chunks(source, index, manifest, key=key)
        tracemalloc.start()
        taken = inputs._take(reader, manifest.schema)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40 << 20  # bytes, of 64 MiB
    assert taken.statistics.seen == 16384
    assert len(taken.plaintext) <= 4 << 20
