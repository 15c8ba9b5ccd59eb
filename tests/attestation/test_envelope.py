"""Envelopes and sealed blobs: what is changed, cut, reordered or meant for another never opens."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from enclave import (
    EnclaveError,
    EnvelopeError,
    SealError,
    envelope_digest,
    generate_hpke_key,
    read_envelope,
    seal,
    unseal,
    unwrap_key,
    write_atomically,
    write_envelope,
)
from enclave.envelope import binding_of
from enclave.keys import derive_key
from enclave.stream import (
    CHUNK_BYTES,
    NONCE,
    PREFIX_BYTES,
    TAG_BYTES,
    StreamHead,
    associated_data,
    fresh_head,
)

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES = len(StreamHead(b"", b"", b"", b"").to_bytes())
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
SEALED = seal(SEALING, SECRET, purpose="model", context=b"job")
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


@given(st.integers(0, 8 * len(SEALED) - 1))
def test_a_bit_flipped_anywhere_in_a_sealed_blob_is_noticed(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        unseal(SEALING, bytes(changed), purpose="model", context=b"job")


@given(st.integers(0, len(SEALED) - 1))
def test_a_sealed_blob_cut_anywhere_is_noticed(length: int) -> None:
    with pytest.raises(SealError):
        unseal(SEALING, SEALED[:length], purpose="model", context=b"job")


@pytest.mark.parametrize("order", [(1, 0), (0,), (1,), (0, 0, 1), (0, 1, 1)])
def test_a_sealed_blob_with_reordered_dropped_or_repeated_chunks_does_not_open(
    order: tuple[int, ...],
) -> None:
    blob = seal(SEALING, bytes(2 * CHUNK_BYTES - 8), purpose="model", context=b"job")
    step = CHUNK_BYTES + TAG_BYTES
    head, parts = blob[:HEAD_BYTES], [blob[HEAD_BYTES + at * step :][:step] for at in (0, 1)]
    assert unseal(SEALING, head + b"".join(parts), purpose="model", context=b"job") == bytes(
        2 * CHUNK_BYTES - 8
    )
    with pytest.raises(SealError):
        unseal(SEALING, head + b"".join(parts[index] for index in order), purpose="model", context=b"job")


def test_chunks_of_two_blobs_under_one_key_cannot_be_exchanged() -> None:
    size = 2 * CHUNK_BYTES - 8
    left, right = (seal(SEALING, bytes(size), purpose="model", context=b"job") for _ in range(2))
    last = CHUNK_BYTES + TAG_BYTES
    with pytest.raises(SealError, match="chunk 1 does not authenticate"):
        unseal(SEALING, left[:-last] + right[-last:], purpose="model", context=b"job")


def test_two_blobs_under_one_key_use_two_cipher_keys_even_where_their_nonces_collide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: b"p" * size if size == PREFIX_BYTES else real(size))
    left, right = (seal(SEALING, SECRET, purpose="model", context=b"job")[HEAD_BYTES:] for _ in range(2))
    difference = sum(a != b for a, b in zip(left, right, strict=True))
    assert difference > len(left) // 2  # the same key and nonce would give the same ciphertext


def test_an_envelope_is_no_sealed_blob_even_under_its_own_data_key() -> None:
    key = unwrap_key(io.BytesIO(SMALL), private=KEY, purpose="data", context=b"job")
    with pytest.raises(SealError):
        unseal(key, SMALL, purpose="data", context=b"job")
    with pytest.raises(EnvelopeError, match="another enclave"):
        unwrap_key(io.BytesIO(SEALED), private=KEY, purpose="model", context=b"job")


@given(st.binary(max_size=100))
def test_a_wrapped_key_of_any_bytes_is_an_envelope_error(wrapped: bytes) -> None:
    for content in (wrapped, bytes(32) + wrapped):  # 32 zeros: a point of low order
        raw = StreamHead(bytes(32), bytes(32), bytes(7), content).to_bytes()
        with pytest.raises(EnvelopeError):
            unwrap_key(io.BytesIO(raw), private=KEY, purpose="data", context=b"job")


@pytest.mark.parametrize("plaintext", [b"", b"7 bytes", b"\xff" * 8, b"\1" + bytes(7)])
def test_a_party_that_encrypts_a_false_length_gets_an_envelope_error(plaintext: bytes) -> None:
    """Whoever holds the data key can authenticate any first chunk."""
    key = bytes(32)
    head = fresh_head(key, b"")
    cipher = AESGCM(derive_key(key, "stream", salt=head.salt))
    sealed = cipher.encrypt(
        NONCE.pack(head.prefix, 0, 1), plaintext, associated_data(head, binding_of("data", b"job"))
    )
    with pytest.raises(EnvelopeError, match=r"length|cut off"):
        list(
            read_envelope(io.BytesIO(head.to_bytes() + sealed), data_key=key, purpose="data", context=b"job")
        )


class Trickle(io.BytesIO):
    """A source that gives at most 1000 bytes a read, as a pipe or an unbuffered file may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(1000, -1 if size is None else size))


def test_a_source_that_gives_few_bytes_at_a_time_loses_none() -> None:
    sink = io.BytesIO()
    write_envelope(Trickle(SECRET), sink, recipient=KEY.public_bytes, purpose="data", context=b"job")
    assert opened(sink.getvalue()) == SECRET
    key = unwrap_key(Trickle(sink.getvalue()), private=KEY, purpose="data", context=b"job")
    chunks = read_envelope(Trickle(sink.getvalue()), data_key=key, purpose="data", context=b"job")
    assert b"".join(chunks) == SECRET


class Shrinking(io.BytesIO):
    """A source that ends before the size that it said."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size) if self.tell() == 0 else b""


def test_a_source_that_shrinks_while_it_is_read_is_an_error_and_not_zeros() -> None:
    with pytest.raises(EnclaveError, match="lost 8 of 1048576 bytes"):
        write_envelope(
            Shrinking(bytes(CHUNK_BYTES)),
            io.BytesIO(),
            recipient=KEY.public_bytes,
            purpose="data",
            context=b"job",
        )


def test_sixty_four_mebibytes_go_through_in_the_memory_of_a_few_chunks(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "envelope"
    with plain.open("wb") as whole:
        whole.truncate(64 * CHUNK_BYTES)
    tracemalloc.start()
    try:
        with plain.open("rb") as source, path.open("wb") as sink:
            write_envelope(source, sink, recipient=KEY.public_bytes, purpose="data", context=b"job")
        with path.open("rb") as source:
            key = unwrap_key(source, private=KEY, purpose="data", context=b"job")
            source.seek(0)
            total = sum(map(len, read_envelope(source, data_key=key, purpose="data", context=b"job")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 64 * CHUNK_BYTES
    assert peak < 8 * CHUNK_BYTES


def test_an_envelopes_digest_is_its_files_and_its_size_the_plaintexts(tmp_path: Path) -> None:
    path = tmp_path / "envelope"
    with path.open("wb") as sink:
        info = write_envelope(
            io.BytesIO(b"abc"), sink, recipient=KEY.public_bytes, purpose="p", context=b"", padded_bytes=1000
        )
    assert info.digest == envelope_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.plaintext_bytes == 3


def test_an_oversized_wrapped_key_is_refused() -> None:
    changed = bytearray(SMALL)
    changed[HEAD_BYTES - 2 : HEAD_BYTES] = b"\xff\xff"
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
