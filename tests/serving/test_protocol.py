"""Parsing requests and writing answers: every input gives rows or a fault of the closed list."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from deployments import POLICY
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.guest_api.dataset import Schema
from chiron.serving.errors import Fault, FaultError
from chiron.serving.protocol import (
    MAX_ROWS,
    Answer,
    inference_body,
    metadata_body,
    pack_answer,
    padded,
    parse_request,
    unpack_answer,
)

SCHEMA = Schema((2, 3), 4, "float32", 8, 8)
JOB = "0" * 32


def body(shape: object = (1, 2, 3), data: object = (0, 1, 2, 3, 4, 5)) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}).encode()


def fault_of(raw: bytes) -> Fault:
    with pytest.raises(FaultError) as caught:
        parse_request(raw, SCHEMA)
    return caught.value.fault


@pytest.mark.parametrize(
    "data", [[0, 1, 2, 3, 4, 5], [[0, 1, 2], [3, 4, 5]], [[[0, 1, 2], [3, 4, 5]]], [0.0, 1, 2, 3, 4.0, 5e0]]
)
def test_flat_and_nested_numbers_are_rows(data: object) -> None:
    rows = parse_request(body(data=data), SCHEMA)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("count", [1, MAX_ROWS])
def test_up_to_the_limit_of_rows_is_parsed(count: int) -> None:
    assert parse_request(body([count, 2, 3], [0.5] * 6 * count), SCHEMA).shape == (count, 2, 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'"inputs"',
        b"{}",
        b'{"inputs": []}',
        b'{"inputs": 5}',
        b'{"inputs": ["x"]}',
        b'{"inputs": [{"shape": [1, 2, 3]}]}',
        b'{"inputs": [{"data": [1]}]}',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
)
def test_what_is_no_request_is_a_bad_request(raw: bytes) -> None:
    assert fault_of(raw) is Fault.BAD_REQUEST


@pytest.mark.parametrize(
    "shape",
    [
        [], [1], [1, 6], [1, 3, 2], [1, 2, 3, 1], [1.0, 2, 3], [True, 2, 3], ["1", 2, 3], "123", None, 6,
        {"1": 2}, [[1], 2, 3], [1, -2, -3],
    ],
)  # fmt: skip
def test_another_shape_is_a_fault(shape: object) -> None:
    assert fault_of(body(shape)) is Fault.WRONG_SHAPE


@pytest.mark.parametrize("count", [0, -1, MAX_ROWS + 1, 10**30])
def test_no_rows_or_too_many_are_a_fault(count: int) -> None:
    assert fault_of(body([count, 2, 3])) is Fault.TOO_MANY_ROWS


@pytest.mark.parametrize("data", [[], [1], list(range(7)), 5, [[1, 2], [3, 4]]])
def test_another_count_of_values_is_a_fault(data: object) -> None:
    assert fault_of(body(data=data)) is Fault.WRONG_SHAPE


@pytest.mark.parametrize(
    "value", [None, "text", {}, {"a": 1}, [1, 2], 1e39, -1e300, 10**400, float("nan"), float("inf"), "nan"]
)
def test_what_is_no_finite_number_is_a_fault(value: object) -> None:
    assert fault_of(body(data=[0, 1, 2, 3, 4, value])) is Fault.NOT_FINITE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(shape=JSON | st.just([1, 2, 3]), data=JSON | st.lists(JSON, min_size=6, max_size=6))
def test_any_json_gives_finite_rows_of_the_shape_or_a_fault(shape: Any, data: Any) -> None:  # noqa: ANN401
    try:
        rows = parse_request(body(shape, data), SCHEMA)
    except FaultError:
        return
    assert rows.shape[1:] == (2, 3)
    assert 1 <= len(rows) <= MAX_ROWS
    assert np.isfinite(rows).all()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_fault(raw: bytes) -> None:
    for content in (raw, b'{"inputs": [{"shape": [1, 2, 3], "data": ' + raw):
        assert fault_of(content) in Fault


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=256))
def test_an_answer_fits_sixteen_bits_and_is_the_top_class(probabilities: list[float]) -> None:
    packed = pack_answer(np.array(probabilities, np.float32))
    assert 0 <= packed < 1 << 16
    answer = unpack_answer(packed)
    assert probabilities[answer.target] == max(probabilities)
    assert abs(answer.score - max(probabilities)) <= 0.5 / 255 + 0.0006


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_class_zero_with_score_zero(value: float) -> None:
    assert unpack_answer(pack_answer(np.array([0.1, value, 0.2], np.float32))) == Answer(0, 0.0)


def test_a_score_beyond_one_is_one() -> None:
    assert unpack_answer(pack_answer(np.array([0, 1.00001, 0], np.float32))) == Answer(1, 1.0)


WIDEST = Answer(255, 0.123)


def test_the_largest_answer_and_metadata_fit_the_policys_size() -> None:
    size = POLICY.serving.answer_bytes
    largest = Schema((1 << 6, 1 << 7, 1 << 7), 256, "float32", 1 << 30, 1 << 30)
    for value in (
        inference_body(JOB, [WIDEST] * MAX_ROWS),
        metadata_body(JOB, largest, simulated=False),
        *({"error": fault.text} for fault in Fault),
    ):
        raw = padded(value, size)
        assert len(raw) == size
        assert json.loads(raw) == value


def test_an_answer_over_the_policys_size_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="raise answer_bytes"):
        padded({"a": "b" * 100}, 100)


def test_metadata_names_the_shapes_and_nothing_else() -> None:
    value = metadata_body(JOB, SCHEMA, simulated=True)
    assert set(value) == {"name", "platform", "inputs", "outputs", "simulated"}
    assert value["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}]


def test_faults_have_constant_texts_and_error_statuses() -> None:
    assert all(400 <= fault.status < 600 and fault.text for fault in Fault)
    assert str(FaultError(Fault.NOT_FOUND)) == Fault.NOT_FOUND.text
