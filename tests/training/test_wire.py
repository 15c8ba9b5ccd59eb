"""Padding gives back what went in, in one size; what is no message is refused."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.training.errors import TrainingError
from chiron.training.wire import pad, parse_map, unpad


@given(content=st.binary(max_size=100), room=st.integers(0, 50))
def test_what_is_padded_comes_back_in_one_size(content: bytes, room: int) -> None:
    message = pad(content, len(content) + 8 + room)
    assert len(message) == len(content) + 8 + room
    assert unpad(message) == content


def test_content_over_the_size_does_not_fit() -> None:
    with pytest.raises(TrainingError, match="11 bytes do not fit a message of 10"):
        pad(bytes(11), 18)


@given(st.binary(max_size=40))
def test_any_bytes_unpad_to_a_part_of_themselves_or_are_refused(raw: bytes) -> None:
    try:
        content = unpad(raw)
    except TrainingError:
        return
    assert raw[8 : 8 + len(content)] == content


@pytest.mark.parametrize("raw", [b"", bytes(7), b"\x01" + bytes(7), b"\xff" * 20])
def test_a_padded_message_that_does_not_hold_its_length_is_refused(raw: bytes) -> None:
    with pytest.raises(TrainingError):
        unpad(raw)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_map_with_text_keys_or_refused(raw: bytes) -> None:
    try:
        message = parse_map(raw)
    except TrainingError:
        return
    assert all(isinstance(name, str) for name in message)


@pytest.mark.parametrize("value", [[1], "text", 5, None, {1: 2}, {b"a": 1}])
def test_other_cbor_is_no_message(value: object) -> None:
    with pytest.raises(TrainingError, match="not a map with text keys"):
        parse_map(cbor2.dumps(value))
