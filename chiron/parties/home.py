"""A party's own directory: its signing key and the reference values it trusts. Never on the platform."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chiron.parties.errors import PartyError
from enclave import EnclaveError, ReferenceValues, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

KEY_FILE, REFERENCE_FILE = "party.key", "reference.json"


@dataclass(frozen=True, slots=True)
class Home:
    """What a party holds: an Ed25519 key, and the values that Evidence must match."""

    signer: Ed25519PrivateKey
    reference: ReferenceValues


def create_home(folder: Path, reference: Path) -> Home:
    """Make a new key directory with a copy of the reference values.

    Raises:
        PartyError: the directory holds a key already (it is never overwritten), cannot be written, or the
            values do not parse.
    """
    if (folder / KEY_FILE).exists():
        raise PartyError(f"{folder} already holds a key: use it, or choose another --home")
    values = _reference(reference)
    signer = Ed25519PrivateKey.generate()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_atomically(folder / REFERENCE_FILE, values.to_json())
        descriptor = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(signer.private_bytes_raw())
    except OSError as error:
        text = f"{folder} cannot be made a key directory ({error.strerror})"
        raise PartyError(f"{text}: choose another --home") from error
    return Home(signer, values)


def open_home(folder: Path) -> Home:
    """Read a key directory.

    Raises:
        PartyError: it is missing or damaged.
    """
    try:
        signer = Ed25519PrivateKey.from_private_bytes((folder / KEY_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise PartyError(f"{folder} holds no usable key: make one with `init --reference FILE`") from error
    return Home(signer, _reference(folder / REFERENCE_FILE))


def _reference(path: Path) -> ReferenceValues:
    try:
        return ReferenceValues.from_json(path.read_bytes())
    except OSError as error:
        raise PartyError(
            f"reference values {path} cannot be read: write them with `chiron reference`"
        ) from error
    except EnclaveError as error:
        raise PartyError(f"reference values {path} do not parse: {error}") from error
