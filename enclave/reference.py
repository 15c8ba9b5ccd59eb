"""Reference values: what a relying party demands of Evidence (RFC 9334, section 8.3)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enclave.errors import EnclaveError
from enclave.evidence import EvidenceFormat, Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping

DAY_S = 86_400
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """What Evidence must show.

    Args:
        format: the one format accepted; simulated Evidence counts only where it is named here.
        measurement: the code's measurement.
        root_key: public key of the root that signs quotes (Ed25519, 32 bytes, for simulated ones).
        require: statements that must be there with exactly this value.
        max_age_s: how old Evidence may be, in seconds.
    """

    format: EvidenceFormat
    measurement: Measurement
    root_key: bytes
    require: Mapping[str, bytes] = field(default_factory=dict)
    max_age_s: int = DAY_S

    def to_json(self) -> bytes:
        """Return the file's content."""
        fields = {
            "format": self.format.value,
            "measurement": self.measurement,
            "root_key": self.root_key.hex(),
            "require": {name: value.hex() for name, value in self.require.items()},
            "max_age_s": self.max_age_s,
        }
        return json.dumps(fields, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> ReferenceValues:
        """Parse what `to_json` wrote; no field has a default.

        Raises:
            EnclaveError: a field is missing, unknown or of the wrong form.
        """
        try:
            return cls._from_fields(json.loads(raw, object_pairs_hook=_unique))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EnclaveError("reference values are malformed: write them again") from error

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> ReferenceValues:
        if set(fields) != set(cls.__dataclass_fields__):
            raise EnclaveError(f"reference values have exactly the fields {sorted(cls.__dataclass_fields__)}")
        measurement, age = fields["measurement"], fields["max_age_s"]
        root_key = bytes.fromhex(fields["root_key"])
        if not re.fullmatch(r"[0-9a-f]{64}", measurement) or len(root_key) != _KEY_BYTES:
            raise EnclaveError(
                "reference values need a measurement of 64 hexadecimal digits and a 32-byte root key"
            )
        if type(age) is not int or age < 0:
            raise EnclaveError("max_age_s in reference values is a whole number of seconds, 0 or more")
        return cls(
            format=EvidenceFormat(fields["format"]),
            measurement=Measurement(measurement),
            root_key=root_key,
            require={name: bytes.fromhex(value) for name, value in fields["require"].items()},
            max_age_s=age,
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's fields; two of one name would be read differently by different readers."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise EnclaveError("reference values hold a field twice: write them again")
    return fields
