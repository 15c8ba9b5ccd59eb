"""Envelopes that are read from any place: chunks of one size, each authenticated at its own index.

AES-256-GCM per chunk under a key derived for this envelope alone, nonce = prefix, index, last (as in
enclave/stream.py); head, binding, chunk size and count are authenticated with every chunk, so one of another
envelope, place or length does not open. An envelope's digest is SHA-256 over its head and the SHA-256 of each
chunk: whoever has taken those in one pass knows every later reading of a chunk for the same, also where the
one who holds the key would show another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.envelope import EnvelopeInfo, binding_of, new_data_key
from enclave.errors import EnvelopeError
from enclave.keys import derive_key
from enclave.stream import NONCE, TAG_BYTES, StreamHead, associated_data, fresh_head, read_exactly, read_head

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CHUNKS = 1 << 32
_LAYOUT = struct.Struct("<QQ")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a plaintext is cut: `count` chunks of `chunk_bytes`."""

    chunk_bytes: int
    count: int

    def __post_init__(self) -> None:
        """Check the ranges (ValueError)."""
        if self.chunk_bytes < 1 or not 1 <= self.count <= MAX_CHUNKS:
            raise ValueError(f"chunks have at least one byte, and there are 1 to {MAX_CHUNKS} of them")


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """What one pass over an envelope tells: where its chunks start and each one's SHA-256.

    `digest` is the envelope's, in hexadecimal; 32 bytes of memory a chunk.
    """

    head: StreamHead
    start: int
    digests: bytes
    digest: str


def write_chunks(
    source: IO[bytes],
    sink: IO[bytes],
    *,
    recipient: bytes,
    purpose: str,
    context: bytes,
    chunking: Chunking,
    progress: Callable[[int], None] | None = None,
) -> EnvelopeInfo:
    """Encrypt a source chunk by chunk to one enclave; what it lacks at its end is filled with zeros.

    Args:
        source: the plaintext; read in order, a chunk at a time.
        sink: takes the envelope.
        recipient: the enclave's public key from its appraised Evidence, 32 bytes.
        purpose: what the envelope is for; opening needs the same.
        context: what it is bound to besides; opening needs the same.
        chunking: how it is cut, which is what shows.
        progress: told the plaintext bytes done so far.

    Raises:
        ValueError: the source holds more.
    """
    key, wrapped = new_data_key(recipient, purpose, context=context)
    head = fresh_head(key, wrapped)
    cipher, associated = _cipher(key, head), _associated(head, chunking, purpose=purpose, context=context)
    sink.write(head.to_bytes())
    digest, plaintext_bytes = hashlib.sha256(head.to_bytes()), 0
    for index in range(chunking.count):
        plain = read_exactly(source, chunking.chunk_bytes)
        plaintext_bytes += len(plain)
        filled = plain.ljust(chunking.chunk_bytes, b"\0")  # CONF-3: one size, whatever there is
        sealed = cipher.encrypt(_nonce(head, index, chunking), filled, associated)  # CONF-1
        digest.update(hashlib.sha256(sealed).digest())
        sink.write(sealed)
        if progress is not None:
            progress((index + 1) * chunking.chunk_bytes)
    if source.read(1):
        raise ValueError(
            f"the source holds more than {chunking.count} chunks of {chunking.chunk_bytes} bytes"
        )
    return EnvelopeInfo(digest.hexdigest(), plaintext_bytes)


def index_chunks(source: IO[bytes], chunking: Chunking) -> ChunkIndex:
    """Read an envelope that `source` stands at once to its end, in constant memory.

    Raises:
        EnvelopeError: it has another size than this chunking gives.
    """
    head = read_head(source)
    start = source.tell()
    whole, digests = hashlib.sha256(head.to_bytes()), bytearray()
    for index in range(chunking.count):
        sealed = read_exactly(source, chunking.chunk_bytes + TAG_BYTES)
        if len(sealed) != chunking.chunk_bytes + TAG_BYTES:
            raise EnvelopeError(f"the envelope is cut off in chunk {index}: encrypt and submit it again")
        digest = hashlib.sha256(sealed).digest()
        whole.update(digest)
        digests += digest
    if source.read(1):
        raise EnvelopeError(f"the envelope goes on behind its {chunking.count} chunks: submit it again")
    return ChunkIndex(head, start, bytes(digests), whole.hexdigest())


class ChunkReader:
    """Decrypts single chunks straight from the file, in constant memory. May be used by several threads."""

    def __init__(
        self,
        source: IO[bytes],
        index: ChunkIndex,
        *,
        chunking: Chunking,
        data_key: bytes,
        purpose: str,
        context: bytes,
    ) -> None:
        """Open an envelope that was indexed; `source` stays the caller's to close.

        Raises:
            EnvelopeError: the key is another one's.
        """
        if not hmac.compare_digest(index.head.check, derive_key(data_key, "key check", salt=index.head.salt)):
            raise EnvelopeError("the key is not the one that this was encrypted with")
        self._source, self._index, self._chunking = source, index, chunking
        self._cipher = _cipher(data_key, index.head)
        self._associated = _associated(index.head, chunking, purpose=purpose, context=context)
        self._lock = threading.Lock()

    def read(self, number: int) -> bytes:
        """Return a chunk's plaintext.

        Raises:
            EnvelopeError: what lies at its place is not what the index was made of, or does not authenticate.
            OSError: the platform lost the file.
        """
        if not 0 <= number < self._chunking.count:
            raise ValueError(f"there are {self._chunking.count} chunks")
        size = self._chunking.chunk_bytes + TAG_BYTES
        with self._lock:
            self._source.seek(self._index.start + number * size)
            sealed = read_exactly(self._source, size)
        expected = self._index.digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
        if not hmac.compare_digest(hashlib.sha256(sealed).digest(), expected):  # JOB-4
            raise EnvelopeError(
                f"chunk {number} is not the one that was there before: cut, exchanged or replayed"
            )
        try:
            nonce = _nonce(self._index.head, number, self._chunking)
            return self._cipher.decrypt(nonce, sealed, self._associated)
        except (InvalidTag, ValueError) as error:
            text = f"chunk {number} does not authenticate: changed, moved or bound to something else"
            raise EnvelopeError(text) from error


def _cipher(key: bytes, head: StreamHead) -> AESGCM:
    return AESGCM(derive_key(key, "chunks", salt=head.salt))


def _nonce(head: StreamHead, index: int, chunking: Chunking) -> bytes:
    return NONCE.pack(head.prefix, index, index == chunking.count - 1)


def _associated(head: StreamHead, chunking: Chunking, *, purpose: str, context: bytes) -> bytes:
    layout = b"chiron chunks v1\0" + _LAYOUT.pack(chunking.chunk_bytes, chunking.count)
    return associated_data(head, layout + binding_of(purpose, context))
