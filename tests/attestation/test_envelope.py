"""Envelopes and sealed blobs: what is changed, cut, reordered or meant for another never opens."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import (
    EnvelopeError,
    SealError,
    generate_hpke_key,
    read_envelope,
    seal,
    unseal,
    unwrap_key,
    write_atomically,
    write_envelope,
)
from enclave.stream import CHUNK_BYTES, TAG_BYTES

if TYPE_CHECKING:
    from pathlib import Path

KEY = generate_hpke_key()
SECRET = bytes(range(256)) * 8
SEALING = b"k" * 32


def envelope(plaintext: bytes, *, padded: int | None = None) -> bytes:
    sink = io.BytesIO()
    write_envelope(
        io.BytesIO(plaintext),
        sink,
        recipient=KEY.public_bytes,
        purpose="data",
        context=b"job",
        padded_bytes=padded,
    )
    return sink.getvalue()


def opened(raw: bytes, *, purpose: str = "data", context: bytes = b"job") -> bytes:
    key = unwrap_key(io.BytesIO(raw), private=KEY, purpose=purpose, context=context)
    return b"".join(read_envelope(io.BytesIO(raw), data_key=key, purpose=purpose, context=context))


SMALL = envelope(SECRET)
LARGE = envelope(b"x" * (2 * CHUNK_BYTES + 100))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 9, CHUNK_BYTES - 8, CHUNK_BYTES - 7, 2 * CHUNK_BYTES])
def test_every_size_comes_back_whole(size: int) -> None:
    plaintext = os.urandom(size)
    assert opened(envelope(plaintext)) == plaintext
    assert (
        unseal(SEALING, seal(SEALING, plaintext, purpose="p", context=b""), purpose="p", context=b"")
        == plaintext
    )


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_padding_hides_the_length_and_is_removed(left: bytes, right: bytes) -> None:
    one, two = envelope(left, padded=300), envelope(right, padded=300)
    assert len(one) == len(two)
    assert (opened(one), opened(two)) == (left, right)


def test_a_plaintext_over_its_padded_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        envelope(b"abc", padded=2)


def test_another_enclave_cannot_open_it() -> None:
    with pytest.raises(EnvelopeError, match="encrypted to another enclave"):
        unwrap_key(io.BytesIO(SMALL), private=generate_hpke_key(), purpose="data", context=b"job")


@pytest.mark.parametrize(("purpose", "context"), [("guest", b"job"), ("data", b"other job")])
def test_another_purpose_or_context_does_not_open_it(purpose: str, context: bytes) -> None:
    with pytest.raises(EnvelopeError):
        opened(SMALL, purpose=purpose, context=context)


def test_a_wrong_data_key_is_told_from_a_changed_file() -> None:
    with pytest.raises(EnvelopeError, match="the key is not the one"):
        list(read_envelope(io.BytesIO(SMALL), data_key=bytes(32), purpose="data", context=b"job"))


@given(st.integers(0, 8 * len(SMALL) - 1))
def test_a_bit_flipped_anywhere_is_noticed(bit: int) -> None:
    changed = bytearray(SMALL)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EnvelopeError):
        opened(bytes(changed))


@given(st.integers(0, len(SMALL) - 1))
def test_a_file_cut_anywhere_is_noticed(length: int) -> None:
    with pytest.raises(EnvelopeError):
        opened(SMALL[:length])


def chunks() -> tuple[bytes, list[bytes]]:
    step = CHUNK_BYTES + TAG_BYTES
    start = len(LARGE) - (2 * step + 108 + TAG_BYTES)
    return LARGE[:start], [
        LARGE[start : start + step],
        LARGE[start + step : start + 2 * step],
        LARGE[start + 2 * step :],
    ]


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 2), (0, 1), (0,), (0, 0, 1, 2), (0, 1, 1, 2), (2,), (0, 1, 2, 2)]
)
def test_chunks_that_are_reordered_dropped_or_repeated_are_noticed(order: tuple[int, ...]) -> None:
    head, parts = chunks()
    assert opened(head + b"".join(parts)) == b"x" * (2 * CHUNK_BYTES + 100)
    with pytest.raises(EnvelopeError):
        opened(head + b"".join(parts[index] for index in order))


def test_appended_bytes_are_noticed() -> None:
    with pytest.raises(EnvelopeError):
        opened(SMALL + b"\0")


def test_a_sealed_blob_opens_only_with_its_key_purpose_and_context() -> None:
    blob = seal(SEALING, SECRET, purpose="model", context=b"job")
    wrong = [(b"x" * 32, "model", b"job"), (SEALING, "budget", b"job"), (SEALING, "model", b"other")]
    for key, purpose, context in wrong:
        with pytest.raises(SealError):
            unseal(key, blob, purpose=purpose, context=context)
    with pytest.raises(SealError):
        unseal(SEALING, blob[:-1], purpose="model", context=b"job")


def test_an_oversized_wrapped_key_is_refused() -> None:
    changed = bytearray(SMALL)
    changed[75:77] = b"\xff\xff"
    with pytest.raises(EnvelopeError, match="over the limit"):
        opened(bytes(changed))


def test_progress_reaches_the_padded_size() -> None:
    seen: list[int] = []
    write_envelope(
        io.BytesIO(b"abc"),
        io.BytesIO(),
        recipient=KEY.public_bytes,
        purpose="p",
        context=b"",
        padded_bytes=1000,
        progress=seen.append,
    )
    assert seen == [1000]


def test_an_atomic_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
