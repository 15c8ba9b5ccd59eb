"""Reads spec/policy.toml once into frozen types. Unknown keys, missing keys and dangling names are errors."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from chiron.policy.header import FIELDS, combinations
from chiron.policy.releases import DATA_SET, job_bits
from chiron.policy.types import (
    Declassifier,
    GuestLimits,
    HeaderMenus,
    HostCallRule,
    Label,
    Phase,
    Policy,
    PolicyDigest,
    PolicyError,
    Principal,
    ServingRules,
    Sink,
)

Table = dict[str, Any]  # a parsed TOML table, before its keys and types are checked
VERSION = 1
DERIVED_TICKS = ("slots", "epochs", "answers")
SECTIONS = (
    "version", "name", "observers", "leak_cap_bits", "ledger_cap_bits", "guest", "sources", "sinks", "phases",
    "calls", "declassify", "header", "limits", "serving",
)  # fmt: skip
LIMIT_FIELDS = tuple(GuestLimits.__dataclass_fields__)
SERVING_FIELDS = tuple(ServingRules.__dataclass_fields__)


def spec_folder() -> Path:
    """Return the folder with the policy and the guest interface: of the checkout, else of the wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return checkout / "spec" if (checkout / "pyproject.toml").is_file() else package / "_spec"


def load_policy(path: Path | None = None) -> Policy:
    """Read and check a policy file; without a path, the one that is installed.

    Raises:
        PolicyError: the file is missing, is not TOML or breaks a rule; the text names key and rule.
    """
    return parse_policy(policy_bytes(path))


def policy_bytes(path: Path | None = None) -> bytes:
    """Return a policy file's bytes, which its digest is of; without a path, the one that is installed.

    Raises:
        PolicyError: the file cannot be read.
    """
    path = path or spec_folder() / "policy.toml"
    try:
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(f"policy file {path} cannot be read: {error.strerror}") from error


def parse_policy(raw: bytes) -> Policy:
    """Parse a policy from its bytes; the digest is SHA-256 over exactly these bytes.

    Raises:
        PolicyError: see `load_policy`.
    """
    try:
        table = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy is not TOML: {error}") from error
    return policy_from_table(table, PolicyDigest(hashlib.sha256(raw).hexdigest()))


def policy_from_table(table: Table, digest: PolicyDigest) -> Policy:
    """Check a parsed policy file and return it as a policy.

    Raises:
        PolicyError: see `load_policy`.
    """
    try:
        return _policy(table, digest)
    except (TypeError, AttributeError, KeyError) as error:
        raise PolicyError(f"the policy has a value of the wrong type: {error}") from error


def _policy(table: Table, digest: PolicyDigest) -> Policy:
    _exactly(table, SECTIONS, "the policy")
    if table["version"] != VERSION:
        raise PolicyError(f"policy version {table['version']} is unknown: this runtime reads {VERSION}")
    _exactly(table["guest"], ("label",), "[guest]")
    _exactly(table["header"], FIELDS, "[header]")
    _exactly(table["limits"], LIMIT_FIELDS, "[limits]")
    _exactly(table["serving"], SERVING_FIELDS, "[serving]")
    policy = Policy(
        name=str(table["name"]),
        digest=digest,
        observers={name: _label(owners) for name, owners in table["observers"].items()},
        leak_cap_bits={name: _count(bits, name) for name, bits in table["leak_cap_bits"].items()},
        ledger_cap_bits={name: _count(bits, name) for name, bits in table["ledger_cap_bits"].items()},
        guest_label=_label(table["guest"]["label"]),
        sources={name: _label(owners) for name, owners in table["sources"].items()},
        sinks={name: _sink(name, entry) for name, entry in table["sinks"].items()},
        phases={name: _phase(name, entry) for name, entry in table["phases"].items()},
        calls={name: _call(name, entry) for name, entry in table["calls"].items()},
        declassifiers={name: _declassifier(name, entry) for name, entry in table["declassify"].items()},
        menus=HeaderMenus(tuple((name, _menu(name, table["header"][name])) for name in FIELDS)),
        limits=GuestLimits(**{name: _count(table["limits"][name], name) for name in LIMIT_FIELDS}),
        serving=ServingRules(**{name: _count(table["serving"][name], name) for name in SERVING_FIELDS}),
    )
    _check_names(policy)
    _check_bits(policy)
    return policy


def _exactly(table: Table, keys: tuple[str, ...], where: str, *, optional: tuple[str, ...] = ()) -> None:
    if unknown := sorted(set(table) - set(keys) - set(optional)):
        raise PolicyError(f"{where} has unknown keys {unknown}: remove them")
    if missing := sorted(set(keys) - set(table)):
        raise PolicyError(f"{where} lacks the keys {missing}: add them")


def _label(owners: list[str]) -> Label:
    return Label(frozenset(Principal(owner) for owner in _strings(owners)))


def _strings(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise PolicyError('a list of names was expected: write it as ["name", ...]')
    return tuple(values)


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PolicyError(f"{where!r} must be a whole number of at least 0")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{where!r} must be true or false")
    return value


def _menu(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not values or values != sorted(set(values)):
        raise PolicyError(f"the menu {name!r} must be a rising list of at least one number")
    if min(_count(value, name) for value in values) < 1:  # a phase of no ticks would release and cost nothing
        raise PolicyError(f"the menu {name!r} must hold numbers of at least 1")
    return tuple(values)


def _sink(name: str, entry: Table) -> Sink:
    _exactly(entry, ("label", "bytes"), f"[sinks.{name}]")
    return Sink(_label(entry["label"]), _count(entry["bytes"], name))


def _phase(name: str, entry: Table) -> Phase:
    keys = ("ticks", "next", "frames", "release")
    _exactly(entry, keys, f"[phases.{name}]", optional=("fresh", "charge"))
    ticks = entry["ticks"]
    if ticks not in DERIVED_TICKS and _count(ticks, name) < 1:
        raise PolicyError(f"[phases.{name}] must last at least one tick or one of {list(DERIVED_TICKS)}")
    return Phase(
        ticks,
        str(entry["next"]),
        _strings(entry["frames"]),
        _strings(entry["release"]),
        fresh=_flag(entry.get("fresh", False), name),
        charge=_flag(entry.get("charge", False), name),
    )


def _call(name: str, entry: Table) -> HostCallRule:
    _exactly(entry, ("phases",), f"[calls.{name}]", optional=("read", "write"))
    if ("read" in entry) == ("write" in entry):
        raise PolicyError(f"[calls.{name}] must have either 'read' or 'write'")
    return HostCallRule(frozenset(_strings(entry["phases"])), entry.get("read"), entry.get("write"))


def _declassifier(name: str, entry: Table) -> Declassifier:
    _exactly(entry, ("input", "from", "to", "bits", "uses"), f"[declassify.{name}]")
    return Declassifier(
        input=str(entry["input"]),
        source=_label(entry["from"]),
        to=_label(entry["to"]),
        bits=_count(entry["bits"], name),
        uses=_count(entry["uses"], name),
    )


def _check_names(policy: Policy) -> None:
    """Every name that a rule mentions must exist, and labels may only name known principals."""
    principals = frozenset[Principal]().union(*(label.owners for label in policy.observers.values()))
    labels = [policy.guest_label, *policy.sources.values(), *(s.label for s in policy.sinks.values())]
    labels += [label for d in policy.declassifiers.values() for label in (d.source, d.to)]
    used = frozenset[Principal]().union(*(label.owners for label in labels))
    calls, phases = policy.calls.values(), policy.phases.values()
    references = (
        ("principal", used, principals),
        ("phase", {p.next for p in phases}.union(*(c.phases for c in calls)), policy.phases),
        ("source", {c.read for c in calls if c.read is not None}, policy.sources),
        ("sink", {c.write for c in calls if c.write is not None}, policy.sinks),
        ("sink", {name for p in phases for name in p.frames}, policy.sinks),
        ("declassifier", {name for p in phases for name in p.release}, policy.declassifiers),
        ("sink", {d.input for d in policy.declassifiers.values()} - {"trusted"}, policy.sinks),
        ("observer", set(policy.leak_cap_bits), policy.observers),
        ("observer", set(policy.ledger_cap_bits), policy.observers),
        ("ledger cap", policy.observers, policy.ledger_cap_bits),
        ("source", {DATA_SET}, policy.sources),
        ("declassifier", {"header", "answer"}, policy.declassifiers),
        ("phase", {"Ended"}, policy.phases),
    )
    for kind, mentioned, known in references:
        if dangling := sorted(set(mentioned) - set(known)):
            raise PolicyError(f"the policy mentions the undeclared {kind}: {dangling}")


def _check_bits(policy: Policy) -> None:
    """The header must fit its bits, and what the declassifiers release must fit every observer's cap."""
    needed = combinations(policy.menus).bit_length()
    if policy.declassifiers["header"].bits < needed:
        raise PolicyError(
            f"[declassify.header] needs {needed} bits for the menus: raise 'bits' or shorten them"
        )
    for observer, clearance in policy.observers.items():
        bits = job_bits(policy, clearance)
        if bits > policy.leak_cap_bits.get(observer, 0):  # NI-6
            raise PolicyError(
                f"observer {observer!r} may learn {bits} bits, over its leak cap: lower bits or uses"
            )
