"""Sealing: authenticated encryption under an enclave's own key, bound to a purpose and a context."""

from __future__ import annotations

import io

from enclave.errors import EnclaveError, SealError
from enclave.stream import decrypt_stream, encrypt_stream


def seal(key: bytes, plaintext: bytes, *, purpose: str, context: bytes) -> bytes:
    """Return a sealed blob; its size depends on the plaintext's size alone.

    Args:
        key: from `Attester.sealing_key`, 32 bytes.
        plaintext: what to seal.
        purpose: what it is for; unsealing needs the same.
        context: what it is bound to besides, such as a job.
    """
    blob = bytearray()
    encrypt_stream(io.BytesIO(plaintext), blob.extend, key=key, binding=_binding(purpose, context))
    return bytes(blob)


def unseal(key: bytes, blob: bytes, *, purpose: str, context: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        SealError: another measurement's key, another purpose or context, or the blob was changed or cut.
    """
    try:
        return b"".join(decrypt_stream(io.BytesIO(blob), key=key, binding=_binding(purpose, context)))
    except EnclaveError as error:
        raise SealError(f"the sealed blob does not open: {error}") from error


def _binding(purpose: str, context: bytes) -> bytes:
    encoded = purpose.encode()
    return b"chiron seal v1\0" + len(encoded).to_bytes(4, "little") + encoded + context
