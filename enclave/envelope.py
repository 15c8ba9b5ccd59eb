"""Envelopes: a data key wrapped to one enclave (HPKE, RFC 9180), and the bulk under that key."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from enclave.errors import EnclaveError, EnvelopeError
from enclave.stream import decrypt_stream, encrypt_stream, read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class HpkeKey:
    """An enclave's key for envelopes; made at its start, never stored."""

    private: X25519PrivateKey

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()


def generate_hpke_key() -> HpkeKey:
    """Return a fresh key."""
    return HpkeKey(X25519PrivateKey.generate())


@dataclass(frozen=True, slots=True)
class EnvelopeInfo:
    """SHA-256 of an envelope, in hexadecimal, which is public; the plaintext's size, which is its owner's."""

    digest: str
    plaintext_bytes: int


def write_envelope(
    source: IO[bytes],
    sink: IO[bytes],
    *,
    recipient: bytes,
    purpose: str,
    context: bytes,
    padded_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> EnvelopeInfo:
    """Encrypt a seekable source to one enclave, in constant memory.

    Args:
        source: the plaintext.
        sink: takes the envelope.
        recipient: the enclave's public key from its appraised Evidence, 32 bytes.
        purpose: what the envelope is for; opening needs the same.
        context: what it is bound to besides; opening needs the same.
        padded_bytes: size that the plaintext is filled up to, which alone shows.
        progress: told the plaintext bytes done so far.

    Raises:
        ValueError: the plaintext is larger than `padded_bytes`.
        EnclaveError: the source shrank while it was read.
    """
    digest = hashlib.sha256()

    def write(data: bytes) -> None:
        digest.update(data)
        sink.write(data)

    data_key, wrapped = new_data_key(recipient, purpose, context=context)
    plaintext_bytes = encrypt_stream(
        source,
        write,
        key=data_key,
        binding=binding_of(purpose, context),
        wrapped=wrapped,
        padded_bytes=padded_bytes,
        progress=progress,
    )
    return EnvelopeInfo(digest.hexdigest(), plaintext_bytes)


def new_data_key(recipient: bytes, purpose: str, *, context: bytes) -> tuple[bytes, bytes]:
    """Return a fresh data key and the same key encrypted to one enclave's public key (32 bytes)."""
    key = os.urandom(_KEY_BYTES)
    info = binding_of(purpose, context)
    return key, _SUITE.encrypt(key, X25519PublicKey.from_public_bytes(recipient), info=info)


def envelope_digest(path: Path) -> str:
    """Return SHA-256 of an envelope's file, in hexadecimal, as `EnvelopeInfo` has it."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def unwrap_key(source: IO[bytes], *, private: HpkeKey, purpose: str, context: bytes) -> bytes:
    """Return the data key of an envelope that `source` stands at.

    Raises:
        EnvelopeError: it is for another enclave, purpose or context, or is no envelope.
    """
    try:
        head = read_head(source)
        return _SUITE.decrypt(head.wrapped, private.private, info=binding_of(purpose, context))  # CONF-2
    except EnclaveError as error:
        raise EnvelopeError(str(error)) from error
    except (InvalidTag, ValueError) as error:
        text = "the envelope is encrypted to another enclave, or for another purpose or context"
        raise EnvelopeError(f"{text}: encrypt it to this enclave's key") from error


def read_envelope(source: IO[bytes], *, data_key: bytes, purpose: str, context: bytes) -> Iterator[bytes]:
    """Yield the plaintext of an envelope that `source` stands at, in chunks and without its padding.

    Raises:
        EnvelopeError: another key, purpose or context, or the envelope was changed, cut or reordered.
    """
    try:
        yield from decrypt_stream(source, key=data_key, binding=binding_of(purpose, context))
    except EnclaveError as error:
        raise EnvelopeError(str(error)) from error


def binding_of(purpose: str, context: bytes) -> bytes:
    """Return what an envelope's key and bulk are bound to."""
    encoded = purpose.encode()
    return b"chiron envelope v1\0" + len(encoded).to_bytes(4, "little") + encoded + context
