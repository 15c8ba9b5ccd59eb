"""Chunked authenticated encryption, the STREAM construction: constant memory, no reordering, no truncation.

Source: Hoang, Reyhanitabar, Rogaway, Vizar, "Online authenticated-encryption and its nonce-reuse
misuse-resistance", CRYPTO 2015, section 6 (STREAM): AES-256-GCM per chunk, nonce = prefix, counter, last.
The cipher's key is derived anew for each stream from a random salt in its head (as Tink's AES-GCM-HKDF
streaming does): a nonce is too short to be random under a sealing key that lives for years (NIST SP 800-38D,
section 8.3). A key-check value in the head commits to the key, which GCM alone does not.
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
SALT_BYTES = 32
PREFIX_BYTES = 7
MAX_WRAPPED_BYTES = 1 << 12
_MAGIC = b"CHS2"
_HEAD = struct.Struct(f"<4s{SALT_BYTES}s32s{PREFIX_BYTES}sH")  # magic to length of the wrapped key
NONCE = struct.Struct(">7sIB")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream's first bytes; `wrapped` is the data key encrypted to a recipient, if to any."""

    salt: bytes
    check: bytes
    prefix: bytes
    wrapped: bytes

    def to_bytes(self) -> bytes:
        """Return the encoding."""
        return _HEAD.pack(_MAGIC, self.salt, self.check, self.prefix, len(self.wrapped)) + self.wrapped


def read_head(source: IO[bytes]) -> StreamHead:
    """Read a stream's head.

    Raises:
        EnclaveError: the source does not start as a stream.
    """
    raw = read_exactly(source, _HEAD.size)
    if len(raw) != _HEAD.size or raw[:4] != _MAGIC:
        raise EnclaveError("this is no encrypted file of Chiron's, or its head is cut off")
    _, salt, check, prefix, length = _HEAD.unpack(raw)
    if length > MAX_WRAPPED_BYTES:
        raise EnclaveError(f"a wrapped key of {length} bytes is over the limit of {MAX_WRAPPED_BYTES}")
    wrapped = read_exactly(source, length)
    if len(wrapped) != length:
        raise EnclaveError("the head of the encrypted file is cut off")
    return StreamHead(salt, check, prefix, wrapped)


def encrypt_stream(
    source: IO[bytes],
    write: Callable[[bytes], object],
    *,
    key: bytes,
    binding: bytes,
    wrapped: bytes = b"",
    padded_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Encrypt everything in a seekable source; return its size in bytes.

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
        EnclaveError: the source shrank while it was read.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    total = _LENGTH.size + (size if padded_bytes is None else padded_bytes)
    if size > total - _LENGTH.size:
        raise ValueError(f"{size} bytes do not fit a padded size of {padded_bytes}")
    head = fresh_head(key, wrapped)
    write(head.to_bytes())
    cipher, associated = AESGCM(derive_key(key, "stream", salt=head.salt)), associated_data(head, binding)
    done, left = 0, size
    while done < total:
        room = min(CHUNK_BYTES, total - done)
        start = _LENGTH.pack(size) if done == 0 else b""
        content = read_exactly(source, min(left, room - len(start)))
        left -= len(content)
        chunk = (start + content).ljust(room, b"\0")
        done += room
        nonce = NONCE.pack(head.prefix, (done - 1) // CHUNK_BYTES, done == total)
        write(cipher.encrypt(nonce, chunk, associated))  # CONF-1: ciphertext alone leaves
        if progress is not None:
            progress(done - _LENGTH.size)
    if left:
        raise EnclaveError(f"the source lost {left} of {size} bytes while it was read: encrypt it again")
    return size


def decrypt_stream(source: IO[bytes], *, key: bytes, binding: bytes) -> Iterator[bytes]:
    """Yield the plaintext in chunks, without its padding. Nothing unauthenticated is ever yielded.

    Raises:
        EnclaveError: another key or binding, or the stream was changed, cut, reordered or extended.
    """
    head = read_head(source)
    if not hmac.compare_digest(head.check, derive_key(key, "key check", salt=head.salt)):
        raise EnclaveError("the key is not the one that this was encrypted with")
    cipher, associated = AESGCM(derive_key(key, "stream", salt=head.salt)), associated_data(head, binding)
    chunk, index, left = read_exactly(source, CHUNK_BYTES + TAG_BYTES), 0, 0
    while chunk:
        following = read_exactly(source, CHUNK_BYTES + TAG_BYTES)
        try:
            plain = cipher.decrypt(NONCE.pack(head.prefix, index, not following), chunk, associated)
        except (InvalidTag, ValueError) as error:
            text = f"chunk {index} does not authenticate: changed, cut, reordered or bound to something else"
            raise EnclaveError(text) from error
        if index == 0:
            if len(plain) < _LENGTH.size:  # whoever holds the data key may have written anything
                raise EnclaveError("the encrypted file does not start with its length")
            (left,) = _LENGTH.unpack_from(plain)
            plain = plain[_LENGTH.size :]
        yield plain[:left]
        left -= min(left, len(plain))
        chunk, index = following, index + 1
    if index == 0 or left:
        raise EnclaveError("the encrypted file is cut off")


def fresh_head(key: bytes, wrapped: bytes) -> StreamHead:
    """Return a head with a fresh salt and nonce prefix."""
    salt = os.urandom(SALT_BYTES)
    return StreamHead(salt, derive_key(key, "key check", salt=salt), os.urandom(PREFIX_BYTES), wrapped)


def read_exactly(source: IO[bytes], size: int) -> bytes:
    """Read until there are `size` bytes or the end: an unbuffered file may give fewer at a time."""
    content = source.read(size)
    while len(content) < size and (more := source.read(size - len(content))):
        content += more
    return content


def associated_data(head: StreamHead, binding: bytes) -> bytes:
    """Return what every chunk is bound to: the whole head and the caller's binding."""
    digest = Hash(SHA256())
    encoded = head.to_bytes()
    digest.update(len(encoded).to_bytes(8, "little") + encoded + binding)
    return digest.finalize()
