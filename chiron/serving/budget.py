"""The durable count of answers: written, synced and renamed before an answer leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.serving.errors import ServingError
from enclave import SealError, seal, unseal, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_PURPOSE = "budget"
_COUNT_BYTES = 8


class Budget:
    """How many answers a job has given. Sealed: the platform can lose it, but neither read nor change it.

    A platform that puts an older file back is not noticed yet; see the pending promises.
    """

    def __init__(self, path: Path, *, key: bytes, job: str) -> None:
        """Read the count, or start at zero where there is no file.

        Raises:
            ServingError: the file is not this job's or was changed.
        """
        self._path, self._key, self._context = path, key, job.encode()
        self.used = 0
        if path.exists():
            try:
                content = unseal(key, path.read_bytes(), purpose=_PURPOSE, context=self._context)
            except SealError as error:
                raise ServingError("the budget file was changed or is another job's: restore it") from error
            self.used = int.from_bytes(content, "little")

    def commit(self, used: int) -> None:
        """Make a new count durable.

        Raises:
            OSError: the platform's disk refused; then no answer may leave.
        """
        content = used.to_bytes(_COUNT_BYTES, "little")
        write_atomically(self._path, seal(self._key, content, purpose=_PURPOSE, context=self._context))
        self.used = used
