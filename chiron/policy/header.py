"""The public header: the one thing the operator's code says publicly, chosen from short menus."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from chiron.policy.types import PolicyError

if TYPE_CHECKING:
    from chiron.policy.types import HeaderMenus, Policy

FIELDS = ("epochs", "batch", "workers", "parameters", "slot_ms", "create_ms")

SPARE_MS = 3000  # workers build their engines beside the first slots; gradients may miss a tick


@dataclass(frozen=True, slots=True)
class Header:
    """What everybody may know of the training: each field is an entry of its menu in the policy.

    `batch` is rows a worker and step, `parameters` the size class of the parameter frames in float32 values,
    `slot_ms` the length of an exchange slot, `create_ms` the length of the slot that creates the model.
    """

    epochs: int
    batch: int
    workers: int
    parameters: int
    slot_ms: int
    create_ms: int

    def steps_per_epoch(self, rows_class: int) -> int:
        """Return the steps of one pass over `rows_class` rows (the public size class)."""
        return math.ceil(rows_class / (self.batch * self.workers))

    def as_dict(self) -> dict[str, int]:
        """Return the fields by name, for display and for signing."""
        return asdict(self)


def combinations(menus: HeaderMenus) -> int:
    """Return how many different headers the menus allow."""
    return math.prod(len(values) for _, values in menus.fields)


def encode_header(menus: HeaderMenus, header: Header) -> int:
    """Return the header as one number of at least 1 in mixed radix (0 is kept for "none declared").

    Raises:
        PolicyError: a field is not on its menu; the text names the field and the menu.
    """
    number = 0
    for name, values in menus.fields:
        chosen = getattr(header, name)
        if chosen not in values:
            raise PolicyError(f"header field {name!r} must be one of {list(values)}")
        number = number * len(values) + values.index(chosen)
    return number + 1


def decode_header(menus: HeaderMenus, number: int) -> Header | None:
    """Return the header for a released number, or None for zero. Total: large numbers wrap onto the menus."""
    if number == 0:
        return None
    rest = (number - 1) % combinations(menus)
    picked: dict[str, int] = {}
    for name, values in reversed(menus.fields):
        rest, index = divmod(rest, len(values))
        picked[name] = values[index]
    return Header(**picked)


def size_class(count: int) -> int:
    """Return `count` rounded up so that it tells at most O(log log count) bits.

    Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
    PoPETs 2019, section 4.2 (Padme): at most 12 % larger.
    """
    if count < 2:  # noqa: PLR2004  below two there is nothing to round
        return max(count, 1)
    exponent = count.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << max(low_bits, 0)) - 1
    return (count + mask) & ~mask


def slots_for(header: Header, rows_class: int) -> int:
    """Return the exchange slots of the whole training: one a step, and half as many (at least 3 s) to spare.

    A function of the public header and the public schema alone, so that the count of frames is one too.
    """
    steps = header.epochs * header.steps_per_epoch(rows_class)
    return steps + max(math.ceil(SPARE_MS / header.slot_ms), steps // 2)


def phase_ticks(policy: Policy, phase: str, *, header: int, rows_class: int) -> int:
    """Return a phase's length in ticks, at least 1, for a header's number and the public size class of rows.

    A length derived from the header is 1 where there is none.
    """
    ticks = policy.phases[phase].ticks
    if isinstance(ticks, int):
        return ticks
    if ticks == "answers":
        return policy.declassifiers["answer"].uses
    declared = decode_header(policy.menus, header)
    if declared is None:
        return 1
    return slots_for(declared, rows_class) if ticks == "slots" else declared.epochs
