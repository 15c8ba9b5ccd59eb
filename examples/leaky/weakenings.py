# ruff: noqa: INP001 - a script
"""Policies and runtimes with a leak each, and the guest that uses it: what `chiron leaktest` must find.

python examples/leaky/weakenings.py                      # the list
python examples/leaky/weakenings.py log-in-create        # build, weaken, test: exit code 1 and the two runs
"""

from __future__ import annotations

import logging
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cli.main import main as chiron
from chiron.guest_api.monitor import Monitor
from chiron.leaktest.selfcheck import SABOTAGES, Sabotage
from chiron.parties.build import build
from chiron.policy.loader import policy_bytes, spec_folder
from chiron.training import wire

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
call, fault = Monitor.call, Monitor.fault


def fault_ends_the_slot(monitor: Monitor) -> None:
    """End the slot when the guest ends, as a scheduler would that does not wait for the clock."""
    fault(monitor)
    monitor.tick()


def denied_call_is_logged(monitor: Monitor, name: str, payload: bytes = b"") -> bool:
    """Log what a guest wrote where it may not write."""
    granted = call(monitor, name, payload)
    if not granted:
        logging.getLogger("chiron").warning("denied: %s %r", name, payload)
    return granted


def not_filled(message: dict[str, Any], _size: int) -> bytes:
    """Send a reply in the size that it happens to have."""
    return wire.canonical(message)


def sabotage(what: str) -> Sabotage:
    """Return one of the sabotages that every leak test must notice."""
    return next(each for each in SABOTAGES if each.what == what)


@dataclass(frozen=True, slots=True)
class Weakening:
    """One leak: the guest that uses it, who sees it, and what of policy (old, new) or runtime is weakened."""

    guest: str
    why: str
    observer: str = "operator"
    policy: tuple[tuple[str, str], ...] = ()
    runtime: Sabotage | None = None


def patched(target: Any, name: str, replacement: Callable[..., Any]) -> Sabotage:  # noqa: ANN401
    """Return a weakening of the runtime."""
    return Sabotage(name, target, name, replacement, ())


OF_THE_OPERATOR = ('dataset = ["user"]', 'dataset = ["operator"]')
ENOUGH = (
    "platform = 10 ",
    "platform = 160 ",
)  # of the ledger, for what the platform sees of the operator's data
CREATE = 'next = "Train"\nframes = []\nrelease = []'
LOGGED = ('[calls.log]\nphases = ["Configure"]', '[calls.log]\nphases = ["Configure", "Create"]')
WEAKENINGS = {
    "log-in-create": Weakening(
        "tells", "the debug log stays open while the guest sees data, which count as the operator's",
        policy=(
            OF_THE_OPERATOR,
            ENOUGH,
            LOGGED,
            (CREATE, CREATE.replace("frames = []", 'frames = ["operator_log"]')),
        ),
    ),
    "graph-for-the-operator": Weakening(
        "copies", "the operator gets the graph back to look at",
        policy=(
            OF_THE_OPERATOR,
            ENOUGH,
            ('[sinks.graph]\nlabel = ["operator", "user"]', '[sinks.graph]\nlabel = ["operator"]'),
            (CREATE, CREATE.replace("frames = []", 'frames = ["graph"]')),
        ),
    ),
    "outcome-from-the-plan": Weakening(
        "plans", "the guest says itself whether it succeeded, in the lowest bit of its plan",
        policy=(
            ('[declassify.outcome]\ninput = "trusted"', '[declassify.outcome]\ninput = "plan"'),
            (CREATE, CREATE.replace("release = []", 'release = ["outcome"]')),
        ),
    ),
    "log-for-everybody": Weakening(
        "greets", "the operator's code counts as public, and its log with it", observer="user",
        policy=(
            ('[guest]\nlabel = ["operator"]', "[guest]\nlabel = []"),
            ('[sinks.operator_log]\nlabel = ["operator"]', "[sinks.operator_log]\nlabel = []"),
        ),
    ),
    "debug-print": Weakening("plans", "a print was left in", runtime=sabotage("a call prints a value")),
    "debug-log": Weakening(
        "plans", "a log line has a value", runtime=sabotage("a call logs a sum of the data")
    ),
    "cache-file": Weakening(
        "plans", "a cache is named by what it holds", runtime=sabotage("a file's name tells the data")
    ),
    "slot-ends-at-a-call": Weakening(
        "copies", "a call moves the clock", runtime=sabotage("a slot ends at a call of the guest")
    ),
    "graph-not-padded": Weakening(
        "copies", "the message with the graph is as long as the graph",
        runtime=sabotage("the message with the graph is not padded"),
    ),
    "trap-ends-the-slot": Weakening(
        "traps", "a trap is seen when it happens", runtime=patched(Monitor, "fault", fault_ends_the_slot)
    ),
    "denied-call-is-logged": Weakening(
        "tells", "the text of a refused call is kept for debugging",
        runtime=patched(Monitor, "call", denied_call_is_logged),
    ),
    "reply-not-filled": Weakening(
        "greets", "the reply with the log is as long as the log", observer="user",
        runtime=patched(wire, "filled", not_filled),
    ),
}  # fmt: skip


def weakened_policy(weakening: Weakening) -> bytes:
    """Return the policy with the weakening's changes."""
    text = policy_bytes(None).decode()
    for old, new in weakening.policy:
        if text.count(old) != 1:
            raise ValueError(f"the policy has {old!r} not exactly once")
        text = text.replace(old, new)
    return text.encode()


def leaktest(name: str, *more: str) -> int:
    """Build the guest, weaken policy or runtime, and run `chiron leaktest`."""
    weakening = WEAKENINGS[name]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        guest, policy = Path(folder) / "guest.wasm", Path(folder) / "policy.toml"
        build(HERE / weakening.guest, output=guest, sdk=spec_folder() / "sdk" / "c")
        policy.write_bytes(weakened_policy(weakening))
        if weakening.runtime is not None:
            stack.enter_context(weakening.runtime.on())
        options = ("--observer", weakening.observer, "--policy", str(policy), *more)
        return chiron(["leaktest", str(guest), *options])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(f"{name:24} {each.observer:9} {each.why}" for name, each in WEAKENINGS.items()))  # noqa: T201
    else:
        sys.exit(leaktest(*sys.argv[1:]))
