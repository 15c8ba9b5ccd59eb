"""Simulated enclaves, for machines without the hardware. They protect nothing, and say so everywhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enclave.errors import EnclaveError
from enclave.evidence import REPORT_DATA_BYTES, EvidenceFormat, Measurement
from enclave.keys import derive_key
from enclave.reference import ReferenceValues

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT_KEY_FILE, SEALING_FILE, PUBLIC_ROOT_FILE = "root.key", "sealing.key", "root.pub"
REAL_DEVICE = Path("/dev/attestation/attestation_type")  # Gramine, "Attestation and secret provisioning"
SIGNATURE_DOMAIN = b"chiron-sim-insecure quote v1\0"
KEY_BYTES = 32


def create_simulated_cpu(folder: Path) -> bytes:
    """Make the keys that stand for a CPU's and its maker's; return the public root key (32 bytes).

    Raises:
        OSError: the folder exists already, or cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True)
    root = Ed25519PrivateKey.generate()
    public = root.public_key().public_bytes_raw()
    secrets = {ROOT_KEY_FILE: root.private_bytes_raw(), SEALING_FILE: os.urandom(KEY_BYTES)}
    for name, content in secrets.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(content)
    (folder / PUBLIC_ROOT_FILE).write_bytes(public)
    return public


def quote_body(measurement: Measurement, report_data: bytes, issued_at: int) -> bytes:
    """Return what a simulated quote's signature covers, as CBOR."""
    fields = {
        "format": EvidenceFormat.SIMULATED.value,
        "measurement": measurement,
        "report_data": report_data,
        "issued_at": issued_at,
    }
    return cbor2.dumps(fields, canonical=True)


@dataclass(frozen=True, slots=True)
class _SimulatedCpu:
    root: Ed25519PrivateKey
    sealing_root: bytes


class SimulatedAttester:
    """Signs quotes with a key from a file. Whoever reads the file can forge any simulated enclave."""

    simulated = True
    format = EvidenceFormat.SIMULATED

    def __init__(
        self,
        cpu: Path,
        measurement: Measurement,
        *,
        real_device: Path = REAL_DEVICE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open a simulated CPU for code with this measurement.

        Raises:
            EnclaveError: this is a real enclave, where nothing is simulated; or the CPU's files are damaged.
        """
        if real_device.exists():  # ATT-4
            raise EnclaveError(f"{real_device} exists: inside a real enclave nothing is simulated")
        try:
            root = Ed25519PrivateKey.from_private_bytes((cpu / ROOT_KEY_FILE).read_bytes())
            self._cpu = _SimulatedCpu(root, (cpu / SEALING_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise EnclaveError(f"the simulated CPU in {cpu} is missing or damaged: make a new one") from error
        self._measurement = measurement
        self._now = now

    def attest(self, report_data: bytes) -> bytes:
        """Return a simulated quote over exactly 64 bytes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        body = quote_body(self._measurement, report_data, int(self._now()))
        return cbor2.dumps([body, self._cpu.root.sign(SIGNATURE_DOMAIN + body)], canonical=True)

    def sealing_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only this measurement on this simulated CPU gets for this purpose."""
        return derive_key(self._cpu.sealing_root, f"seal {self._measurement} {purpose}")

    def own_reference(self) -> ReferenceValues:
        """Return the values that an enclave of the same code on this simulated CPU must match."""
        public = self._cpu.root.public_key().public_bytes_raw()
        return ReferenceValues(EvidenceFormat.SIMULATED, self._measurement, public)
