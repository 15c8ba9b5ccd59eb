"""Key derivation: one root, one label a purpose."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


def derive_key(root: bytes, label: str, *, salt: bytes | None = None) -> bytes:
    """Return 32 bytes for one purpose (HKDF-SHA-256, RFC 5869; the label is its info)."""
    return HKDF(SHA256(), KEY_BYTES, salt=salt, info=b"chiron " + label.encode()).derive(root)
