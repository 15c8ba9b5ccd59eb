"""Access to guest memory is checked against its bounds, for every pointer and length."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandbox import GuestAddressError, GuestMemory, OutputLimitError

SIZE = 256
numbers = st.one_of(
    st.integers(0, SIZE + 2), st.sampled_from([2**31, 2**32 - 1, 2**32 - SIZE, -1, -SIZE]), st.integers()
)


def make(output_bytes: int = 10_000) -> tuple[bytearray, GuestMemory]:
    content = bytearray(range(SIZE))
    return content, GuestMemory(memoryview(content), output_bytes=output_bytes)


@given(pointer=numbers, length=numbers)
def test_a_read_gives_exactly_the_range_or_nothing(pointer: int, length: int) -> None:
    content, memory = make()
    if pointer >= 0 and length >= 0 and pointer + length <= SIZE:
        assert memory.read(pointer, length) == content[pointer:][:length]
    else:
        with pytest.raises(GuestAddressError, match="256 bytes"):
            memory.read(pointer, length)


@given(pointer=numbers, length=st.integers(0, SIZE + 2))
def test_a_read_into_a_buffer_fills_it_or_changes_nothing(pointer: int, length: int) -> None:
    content, memory = make()
    target = np.zeros(length, np.uint8)
    if pointer >= 0 and pointer + length <= SIZE:
        memory.read_into(pointer, target)
        assert target.tobytes() == content[pointer:][:length]
    else:
        with pytest.raises(GuestAddressError, match="256 bytes"):
            memory.read_into(pointer, target)
        assert not target.any()


@given(pointer=numbers, data=st.binary(max_size=SIZE + 2))
def test_a_write_changes_exactly_the_range_or_nothing(pointer: int, data: bytes) -> None:
    content, memory = make()
    before = bytes(content)
    if 0 <= pointer <= SIZE - len(data):
        memory.write(pointer, data)
        assert content == before[:pointer] + data + before[pointer + len(data) :]
    else:
        with pytest.raises(GuestAddressError):
            memory.write(pointer, data)
        assert content == before


@given(lengths=st.lists(st.integers(0, SIZE), max_size=8), limit=st.integers(0, 3 * SIZE))
def test_reads_never_sum_to_more_than_the_output_limit(lengths: list[int], limit: int) -> None:
    _, memory = make(output_bytes=limit)
    total = 0
    for length in lengths:
        if total + length > limit:
            with pytest.raises(OutputLimitError, match=f"{limit} bytes"):
                memory.read(0, length)
        else:
            total += len(memory.read(0, length))


def test_what_is_read_into_a_buffer_counts_as_output() -> None:
    _, memory = make(output_bytes=10)
    memory.read_into(0, bytearray(8))
    target = bytearray(3)
    with pytest.raises(OutputLimitError):
        memory.read_into(0, target)
    assert target == bytes(3)
    memory.read_into(0, bytearray(2))


def test_an_array_of_any_shape_is_written_as_its_bytes() -> None:
    content, memory = make()
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    memory.write(8, array)
    assert content[8:32] == array.tobytes()


def test_an_empty_array_is_written_as_nothing() -> None:
    content, memory = make()
    memory.write(SIZE, np.empty((0, 3), dtype="<f4"))
    assert content == bytes(range(SIZE))


def test_touching_makes_every_page_resident() -> None:
    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0])

    size = 64 << 20
    with mmap.mmap(-1, size) as pages:
        memory = GuestMemory(memoryview(pages), output_bytes=0)
        before = resident_kib()
        memory.touch_all()
        assert resident_kib() - before > 60 << 10
        memory.close()


def test_touching_changes_nothing() -> None:
    content = bytearray(b"abc" * 10_000)
    GuestMemory(memoryview(content), output_bytes=0).touch_all()
    assert content == b"abc" * 10_000


def test_length_is_the_size_of_the_memory() -> None:
    assert len(make()[1]) == SIZE
