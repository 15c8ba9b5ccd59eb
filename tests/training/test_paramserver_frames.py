import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paramserver import Float32Array, FrameError, FrameFormat, Kind
from paramserver.frames import _DETAILS, Outbox

SIZE_CLASS = 12
FORMAT = FrameFormat(SIZE_CLASS)
VECTORS = hnp.arrays(np.float32, st.integers(1, SIZE_CLASS), elements=st.floats(width=32))
U64 = st.integers(0, 2**64 - 1)


def gradient_frame(vector: Float32Array | None = None) -> bytes:
    values = np.ones(SIZE_CLASS - 1, np.float32) if vector is None else vector
    return FORMAT.encode(Kind.GRADIENT, step=5, slot=7, vector=values, loss=0.5)


def empty_frame() -> bytes:
    return FORMAT.encode(Kind.EMPTY, step=0, slot=7, vector=None, loss=0.0)


def start_frame() -> bytes:
    return FORMAT.encode(Kind.START, step=0, slot=0, vector=np.ones(3, np.float32), loss=0.0)


@given(vector=VECTORS, step=U64, slot=U64, loss=st.floats(width=32))
def test_decode_gives_back_what_encode_was_given(
    vector: Float32Array, step: int, slot: int, loss: float
) -> None:
    frame = FORMAT.decode(FORMAT.encode(Kind.GRADIENT, step=step, slot=slot, vector=vector, loss=loss))
    assert (frame.kind, frame.step, frame.slot) == (Kind.GRADIENT, step, slot)
    assert frame.vector.tobytes() == vector.tobytes()
    assert struct.pack("<f", frame.loss) == struct.pack("<f", loss) or math.isnan(loss)


@given(vector=VECTORS, kind=st.sampled_from([Kind.GRADIENT, Kind.PARAMETERS, Kind.START]), slot=U64)
def test_every_frame_has_the_size_of_an_empty_one(vector: Float32Array, kind: Kind, slot: int) -> None:
    data = FORMAT.encode(kind, step=0, slot=slot, vector=vector, loss=0.0)
    assert len(data) == len(empty_frame()) == FORMAT.frame_bytes == 32 + 4 * SIZE_CLASS


@given(data=st.binary(max_size=2 * FORMAT.frame_bytes))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        FORMAT.decode(data)


@given(
    original=st.sampled_from([empty_frame(), gradient_frame(), start_frame()]),
    offset=st.integers(0, FORMAT.frame_bytes - 1),
    flip=st.integers(1, 255),
)
def test_a_changed_byte_is_refused_or_changes_the_frame_that_is_read(
    original: bytes, offset: int, flip: int
) -> None:
    data = bytearray(original)
    data[offset] ^= flip
    try:
        frame = FORMAT.decode(bytes(data))
    except FrameError:
        return
    vector = frame.vector if frame.vector.size else None
    again = FORMAT.encode(frame.kind, step=frame.step, slot=frame.slot, vector=vector, loss=frame.loss)
    assert again == bytes(data) or math.isnan(frame.loss) or np.isnan(frame.vector).any()


@pytest.mark.parametrize(
    ("rule", "original", "offset", "replacement"),
    [
        ("magic", gradient_frame(), 0, b"ChPG"),
        ("version", gradient_frame(), 4, b"\x02"),
        ("kind", gradient_frame(), 5, b"\x04"),
        ("reserved", gradient_frame(), 6, b"\x01"),
        ("reserved", gradient_frame(), 7, b"\x01"),
        ("count", gradient_frame(), 8, struct.pack("<I", SIZE_CLASS + 1)),
        ("count", gradient_frame(), 8, struct.pack("<I", 0)),
        ("count", empty_frame(), 8, struct.pack("<I", 1)),
        ("step", empty_frame(), 16, b"\x01"),
        ("step", start_frame(), 16, b"\x01"),
        ("loss", empty_frame(), 12, struct.pack("<f", math.nan)),
        ("loss", start_frame(), 12, struct.pack("<f", 1.0)),
        ("unused", empty_frame(), 32, b"\x01"),
        ("unused", gradient_frame(), FORMAT.frame_bytes - 1, b"\x80"),
        ("unused", gradient_frame(), 8, struct.pack("<I", SIZE_CLASS - 2)),
    ],
)
def test_a_broken_rule_is_named(rule: str, original: bytes, offset: int, replacement: bytes) -> None:
    data = original[:offset] + replacement + original[offset + len(replacement) :]
    with pytest.raises(FrameError) as caught:
        FORMAT.decode(data)
    assert caught.value.rule == rule
    assert f"{rule!r}: {_DETAILS[rule]}; both ends" in str(caught.value)


@pytest.mark.parametrize("change", [-1, 1, -FORMAT.frame_bytes])
def test_another_size_is_refused_by_the_rule_size(change: int) -> None:
    data = (gradient_frame() + b"\x00")[: FORMAT.frame_bytes + change]
    with pytest.raises(FrameError) as caught:
        FORMAT.decode(data)
    assert caught.value.rule == "size"
    assert f": {len(data)} bytes instead of {FORMAT.frame_bytes}; both ends" in str(caught.value)


def test_a_decoded_vector_is_a_view_and_cannot_be_written() -> None:
    data = bytearray(gradient_frame())
    vector = FORMAT.decode(data).vector
    data[32:36] = struct.pack("<f", 9.0)
    assert vector[0] == 9.0
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1.0


@pytest.mark.parametrize(
    ("kind", "vector"),
    [
        (Kind.EMPTY, np.ones(1, np.float32)),
        (Kind.GRADIENT, None),
        (Kind.PARAMETERS, np.ones(0, np.float32)),
        (Kind.START, np.ones(SIZE_CLASS + 1, np.float32)),
        (Kind.GRADIENT, np.ones((2, 2), np.float32)),
    ],
)
def test_encode_refuses_a_vector_that_does_not_fit(kind: Kind, vector: Float32Array | None) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        FORMAT.encode(kind, step=0, slot=0, vector=vector, loss=0.0)


def test_a_loss_beyond_float32_becomes_infinite() -> None:
    data = FORMAT.encode(Kind.GRADIENT, step=0, slot=0, vector=np.ones(1, np.float32), loss=1e300)
    assert FORMAT.decode(data).loss == math.inf


@pytest.mark.parametrize("parameters", [0, -1, 2**32])
def test_a_size_class_out_of_range_is_refused(parameters: int) -> None:
    with pytest.raises(ValueError, match=r"^a frame's size class is at least 1 and below 2\^32 parameters$"):
        FrameFormat(parameters)


@pytest.mark.parametrize("parameters", [1, 2, 2**32 - 1])
def test_a_size_class_in_range_is_taken(parameters: int) -> None:
    assert FrameFormat(parameters).frame_bytes == 32 + 4 * parameters


class Sending:
    """A channel that has so many bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def send(self, data: memoryview) -> None:
        raise NotImplementedError

    def recv_exactly(self, n: int) -> bytes:
        taken, self.data = self.data[:n], self.data[n:]
        return taken


def test_a_frame_is_received_in_its_slot_and_direction_and_nothing_after_it_is_read() -> None:
    channel = Sending(gradient_frame() + b"next")
    frame = FORMAT.receive(channel, slot=7, kinds={Kind.EMPTY, Kind.GRADIENT})
    assert (frame.kind, frame.slot, channel.data) == (Kind.GRADIENT, 7, b"next")


@pytest.mark.parametrize(
    ("rule", "slot", "kinds"),
    [
        ("slot", 6, {Kind.GRADIENT}),
        ("slot", 8, {Kind.GRADIENT}),
        ("direction", 7, {Kind.EMPTY, Kind.PARAMETERS}),
        ("direction", 7, set()),
    ],
)
def test_a_frame_of_another_slot_or_direction_is_refused(rule: str, slot: int, kinds: set[Kind]) -> None:
    with pytest.raises(FrameError, match=_DETAILS[rule]) as caught:
        FORMAT.receive(Sending(gradient_frame()), slot=slot, kinds=kinds)
    assert caught.value.rule == rule


def test_a_frame_is_encoded_for_slot_zero_until_it_is_sent_in_another() -> None:
    buffer = bytearray(b"\xff" * FORMAT.frame_bytes)
    FORMAT.encode_into(buffer, Kind.EMPTY, step=0, vector=None, loss=0.0)
    assert FORMAT.decode(buffer).slot == 0


def test_a_frame_without_a_loss_says_zero() -> None:
    outbox = Outbox(FORMAT)
    assert outbox.take(0)[0] is False
    outbox.put(Kind.PARAMETERS, step=1, vector=np.ones(2, np.float32))
    assert FORMAT.decode(outbox.take(1)[1]).loss == 0


def test_the_outbox_sends_a_frame_once_and_is_empty_before_and_after() -> None:
    outbox = Outbox(FORMAT)
    assert FORMAT.decode(outbox.take(0)[1]).kind is Kind.EMPTY
    outbox.put(Kind.GRADIENT, step=3, vector=np.full(4, 2.0, np.float32), loss=0.25)
    is_full, data = outbox.take(1)
    assert is_full
    assert bytes(data) == FORMAT.encode(
        Kind.GRADIENT, step=3, slot=1, vector=np.full(4, 2.0, np.float32), loss=0.25
    )
    is_full, data = outbox.take(2)
    assert not is_full
    assert bytes(data) == FORMAT.encode(Kind.EMPTY, step=0, slot=2, vector=None, loss=0.0)


def test_a_shorter_vector_leaves_nothing_of_the_one_before() -> None:
    outbox = Outbox(FORMAT)
    for length in (SIZE_CLASS, 2):
        outbox.put(Kind.GRADIENT, step=0, vector=np.ones(length, np.float32))
        assert FORMAT.decode(outbox.take(0)[1]).vector.size == length


def test_the_outbox_refuses_to_overwrite_a_frame_that_was_not_sent() -> None:
    outbox = Outbox(FORMAT)
    outbox.put(Kind.GRADIENT, step=0, vector=np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"^the last frame has not been sent$"):
        outbox.put(Kind.GRADIENT, step=1, vector=np.ones(1, np.float32))
