"""A party's own directory: its key, and the reference values and policy it trusts. Never on the platform."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chiron.parties.errors import PartyError
from chiron.policy.loader import load_policy, parse_policy, policy_bytes
from chiron.training.node import POLICY
from enclave import EnclaveError, ReferenceValues, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from chiron.policy.types import Policy

KEY_FILE, REFERENCE_FILE, POLICY_FILE = "party.key", "reference.json", "policy.toml"


@dataclass(frozen=True, slots=True)
class Home:
    """What a party holds: an Ed25519 key, the values that Evidence must match, and the policy it trusts."""

    signer: Ed25519PrivateKey
    reference: ReferenceValues
    policy: Policy


def create_home(folder: Path, reference: Path, *, policy: Path | None = None) -> Home:
    """Make a new key directory with copies of the reference values and the policy (None: the installed).

    Raises:
        PartyError: the directory holds a key already (it is never overwritten), cannot be written, the
            values do not parse, or are of another policy.
        PolicyError: the policy cannot be read or breaks a rule.
    """
    if (folder / KEY_FILE).exists():
        raise PartyError(f"{folder} already holds a key: use it, or choose another --home")
    values, raw = open_reference(reference), policy_bytes(policy)
    trusted = parse_policy(raw)
    if values.require.get(POLICY, b"").hex() != trusted.digest:
        raise PartyError("the reference values are of another policy: name theirs with --policy FILE")
    signer = Ed25519PrivateKey.generate()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_atomically(folder / REFERENCE_FILE, values.to_json())
        write_atomically(folder / POLICY_FILE, raw)
        descriptor = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(signer.private_bytes_raw())
    except OSError as error:
        text = f"{folder} cannot be made a key directory ({error.strerror})"
        raise PartyError(f"{text}: choose another --home") from error
    return Home(signer, values, trusted)


def open_home(folder: Path) -> Home:
    """Read a key directory.

    Raises:
        PartyError: it is missing or damaged.
        PolicyError: so is its policy.
    """
    try:
        signer = Ed25519PrivateKey.from_private_bytes((folder / KEY_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise PartyError(f"{folder} holds no usable key: make one with `init --reference FILE`") from error
    return Home(signer, open_reference(folder / REFERENCE_FILE), load_policy(folder / POLICY_FILE))


def open_reference(path: Path) -> ReferenceValues:
    """Read reference values.

    Raises:
        PartyError: they cannot be read, or do not parse.
    """
    try:
        return ReferenceValues.from_json(path.read_bytes())
    except OSError as error:
        raise PartyError(
            f"reference values {path} cannot be read: write them with `chiron reference`"
        ) from error
    except EnclaveError as error:
        raise PartyError(f"reference values {path} do not parse: {error}") from error
