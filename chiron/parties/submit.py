"""Encrypts a guest or a data set to the appraised lead and hands it to the platform."""

from __future__ import annotations

import io
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.guest_api.chunks import chunks_of
from chiron.guest_api.dataset import Dataset
from chiron.guest_api.limits import compile_guest
from chiron.guest_api.transforms import GUEST_PADDED_BYTES
from chiron.parties.errors import PartyError
from chiron.parties.platform import attested
from chiron.training.node import HPKE, Role
from chiron.training.submission import JobId, Kind, draft_manifest, write_submission
from wasm_sandbox import GuestRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from chiron.parties.home import Home
    from chiron.parties.platform import Platform
    from chiron.parties.shuffle import Shuffled
    from chiron.policy.types import Policy
    from chiron.training.submission import Manifest


def new_job_id() -> JobId:
    """Return a fresh random job id."""
    return JobId(secrets.token_hex(16))


def submit_guest(
    platform: Platform, home: Home, *, policy: Policy, guest: bytes, job: JobId, seed: int
) -> Manifest:
    """Check a guest, encrypt it to the lead and upload it.

    Raises:
        PartyError: the guest is refused before it leaves the operator, or the lead or platform refuses.
    """
    try:
        compile_guest(policy, guest)
    except GuestRefusedError as error:
        raise PartyError(f"the guest is refused: {error}") from error
    padded = -(-max(len(guest), 1) // GUEST_PADDED_BYTES) * GUEST_PADDED_BYTES
    draft = draft_manifest(Kind.GUEST, job, signer=home.signer, seed=seed)
    return _submit(platform, home, io.BytesIO(guest), draft=draft, padded_bytes=padded)


def submit_dataset(
    platform: Platform,
    home: Home,
    *,
    dataset: Dataset | Shuffled,
    job: JobId,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Encrypt a data set to the lead chunk by chunk and upload it; `progress` is told the bytes done so far.

    Raises:
        PartyError: the lead or the platform refuses.
    """
    draft = draft_manifest(Kind.DATASET, job, signer=home.signer, schema=dataset.schema)
    chunks = chunks_of(dataset) if isinstance(dataset, Dataset) else dataset.chunks()
    return _submit(
        platform, home, io.BufferedReader(_Chunks(chunks)), draft=draft, padded_bytes=0, progress=progress
    )


class _Chunks(io.RawIOBase):
    """Chunks as a file that is read one chunk at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  any writable buffer
        view = memoryview(buffer).cast("B")
        self._left = self._left or next(self._chunks, b"")
        some = self._left[: len(view)]
        view[: len(some)] = some
        self._left = self._left[len(some) :]
        return len(some)


def _submit(
    platform: Platform,
    home: Home,
    plaintext: BinaryIO,
    *,
    draft: Manifest,
    padded_bytes: int,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    with attested(platform, home, Role.LEAD) as channel:
        if channel.peer is None:
            raise PartyError("the lead showed no Evidence: it is not trusted")
        recipient = channel.peer.statements[HPKE]
    with tempfile.TemporaryDirectory(prefix="chiron-") as folder:  # it only ever holds ciphertext
        path = Path(folder) / draft.kind.value
        with path.open("w+b") as sink:
            manifest = write_submission(
                sink,
                plaintext,
                draft=draft,
                signer=home.signer,
                recipient=recipient,
                padded_bytes=padded_bytes,
                progress=progress,
            )
        platform.upload(draft.job, draft.kind.value, path)
    return manifest
