"""The policy as frozen types. Parsed once by the loader; everything past it relies on these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

Principal = NewType("Principal", str)
PolicyDigest = NewType("PolicyDigest", str)


class PolicyError(Exception):
    """Root of everything that chiron.policy raises; texts name the rule and the remedy, never data."""


@dataclass(frozen=True, slots=True)
class Label:
    """Principals whose secrets a value may carry. Ordered by inclusion; join is union.

    Source: Denning, "A lattice model of secure information flow", CACM 1976.
    """

    owners: frozenset[Principal] = frozenset()

    def join(self, other: Label) -> Label:
        """Return the least label that both flow to."""
        return Label(self.owners | other.owners)

    def flows_to(self, other: Label) -> bool:
        """Tell whether a value with this label may go where `other` is the clearance."""
        return self.owners <= other.owners


@dataclass(frozen=True, slots=True)
class Sink:
    """Where writes land: the secrecy it is cleared for and its capacity, which is also its frame's size."""

    label: Label
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a guest wrote: bytes, and how many."""

    data: bytes
    size: int

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Return these bytes as content."""
        return cls(data, len(data))

    def joined(self, other: Content) -> Content:
        """Return this, followed by the other."""
        return type(self)(self.data + other.data, self.size + other.size)

    def number(self) -> int:
        """Return the last eight bytes as an unsigned little-endian number; 0 where there are none."""
        return int.from_bytes(self.data[-8:], "little")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of clock ticks; `ticks` is a count or the name of a count derived from the public header.

    With `fresh` each tick starts a new instance of the guest. With `charge` the job is charged to its data
    set's ledger at the phase's end.
    """

    ticks: int | str
    next: str
    frames: tuple[str, ...]
    release: tuple[str, ...]
    fresh: bool = False
    charge: bool = False


@dataclass(frozen=True, slots=True)
class HostCallRule:
    """The phases that grant a host call and the source it reads or the sink it writes (exactly one)."""

    phases: frozenset[str]
    read: str | None
    write: str | None


@dataclass(frozen=True, slots=True)
class Declassifier:
    """A declared release: at most `uses` values of `bits` bits a job, to observers cleared for `to`."""

    input: str
    source: Label
    to: Label
    bits: int
    uses: int


@dataclass(frozen=True, slots=True)
class HeaderMenus:
    """The public header's menus: field name to its allowed values, in the order of the file."""

    fields: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """Limits of one run of a guest; bytes, milliseconds and wasmtime's units of fuel.

    `component_bytes` is the switch for Python guests: 0 refuses every component.
    """

    fuel: int
    memory_bytes: int
    table_elements: int
    stack_bytes: int
    module_bytes: int
    component_bytes: int
    host_calls: int
    configure_ms: int
    compile_ms: int
    component_compile_ms: int


@dataclass(frozen=True, slots=True)
class ServingRules:
    """How answers leave: on a grid, in bodies of one size, after transforms of `transform_ms` each."""

    grid_ms: int
    transform_ms: int
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the kernel and the runtime enforce, from one file with one digest."""

    name: str
    digest: PolicyDigest
    observers: Mapping[str, Label]
    leak_cap_bits: Mapping[str, int]
    ledger_cap_bits: Mapping[str, int]
    guest_label: Label
    sources: Mapping[str, Label]
    sinks: Mapping[str, Sink]
    phases: Mapping[str, Phase]
    calls: Mapping[str, HostCallRule]
    declassifiers: Mapping[str, Declassifier]
    menus: HeaderMenus
    limits: GuestLimits
    serving: ServingRules

    @property
    def first_phase(self) -> str:
        """The phase a job starts in: the first in the file."""
        return next(iter(self.phases))
