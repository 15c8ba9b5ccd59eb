"""Chunked authenticated encryption, the STREAM construction: constant memory, no reordering, no truncation.

Source: Hoang, Reyhanitabar, Rogaway, Vizar, "Online authenticated-encryption and its nonce-reuse
misuse-resistance", CRYPTO 2015, section 6 (STREAM): AES-256-GCM per chunk, nonce = prefix, counter, last.
A key-check value in the header commits to the key, which GCM alone does not.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from enclave.errors import EnclaveError
from enclave.keys import derive_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
MAX_WRAPPED_BYTES = 1 << 12
_MAGIC = b"CHS1"
_HEAD = struct.Struct("<4s32s7sH")  # magic, key check, nonce prefix, length of the wrapped key
_NONCE = struct.Struct(">7sIB")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream's first bytes; `wrapped` is the data key encrypted to a recipient, if to any."""

    check: bytes
    prefix: bytes
    wrapped: bytes

    def to_bytes(self) -> bytes:
        """Return the encoding."""
        return _HEAD.pack(_MAGIC, self.check, self.prefix, len(self.wrapped)) + self.wrapped


def read_head(source: IO[bytes]) -> StreamHead:
    """Read a stream's head.

    Raises:
        EnclaveError: the source does not start as a stream.
    """
    raw = source.read(_HEAD.size)
    if len(raw) != _HEAD.size or raw[:4] != _MAGIC:
        raise EnclaveError("this is no encrypted file of Chiron's, or its head is cut off")
    _, check, prefix, length = _HEAD.unpack(raw)
    if length > MAX_WRAPPED_BYTES:
        raise EnclaveError(f"a wrapped key of {length} bytes is over the limit of {MAX_WRAPPED_BYTES}")
    wrapped = source.read(length)
    if len(wrapped) != length:
        raise EnclaveError("the head of the encrypted file is cut off")
    return StreamHead(check, prefix, wrapped)


def encrypt_stream(
    source: IO[bytes],
    write: Callable[[bytes], object],
    *,
    key: bytes,
    binding: bytes,
    wrapped: bytes = b"",
    padded_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Encrypt everything in a seekable source.

    Args:
        source: the plaintext.
        write: takes the ciphertext, in order.
        key: data key, 32 bytes.
        binding: what the ciphertext is bound to; decryption needs the same.
        wrapped: the key encrypted to a recipient, carried in the head.
        padded_bytes: the plaintext is filled up to this size, which alone shows.
        progress: told the plaintext bytes done so far.

    Raises:
        ValueError: the plaintext is larger than `padded_bytes`.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    total = _LENGTH.size + (size if padded_bytes is None else padded_bytes)
    if size > total - _LENGTH.size:
        raise ValueError(f"{size} bytes do not fit a padded size of {padded_bytes}")
    head = StreamHead(derive_key(key, "key check"), os.urandom(7), wrapped)
    write(head.to_bytes())
    cipher, associated = AESGCM(derive_key(key, "stream")), _associated(head, binding)
    done = 0
    while done < total:
        room = min(CHUNK_BYTES, total - done)
        start = _LENGTH.pack(size) if done == 0 else b""
        chunk = (start + source.read(room - len(start))).ljust(room, b"\0")
        done += room
        nonce = _NONCE.pack(head.prefix, (done - 1) // CHUNK_BYTES, done == total)
        write(cipher.encrypt(nonce, chunk, associated))  # CONF-1: ciphertext alone leaves
        if progress is not None:
            progress(min(done, total) - _LENGTH.size)


def decrypt_stream(source: IO[bytes], *, key: bytes, binding: bytes) -> Iterator[bytes]:
    """Yield the plaintext in chunks, without its padding. Nothing unauthenticated is ever yielded.

    Raises:
        EnclaveError: another key or binding, or the stream was changed, cut, reordered or extended.
    """
    head = read_head(source)
    if not hmac.compare_digest(head.check, derive_key(key, "key check")):
        raise EnclaveError("the key is not the one that this was encrypted with")
    cipher, associated = AESGCM(derive_key(key, "stream")), _associated(head, binding)
    chunk, index, left = source.read(CHUNK_BYTES + TAG_BYTES), 0, 0
    while chunk:
        following = source.read(CHUNK_BYTES + TAG_BYTES)
        try:
            plain = cipher.decrypt(_NONCE.pack(head.prefix, index, not following), chunk, associated)
        except (InvalidTag, ValueError) as error:
            text = f"chunk {index} does not authenticate: changed, cut, reordered or bound to something else"
            raise EnclaveError(text) from error
        if index == 0:
            (left,) = _LENGTH.unpack_from(plain)
            plain = plain[_LENGTH.size :]
        yield plain[:left]
        left -= min(left, len(plain))
        chunk, index = following, index + 1
    if index == 0 or left:
        raise EnclaveError("the encrypted file is cut off")


def _associated(head: StreamHead, binding: bytes) -> bytes:
    """Return what every chunk is bound to: the whole head and the caller's binding."""
    digest = Hash(SHA256())
    encoded = head.to_bytes()
    digest.update(len(encoded).to_bytes(8, "little") + encoded + binding)
    return digest.finalize()
