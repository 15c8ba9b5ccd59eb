"""The ledger of each data set: what all jobs on it were charged, kept sealed on the platform's disk.

Which data set it is: the lead computes it from what it decrypted, by HMAC-SHA-256 under a sealing key over
the user's signing key and the digest of the data set's chunks, which are rows, targets and zeros. Encrypting
the same data anew, for another job or at another start of the lead, finds the same ledger; so does declaring
another number of targets.

What an attacker can do, and what not:

- The platform sees one file for each data set, and the public offer says what was spent: everybody sees
  that a user has trained on the same data set here before. The content shows nowhere: the HMAC's key does
  not leave enclaves of this code.
- Nobody confirms a guess of another's data by submitting it: submissions are signed, and another key has
  another ledger.
- One changed, added or reordered row makes another data set, and so does another key. What counts as one is
  the user's choice: a ledger protects users from repeated jobs, and no operator from a user who evades it.
- A file that the platform changed, cut or exchanged stops the job. It can delete one or put an older one
  back, and two leads on two copies of the folder do not see each other: that gives bits back and is not
  noticed yet (the pending promise SERVE-6).
- Two deployments have two ledgers. So has one before and after a change of code or policy, because sealing
  keys belong to a measurement.

A charge is on the disk before the job goes on to the phase in which its guest may read a row. A crash in
between loses bits and never gains them.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from typing import TYPE_CHECKING, NewType

from chiron.policy.kernel import Charged
from chiron.training.wire import canonical, parse_map
from enclave import seal, unseal, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from chiron.guest_api.monitor import Monitor
    from chiron.training.submission import PartyKey
    from enclave import Attester

DataSetId = NewType("DataSetId", str)
"""Keyed digest of a user's key and content, in hexadecimal."""

_PURPOSE = "ledger"


class Ledgers:
    """The ledgers in one folder. One object for each lead: its lock keeps two jobs out of the same bits."""

    def __init__(self, folder: Path, attester: Attester) -> None:
        self._folder, self._attester, self._lock = folder, attester, threading.Lock()

    def identify(self, user: PartyKey, content: bytes) -> DataSetId:
        """Return which data set this is, by its chunks' SHA-256; see the module's text for what counts."""
        digest = hmac.new(self._attester.sealing_key("data set identity"), user, hashlib.sha256)
        digest.update(content)
        return DataSetId(digest.hexdigest())

    def spent(self, data_set: DataSetId) -> dict[str, int]:
        """Return what jobs on a data set were charged, in bits for each observer; nothing without a file.

        Raises:
            SealError: the file was changed, or is another data set's.
            OSError: the platform's disk refused.
        """
        try:
            blob = self._path(data_set).read_bytes()
        except FileNotFoundError:
            return {}
        return parse_map(unseal(self._key, blob, purpose=_PURPOSE, context=data_set.encode()))

    def charge(self, data_set: DataSetId, monitor: Monitor) -> Mapping[str, int] | None:
        """End the phase that charges a job; return its bits for each observer, once they are on the disk.

        Where the ledger does not hold them, the kernel has ended the job and this returns None.

        Raises:
            SealError, OSError: see `spent`; the job must end.
        """
        with self._lock:
            monitor.note_spent(self.spent(data_set))
            charged = next((e for e in monitor.finish_phase() if isinstance(e, Charged)), None)
            if charged is None:
                return None
            self._commit(data_set, monitor.state.spent)  # NI-9: before the guest may read a row
            return charged.bits

    def _commit(self, data_set: DataSetId, spent: Mapping[str, int]) -> None:
        blob = seal(self._key, canonical(dict(spent)), purpose=_PURPOSE, context=data_set.encode())
        write_atomically(self._path(data_set), blob)

    @property
    def _key(self) -> bytes:
        return self._attester.sealing_key(_PURPOSE)

    def _path(self, data_set: DataSetId) -> Path:
        return self._folder / f"{data_set}.ledger"
