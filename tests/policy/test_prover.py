"""The prover: the policy in force is proved, and each weakening of kernel, policy or axioms is refuted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import z3
from realjob import CHECKOUT

from chiron.policy import kernel
from chiron.policy.header import Header, combinations, decode_header, encode_header, phase_ticks
from chiron.policy.kernel import Frame, Release, Reply, State, Step
from chiron.policy.loader import load_policy
from chiron.policy.types import Content, Label, Policy, Principal
from prover import labels
from prover.attack import attack, show
from prover.obligations import prove
from prover.reach import reachable
from prover.symbolic import symbolic_ticks, term_of
from prover.unwinding import comparable
from prover.world import alike, alike_jobs, any_job

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

POLICY = load_policy()
PUBLIC, OPERATOR = Label(), Label(frozenset({Principal("operator")}))


def changed(**parts: dict[str, Any]) -> Policy:
    """Return the policy with entries of its mappings replaced."""
    merged: dict[str, Any] = {name: {**getattr(POLICY, name), **new} for name, new in parts.items()}
    return replace(POLICY, **merged)


def test_the_policy_in_force_is_proved_for_every_observer() -> None:
    proof = prove(POLICY)
    assert proof.failures == []
    assert proof.obligations > 1000


def test_every_phase_is_reached_and_creation_with_and_without_the_data_sets_label() -> None:
    with symbolic_ticks():
        places = {(place.phase, len(place.label.owners)) for place in reachable(POLICY)}
    assert {phase for phase, _ in places} == set(POLICY.phases)
    assert {("Create", 1), ("Create", 2), ("Configure", 1)} <= places
    assert ("Configure", 2) not in places


def test_no_attack_is_found_on_the_policy_in_force() -> None:
    assert attack(POLICY, "operator", pairs=3000) is None


# Weakened policies: rule, observer and the words of the first failure

OUTCOME, HEADER_RELEASE = POLICY.declassifiers["outcome"], POLICY.declassifiers["header"]
CREATE, SEAL, APPROVE = (POLICY.phases[name] for name in ("Create", "Seal", "Approve"))
WEAKENED = {
    "a release without one of its owners": (
        changed(declassifiers={"outcome": replace(OUTCOME, source=OPERATOR)}),
        "release 'outcome'",
    ),
    "a header that is declared after taint": (
        changed(
            calls={"header": replace(POLICY.calls["header"], phases=frozenset({"Configure", "Create"}))},
            phases={
                "Configure": replace(POLICY.phases["Configure"], release=()),
                "Create": replace(CREATE, release=("header",)),
            },
        ),
        "the job's price",
    ),
    "no charge": (changed(phases={"Approve": replace(APPROVE, charge=False)}), "a charged job"),
    "a phase that comes again": (changed(phases={"Seal": replace(SEAL, next="Create")}), "phase"),
    "a cap of one bit less": (
        replace(POLICY, leak_cap_bits={**POLICY.leak_cap_bits, "operator": 810}),
        "leak cap",
    ),
    "an end that still tells": (
        changed(phases={"Ended": replace(POLICY.phases["Ended"], release=("outcome",))}),
        "the last phase stays",
    ),
}


@pytest.mark.parametrize("name", sorted(WEAKENED))
def test_a_weakened_policy_is_refuted(name: str) -> None:
    policy, words = WEAKENED[name]
    (failure,) = prove(policy, first_only=True).failures
    assert words in str(failure)


def test_a_failure_names_observer_rule_phase_and_the_way_there() -> None:
    policy, _ = WEAKENED["a header that is declared after taint"]
    failures = [f for f in prove(policy, phase="Create").failures if f.observer == "operator"]
    assert {f.rule for f in failures} == {"tick consistency"}
    assert any(f.way == ("tick", "tick", "statistics") for f in failures)


def test_a_refuted_policy_shows_two_runs_that_an_observer_can_tell_apart() -> None:
    policy, _ = WEAKENED["a header that is declared after taint"]
    trace = attack(policy, "platform")
    assert trace is not None
    text = show("platform", trace)
    assert text.count("<-- differs") == 1
    assert "release header" in text.splitlines()[-1]
    assert text.splitlines()[0].split() == ["phase", "run", "1", "run", "2", "platform", "sees"]


# Sabotage of the kernel itself: the prover runs that code, so it must notice


def forgets_labels(policy: Policy, state: State, name: str, payload: Content) -> Step:
    after, reply, events = REAL_CALL(policy, state, name, payload)
    return replace(after, label=state.label), reply, events


def writes_down(policy: Policy, state: State, name: str, payload: Content) -> Step:
    blind = replace(state, label=PUBLIC)
    after, reply, events = REAL_CALL(policy, blind, name, payload)
    return replace(after, label=state.label.join(after.label)), reply, events


def tells_of_denials(policy: Policy, state: State, name: str, payload: Content) -> Step:
    after, reply, events = REAL_CALL(policy, state, name, payload)
    return (
        after,
        reply,
        (kernel.Stopped(kernel.StopReason.PLATFORM_FAULT),) if reply is Reply.DENIED else events,
    )


def trims_frames(policy: Policy, state: State, trusted: dict[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    trimmed = [replace(e, size_bytes=e.content.size) if isinstance(e, Frame) else e for e in events]
    return after, reply, tuple(trimmed)


def ends_slots_early(policy: Policy, state: State, trusted: dict[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    return (after if state.alive else replace(after, ticks_left=1)), reply, events


def forgets_budgets(policy: Policy, state: State, trusted: dict[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    return replace(after, uses=state.uses), reply, events


def releases_wide(policy: Policy, state: State, name: str, trusted: dict[str, int]) -> Release:
    return replace(REAL_RELEASE(policy, state, name, trusted), value=trusted.get(name, 0))


def charges_nothing(policy: Policy, state: State) -> tuple[State, tuple[kernel.Event, ...]]:
    after, events = REAL_ADVANCE(policy, state)
    return replace(after, spent=state.spent), events


REAL_CALL, REAL_TICK = kernel._call, kernel._tick
REAL_RELEASE, REAL_ADVANCE = kernel._release, kernel._advance
SABOTAGE: dict[str, tuple[str, Callable[..., Any], str]] = {  # what is replaced, and a phase to look at
    "a read that leaves the label as it was": ("_call", forgets_labels, "Create"),
    "a denial that shows": ("_call", tells_of_denials, "Configure"),
    "a frame as long as its content": ("_tick", trims_frames, "Configure"),
    "a slot that ends with its guest": ("_tick", ends_slots_early, "Train"),
    "a release that is not counted": ("_tick", forgets_budgets, "Seal"),
    "a release wider than declared": ("_release", releases_wide, "Seal"),
    "a ledger that is not written": ("_advance", charges_nothing, "Approve"),
}


@pytest.mark.parametrize("name", sorted(SABOTAGE))
def test_a_sabotaged_kernel_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, weakened, phase = SABOTAGE[name]
    monkeypatch.setattr(kernel, place, weakened)
    assert prove(POLICY, first_only=True, phase=phase).failures


def test_a_log_that_a_tainted_guest_may_call_is_safe_only_because_a_write_looks_at_the_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = changed(
        calls={"log": replace(POLICY.calls["log"], phases=frozenset({"Create"}))},
        phases={"Create": replace(CREATE, frames=("operator_log",))},
    )
    assert prove(policy, phase="Create").failures == []
    monkeypatch.setattr(kernel, "_call", writes_down)
    (failure,) = prove(policy, first_only=True, phase="Create").failures
    assert (failure.observer, failure.rule) == ("operator", "local respect")


def test_an_obligation_that_the_solver_cannot_decide_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(z3.Solver, "check", lambda *_: z3.unknown)
    assert prove(POLICY, first_only=True).failures


# The relation is an equivalence, and its two runs share no more than it says


def pairs() -> list[tuple[str, Any, Any]]:
    with symbolic_ticks():
        places = reachable(POLICY)
    return [
        (observer, left, right)
        for observer, clearance in POLICY.observers.items()
        for left in places
        for right in places
        if comparable(clearance, left, right)
    ]


def test_two_runs_that_are_made_alike_are_alike_and_share_only_what_the_relation_makes_equal() -> None:
    for observer, left, right in pairs():
        clearance = POLICY.observers[observer]
        one, two = alike_jobs(POLICY, clearance, (left, right))
        equal = alike(POLICY, clearance, one.state, two.state)
        assert all(z3.is_true(z3.simplify(term)) for term in equal.values())
        sinks = {name for name in POLICY.sinks if one.state.sinks[name] is two.state.sinks[name]}
        assert sinks == {name for name in POLICY.sinks if f"content of sink {name!r}" in equal}
        shared = z3.eq(term_of(one.state.alive), term_of(two.state.alive))
        assert shared == ("whether the guest runs" in equal)


def test_being_alike_is_symmetric_and_transitive() -> None:
    for observer, left, right in pairs():
        clearance = POLICY.observers[observer]
        first, second = (any_job(POLICY, run, left.phase, left.label).state for run in ("1", "2"))
        third = any_job(POLICY, "3", right.phase, right.label).state

        def related(one: State, other: State, clearance: Label = clearance) -> Any:  # noqa: ANN401  a z3 term
            return z3.And(*alike(POLICY, clearance, one, other).values())

        for hypotheses, goal in (
            ([related(first, third)], related(third, first)),
            ([related(first, second), related(second, third)], related(first, third)),
        ):
            solver = z3.Solver()
            assert solver.check(*hypotheses, z3.Not(goal)) == z3.unsat


# Axioms


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (changed(sources={"dataset": PUBLIC}), "source dataset = {}"),
        (changed(sinks={"graph": replace(POLICY.sinks["graph"], label=OPERATOR)}), "sink graph = {operator}"),
        (changed(declassifiers={"loss": replace(POLICY.declassifiers["loss"], to=PUBLIC)}), "release loss"),
        (changed(observers={"platform": OPERATOR}), "observer platform = {operator}"),
        (replace(POLICY, guest_label=PUBLIC), "guest = {}"),
        (
            changed(calls={"statistics": replace(POLICY.calls["statistics"], read="schema")}),
            "call statistics reads schema",
        ),
        (changed(ledger_cap_bits={"operator": 1 << 20}), "ledger cap operator = 1048576"),
    ],
)
def test_a_changed_axiom_is_no_longer_the_locked_one(policy: Policy, words: str) -> None:
    drift = labels.drift(policy)
    assert any(words in line and "make relock" in line for line in drift)


def test_the_locked_axioms_are_those_of_the_policy_in_force() -> None:
    assert labels.drift(POLICY) == []


def test_a_data_set_that_is_relabelled_public_fails_the_build(tmp_path: Any) -> None:  # noqa: ANN401  a path
    text = (CHECKOUT / "spec" / "policy.toml").read_text().replace('dataset = ["user"]', "dataset = []")
    (tmp_path / "policy.toml").write_text(text)
    command = [sys.executable, "-m", "prover", "--json", "--policy", str(tmp_path / "policy.toml")]
    done = subprocess.run(
        command, cwd=CHECKOUT / "spec", capture_output=True, text=True, check=False, timeout=120
    )
    found = json.loads(done.stdout)
    assert (done.returncode, found["proved"]) == (1, False)
    assert any("source dataset" in line for line in found["failures"])


# What the prover leaves open: every header gives every phase a length of at least one tick


def test_every_header_gives_every_phase_at_least_one_tick() -> None:
    numbers = range(0, combinations(POLICY.menus) + 1, 7)  # coprime to the menus' sizes: every entry of each
    for number in numbers:
        for phase in POLICY.phases:
            assert phase_ticks(POLICY, phase, header=number, rows_class=64) >= 1


def test_a_phases_length_is_its_headers() -> None:
    header = Header(epochs=3, batch=16, workers=2, parameters=4096, slot_ms=5, create_ms=1000)
    number = encode_header(POLICY.menus, header)
    assert decode_header(POLICY.menus, number) == header
    assert phase_ticks(POLICY, "Seal", header=number, rows_class=64) == 3
    assert phase_ticks(POLICY, "Train", header=number, rows_class=64) == 6 + 600
    assert phase_ticks(POLICY, "Serve", header=number, rows_class=64) == 1000
    assert phase_ticks(POLICY, "Seal", header=0, rows_class=64) == 1
