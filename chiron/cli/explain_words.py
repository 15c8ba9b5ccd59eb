"""Turns what `chiron.parties.explain` found into plain sentences."""

from __future__ import annotations

import datetime as dt
import textwrap
from typing import TYPE_CHECKING

from chiron.parties.explain import SIMULATED_PROTECTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chiron.parties.explain import Facts

WIDTH = 100  # columns
TICKS = {
    "slots": "a tick for each slot of the exchange, as many as public header and schema say",
    "epochs": "a tick for each epoch of the public header",
    "answers": "a tick for each answer that may be released",
}


def in_words(facts: Facts) -> str:
    """Return the facts as plain sentences."""
    lines = _receipt(facts["receipt"]) if "receipt" in facts else []
    if "policy" in facts:
        lines += _policy(facts)
    lines += ["", "Not covered", *(f"  {text}" for text in facts["not_covered"])]
    if facts.get("receipt", {}).get("simulated", True):
        lines.append(f"  {SIMULATED_PROTECTS}")
    return "\n".join(_wrapped(line) for line in lines)


def _wrapped(line: str) -> str:
    """Return a line in the width of a page; what a terminal would obey and not print is a question mark."""
    clean = "".join(c if c.isprintable() else "?" for c in line)
    inner = " " * (len(clean) - len(clean.lstrip()) + 2)
    return textwrap.fill(
        clean, WIDTH, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False
    )


def _receipt(stated: Facts) -> list[str]:
    when = dt.datetime.fromtimestamp(stated["finished_at"], dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    verified = "NOT VERIFIED: anybody could have written this file. Give --home DIR to verify it."
    if stated["verified"]:
        verified = "VERIFIED: Evidence of a lead, its signature and both parties' approvals hold."
    kind = "SIMULATED" if stated["simulated"] else "hardware"
    slots, slot_ms = stated["slots"], stated["header"]["slot_ms"]
    lines = [
        f"Receipt of job {stated['job']}, which ended at {when}: {stated['outcome']}.",
        verified,
        f"Its enclaves are {kind} (Evidence of the format {stated['evidence_format']}).",
        f"Approved by the operator {stated['operator']}",
        f"  and the user {stated['user']}.",
        f"Guest, encrypted: SHA-256 {stated['guest']}, seed {stated['seed']}.",
        f"Data set, encrypted: SHA-256 {stated['dataset']}.",
        f"Public schema: {_pairs(stated['schema'])}.",
        f"Public header: {_pairs(stated['header'])}.",
        f"Training took {slots} slots of {slot_ms} ms, with frames of {stated['frame_bytes']} bytes.",
        "Charged to the data set's ledger, in bits of it, and the most each may learn of others' secrets:",
        *(_charge(stated, who) for who in stated["bits"]),
        f"Differentially private training: {stated['private_training'] or 'off'}.",
    ]
    if not stated["policy_in_force"]:
        lines.append(f"Its policy, SHA-256 {stated['policy']}, is not the one here: explain that file.")
    return [*lines, ""]


def _charge(stated: Facts, who: str) -> str:
    ledger = stated["ledger"]
    return (
        f"  {who}: charged {stated['charged'][who]}, {ledger['spent'][who]} before the offer,"
        f" {ledger['left'][who]} left then; learns at most {_bits(stated['bits'][who])}."
    )


def _policy(facts: Facts) -> list[str]:
    policy, serving, header = facts["policy"], facts["serving"], facts["header"]
    lines = [f"Policy {policy['name']}", f"SHA-256 {policy['digest']}", "", "Who may learn what"]
    for name, observer in facts["observers"].items():
        lines += _observer(name, observer, facts)
    lines.append("  Everybody sees the public schema, the phases, and the sizes and times of frames.")
    lines += ["", "What the guest may do", *_guest(facts), "", "What leaves, and when"]
    for phase in facts["timeline"]:
        lines += _phase(phase, facts)
    grid_ms, answer_bytes = serving["grid_ms"], serving["answer_bytes"]
    lines.append(f"  Answers leave on a grid of {grid_ms} ms, each in {answer_bytes} bytes.")
    lines.append(f"  Each transform of a request takes {serving['transform_ms']} ms, half of it the guest's.")
    lines += ["", f"The public header: one of {header['headers']}, with one entry of each menu"]
    return [*lines, *(f"  {name}: {_list(map(str, menu), 'or')}." for name, menu in header["menus"].items())]


def _observer(name: str, observer: Facts, facts: Facts) -> list[str]:
    in_job, cap = _bits(observer["job_bits"]), observer["leak_cap_bits"]
    of_data, ledger = _bits(observer["data_set_bits"]), observer["ledger_cap_bits"]
    lines = [
        f"  The {name}, who may see the secrets of {_list(observer['sees_secrets_of'])}:",
        f"    In a job it learns at most {in_job} of others' secrets; the policy's cap is {cap}.",
        f"    At most {of_data} of them come from the data set, whose ledger allows {ledger} over all jobs.",
    ]
    lines += [f"    {_release(each, facts['releases'][each])}" for each in observer["learns"]]
    if observer["sees_of_its_own"]:
        lines.append(f"    It also sees, made from its own secrets: {_list(observer['sees_of_its_own'])}.")
    if observer["reads_frames"]:
        lines.append(f"    It reads the frames of {_list(observer['reads_frames'])}.")
    return lines


def _release(name: str, release: Facts) -> str:
    secrets = f"the secrets of {_list(release['carries_secrets_of'])}"
    made = f"The guest writes it to {release['input']}, from {secrets}."
    if release["input"] == "trusted":
        made = f"Trusted code computes it from {secrets}."
    when = f"at ticks of {_list(release['phases'])}" if release["phases"] else "in no phase, so never"
    times = "once" if release["uses"] == 1 else f"{release['uses']} times"
    text = f"{name}: {release['meaning']}. {_bits(release['bits'])}, at most {times}, {when}. {made}"
    owners = release["needs_clearance_for"]
    sees = f"Whoever may see the secrets of {_list(owners)} sees it." if owners else "Everybody sees it."
    return f"{text} {sees}"


def _guest(facts: Facts) -> list[str]:
    lines = [f"  It starts with the secrets of {_list(facts['guest']['starts_with_secrets_of'])}."]
    for name, call in facts["calls"].items():
        does = f"writes to {call['write']}" if call["read"] is None else f"reads {call['read']}"
        lines.append(f"  In {_list(call['phases'], nothing='no phase')} it may call {name}, which {does}.")
    for name, owners in facts["sources"].items():
        gives = f"the secrets of {_list(owners)}, which it then carries" if owners else "public values"
        lines.append(f"  Reading {name} gives it {gives}.")
    for name, sink in facts["sinks"].items():
        owners = _list(sink["cleared_for"])
        lines.append(f"  {name} takes {sink['bytes']} bytes, while it carries secrets of {owners} only.")
    return [*lines, f"  One run of it is limited to {_pairs(facts['guest']['limits'])}."]


def _phase(phase: Facts, facts: Facts) -> list[str]:
    lines = [f"  {phase['phase']} lasts {_length(phase['ticks'])}; after it comes {phase['next']}."]
    if phase["calls"]:
        lines.append(f"    The guest may call {_list(phase['calls'])}.")
    if phase["fresh"]:
        lines.append("    Each tick starts a new instance of the guest.")
    for frame in phase["frames"]:
        readers = _list(frame["content_for"])
        lines.append(
            f"    A tick sends a frame of {frame['sink']}: {frame['bytes']} bytes, for {readers} to read."
        )
    for name in phase["releases"]:
        release = facts["releases"][name]
        lines.append(
            f"    A tick releases {name}: {_bits(release['bits'])}, for {_list(release['seen_by'])}."
        )
    if phase["exchange"]:
        lines.append("    In each slot, encrypted frames of one size go between workers and server.")
    if not (phase["frames"] or phase["releases"] or phase["exchange"]):
        lines.append("    Nothing leaves.")
    if phase["charge"]:
        lines.append(
            "    At its end the job is charged to the data set's ledger, or refused if that is spent."
        )
    return lines


def _length(ticks: int | str) -> str:
    if isinstance(ticks, str):
        return TICKS[ticks]
    return "1 tick" if ticks == 1 else f"{ticks} ticks"


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"


def _list(names: Iterable[str], word: str = "and", *, nothing: str = "nobody") -> str:
    every = list(names)
    if not every:
        return nothing
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} {word} {every[-1]}"


def _pairs(fields: Facts) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())
