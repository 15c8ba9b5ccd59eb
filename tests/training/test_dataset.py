"""The data set: its schema, its encoding, and what is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.chunks import decode_dataset, encode_dataset, layout_of
from chiron.guest_api.dataset import Dataset, Schema, as_float, make_dataset
from chiron.guest_api.errors import DatasetError
from chiron.policy.header import size_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HEAD = struct.Struct("<4sIQQ")
SECOND = HEAD.size + 20 * (2 + 3 * 4)  # where the second chunk of `good` starts
CANARY = 31337.75  # a value that no message may show


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    classes, counts = draw(st.integers(2, 256)), draw(st.tuples(st.integers(1, 70), st.integers(1, 20)))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(["uint8", "float32"]))

    def part(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        values = random.integers(0, 256, size=(count, *shape)).astype(dtype)
        return values, random.integers(0, classes, size=count)

    return make_dataset(*part(counts[0]), held_out=part(counts[1]), classes=classes)


def good(rows: int = 20, held_out: int = 5, *, dtype: str = "float32") -> Dataset:
    return make_dataset(
        np.ones((rows, 3), dtype=dtype),
        np.arange(rows) % 2,
        held_out=(np.ones((held_out, 3), dtype=dtype), np.arange(held_out) % 2),
        classes=2,
    )


@given(datasets())
@settings(max_examples=60, deadline=None)
def test_decoding_gives_back_what_was_encoded(dataset: Dataset) -> None:
    again = decode_dataset(encode_dataset(dataset), dataset.schema)
    assert again.schema == dataset.schema
    for name in ("rows", "targets", "held_out_rows", "held_out_targets"):
        expected, found = getattr(dataset, name), getattr(again, name)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@given(datasets())
@settings(max_examples=60, deadline=None)
def test_the_size_is_the_schemas(dataset: Dataset) -> None:
    assert len(encode_dataset(dataset)) == layout_of(dataset.schema).plaintext_bytes


def test_two_row_counts_of_one_size_class_have_one_size() -> None:
    one, other = good(1000), good(1020)
    assert one.schema == other.schema
    assert len(encode_dataset(one)) == len(encode_dataset(other))


@given(datasets())
@settings(deadline=None, max_examples=30)
def test_a_schema_survives_its_dictionary(dataset: Dataset) -> None:
    assert Schema.from_dict(dataset.schema.as_dict()) == dataset.schema


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", []),
        ("shape", [1, 1, 1, 1]),
        ("shape", [0]),
        ("shape", [-1, -1]),
        ("shape", [1 << 21]),
        ("shape", (3,)),
        ("shape", [3.0]),
        ("shape", [True]),
        ("shape", "3"),
        ("shape", None),
        ("classes", 1),
        ("classes", 257),
        ("classes", "2"),
        ("classes", True),
        ("dtype", "float64"),
        ("dtype", 4),
        ("dtype", ["uint8"]),
        ("rows_class", 0),
        ("rows_class", 1021),
        ("rows_class", 1 << 33),
        ("held_out_class", -1),
        ("held_out_class", 2.0),
    ],
)
def test_a_schema_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(DatasetError):
        Schema.from_dict(good().schema.as_dict() | {field: value})


def test_a_schema_with_other_keys_is_refused() -> None:
    fields = good().schema.as_dict()
    with pytest.raises(DatasetError, match="exactly the keys"):
        Schema.from_dict(fields | {"more": 1})
    del fields["classes"]
    with pytest.raises(DatasetError, match="exactly the keys"):
        Schema.from_dict(fields)


def rows_with(value: float) -> NDArray[Any]:
    rows = np.full((6, 3), CANARY)
    rows[2, 1] = value
    return rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": rows_with(np.nan)}, "1 values are NaN or infinite"),
        ({"rows": rows_with(-np.inf)}, "1 values are NaN or infinite"),
        ({"rows": rows_with(1e300)}, "1 values are NaN or infinite"),
        ({"held_out_rows": rows_with(np.nan)}, "1 values are NaN or infinite"),
        ({"rows": np.full((5, 3), CANARY)}, "5 rows but 6 targets"),
        ({"held_out_rows": np.full((7, 3), CANARY)}, "7 rows but 6 targets"),
        ({"rows": np.full(6, CANARY)}, "at least one row"),
        ({"rows": np.zeros((0, 3))}, "at least one row"),
        ({"rows": np.zeros((6, 0)), "held_out_rows": np.zeros((6, 0))}, "rank 1 to 3"),
        ({"rows": np.full((6, 1, 1, 1, 3), CANARY)}, "make them alike"),
        ({"rows": np.full((6, 4), CANARY)}, "make them alike"),
        ({"rows": np.full((6, 3), 77, np.uint8)}, "uint8.*float32.*make them alike"),
        ({"rows": np.full((6, 3), "31337")}, "give numbers"),
        ({"rows": np.full((6, 3), CANARY, complex)}, "give numbers"),
        ({"rows": np.ones((6, 3), bool)}, "give numbers"),
        ({"rows": np.full((6, 3), CANARY, object)}, "give numbers"),
        ({"targets": np.array([0, 1, 2, 0, 1, 313])}, "from 0 to 2"),
        ({"targets": np.array([0, 1, 2, 0, 1, -313])}, "from 0 to 2"),
        ({"targets": np.array([0, 1, 2, 0, 1, 31337.75])}, "one whole number a row"),
        ({"targets": np.zeros((6, 1), int)}, "one whole number a row"),
        ({"held_out_targets": np.full(6, 3)}, "from 0 to 2"),
        ({"classes": 300}, "2 to 256"),
        ({"classes": 1, "targets": np.zeros(6, int), "held_out_targets": np.zeros(6, int)}, "2 to 256"),
    ],
)
def test_bad_arrays_are_refused_in_words_that_hold_no_value(change: dict[str, Any], words: str) -> None:
    parts: dict[str, Any] = {
        "rows": np.full((6, 3), CANARY),
        "targets": np.arange(6) % 3,
        "held_out_rows": np.full((6, 3), CANARY),
        "held_out_targets": np.arange(6) % 3,
        "classes": 3,
    } | change
    held_out = (parts["held_out_rows"], parts["held_out_targets"])
    with pytest.raises(DatasetError, match=words) as caught:
        make_dataset(parts["rows"], parts["targets"], held_out=held_out, classes=parts["classes"])
    assert "313" not in str(caught.value)
    assert "77" not in str(caught.value)


def test_rows_of_rank_four_are_refused() -> None:
    rows, targets = np.zeros((6, 1, 1, 1, 3)), np.arange(6) % 2
    with pytest.raises(DatasetError, match="rank 1 to 3"):
        make_dataset(rows, targets, held_out=(rows, targets), classes=2)


def overwritten(position: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:position] + new + raw[position + len(new) :]


def head(*, magic: bytes = b"CHDS", version: int = 2, rows: int = 20, held_out: int = 5) -> bytes:
    return HEAD.pack(magic, version, rows, held_out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw[:-1], "bytes, its schema says"),
        (lambda raw: raw + b"\0", "bytes, its schema says"),
        (lambda _: b"", "bytes, its schema says"),
        (overwritten(0, head(magic=b"CHDX")), "does not start as one"),
        (overwritten(0, head(version=1)), "does not start as one"),
        (overwritten(0, head(rows=21)), "not of the size classes"),
        (overwritten(0, head(held_out=6)), "not of the size classes"),
        (overwritten(0, head(rows=(1 << 64) - 1)), "not of the size classes"),
        (overwritten(HEAD.size, b"\x02\x00"), "from 0 to 1"),
        (overwritten(SECOND + HEAD.size, b"\xff\xff"), "from 0 to 1"),
        (overwritten(SECOND, head(version=1)), "does not start as one"),
        (overwritten(SECOND, head(rows=19)), "differ in what they say"),
        (overwritten(SECOND + HEAD.size + 10, b"\x01"), "padding is not zero"),
        (overwritten(2 * SECOND - 1, b"\x01"), "padding is not zero"),
        (overwritten(HEAD.size + 40, struct.pack("<f", np.nan)), "NaN or infinite"),
    ],
)
def test_a_tampered_encoding_is_refused(change: Callable[[bytes], bytes], words: str) -> None:
    dataset = good()
    assert (size_class(20), size_class(5)) == (20, 5)
    with pytest.raises(DatasetError, match=words):
        decode_dataset(change(encode_dataset(dataset)), dataset.schema)


def test_no_rows_are_refused_also_where_the_size_class_is_the_smallest() -> None:
    dataset = good(1, 1)
    raw = head(rows=0, held_out=1) + encode_dataset(dataset)[HEAD.size :]
    with pytest.raises(DatasetError, match="at least one row"):
        decode_dataset(raw, dataset.schema)


@given(raw=st.binary(max_size=200), dtype=st.sampled_from(["uint8", "float32"]))
def test_any_bytes_decode_to_a_data_set_of_the_schema_or_are_refused(raw: bytes, dtype: str) -> None:
    schema = good(3, 2, dtype=dtype).schema
    size = layout_of(schema).chunk_bytes
    first = head(rows=3, held_out=2)
    padded = (first + raw[:100] + bytes(size))[:size] + (first + raw[100:] + bytes(size))[:size]
    try:
        assert decode_dataset(padded, schema).schema == schema
    except DatasetError:
        return


def test_bytes_are_scaled_to_one_and_floats_stay() -> None:
    assert as_float(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert as_float(np.array([0.5, 7.0], np.float32)).tolist() == [0.5, 7.0]
