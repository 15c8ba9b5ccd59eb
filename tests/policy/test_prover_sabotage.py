"""Kernels that leak, or release more than they count, in ways that a reader misses: all refuted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from chiron.policy import kernel
from chiron.policy.kernel import Frame, Release, State, Step
from chiron.policy.loader import load_policy
from prover.obligations import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chiron.policy.types import Content, Policy

pytestmark = pytest.mark.nightly

POLICY = load_policy()
TRAIN = POLICY.phases["Train"]
LOGS_IN_TRAIN = replace(  # safe: a write looks at the label
    POLICY,
    calls={**POLICY.calls, "log": replace(POLICY.calls["log"], phases=frozenset({"Train"}))},
    phases={**POLICY.phases, "Train": replace(TRAIN, frames=("operator_log",))},
)
REAL_CALL, REAL_TICK = kernel._call, kernel._tick
REAL_RELEASE, REAL_ADVANCE = kernel._release, kernel._advance


def frames_a_sink_twice(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    log = policy.sinks["operator_log"]
    leak = Frame("operator_log", log.label, log.capacity_bytes, state.sinks["plan"])
    return after, reply, (leak, Frame("operator_log", log.label, log.capacity_bytes, kernel.EMPTY), *events)


def releases_twice(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    again = [event for event in events if isinstance(event, Release) and event.name == "loss"]
    return after, reply, (*events, *again)


def renews_a_budget(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    spent = state.uses.get("outcome", 0) > 0
    return replace(after, uses={**after.uses, "outcome": 0}) if spent else after, reply, events


def releases_another_value(policy: Policy, state: State, name: str, trusted: Mapping[str, int]) -> Release:
    release = REAL_RELEASE(policy, state, name, trusted)
    return replace(release, value=trusted.get("loss", 0) % 2**15) if name == "header" else release


def branches_on_another_value(policy: Policy, state: State, name: str, trusted: Mapping[str, int]) -> Release:
    release = REAL_RELEASE(policy, state, name, trusted)
    return replace(release, value=1) if name == "header" and trusted.get("loss", 0) > 0 else release


def ends_with_an_answer(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    answers = [event for event in events if isinstance(event, Release) and event.name == "answer"]
    ends = after.phase == "Serve" and any(event.value == 0 for event in answers)
    return replace(after, ticks_left=1) if ends else after, reply, events


def forgets_with_the_phase(policy: Policy, state: State) -> tuple[State, tuple[kernel.Event, ...]]:
    after, events = REAL_ADVANCE(policy, state)
    moved = after.phase not in {state.phase, kernel.LAST_PHASE}
    return replace(after, label=policy.guest_label, alive=True) if moved else after, events


def keeps_a_sink_of_its_own(policy: Policy, state: State, name: str, payload: Content) -> Step:
    after, reply, events = REAL_CALL(policy, state, name, payload)
    return replace(after, sinks={**after.sinks, "hidden": payload}), reply, events


def tells_by_frames_that_something_was_written(
    policy: Policy, state: State, trusted: Mapping[str, int]
) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    shown = tuple(e for e in events if not isinstance(e, Frame) or e.sink in state.sinks)
    return after, reply, shown


def forgets_what_is_empty(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = tells_by_frames_that_something_was_written(policy, state, trusted)
    return replace(after, sinks={}), reply, events


def ends_slots_that_wrote(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    return replace(after, ticks_left=1) if state.sinks["plan"].size else after, reply, events


def releases_what_nobody_declared(
    policy: Policy, state: State, name: str, trusted: Mapping[str, int]
) -> Release:
    release = REAL_RELEASE(policy, state, name, trusted)
    return replace(release, value=trusted.get("row 0", 0) % 2**15) if name == "header" else release


def overfills_frames(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
    after, reply, events = REAL_TICK(policy, state, trusted)
    twice = [replace(e, content=e.content.joined(e.content)) if isinstance(e, Frame) else e for e in events]
    return after, reply, tuple(twice)


SABOTAGE: dict[
    str, tuple[str, Callable[..., Any], Policy, str]
] = {  # what is replaced, and a phase to look at
    "a frame with a secret before the same sink's honest frame": (
        "_tick",
        frames_a_sink_twice,
        POLICY,
        "Create",
    ),
    "two releases that are counted as one": ("_tick", releases_twice, POLICY, "Seal"),
    "a budget that is renewed": ("_tick", renews_a_budget, POLICY, "Seal"),
    "a trusted value in a release declared from a sink": (
        "_release",
        releases_another_value,
        POLICY,
        "Configure",
    ),
    "a release that depends on a value it is not declared from": (
        "_release",
        branches_on_another_value,
        POLICY,
        "Configure",
    ),
    "a trusted value that no declassifier has": (
        "_release",
        releases_what_nobody_declared,
        POLICY,
        "Configure",
    ),
    "a clock that follows an answer not everybody may see": ("_tick", ends_with_an_answer, POLICY, "Serve"),
    "a label that is dropped with the phase": (
        "_advance",
        forgets_with_the_phase,
        LOGS_IN_TRAIN,
        "Create",
    ),
    "a sink that the policy does not declare": ("_call", keeps_a_sink_of_its_own, POLICY, "Create"),
    "no frame where a sink is missing": ("_tick", forgets_what_is_empty, POLICY, "Configure"),
    "a clock that follows a number's truth": ("_tick", ends_slots_that_wrote, POLICY, "Train"),
    "a frame with more than its size": ("_tick", overfills_frames, POLICY, "Configure"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_kernel_that_leaks_quietly_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, weakened, policy, phase = SABOTAGE[name]
    monkeypatch.setattr(kernel, place, weakened)
    assert prove(policy, first_only=True, phase=phase).failures


@pytest.mark.parametrize(
    "branch",
    [
        lambda state: state.sinks["plan"].data == b"yes",
        lambda state: not state.sinks["plan"].data,
        lambda state: state.sinks["plan"] == kernel.EMPTY,
        lambda state: state.alive == True,  # noqa: E712  what is tested
        lambda state: state.header in {1, 2},
    ],
)
def test_a_kernel_that_branches_where_the_prover_cannot_follow_is_not_proved(
    branch: Callable[[State], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def branches(policy: Policy, state: State, trusted: Mapping[str, int]) -> Step:
        after, reply, events = REAL_TICK(policy, state, trusted)
        return replace(after, ticks_left=1) if branch(state) else after, reply, events

    monkeypatch.setattr(kernel, "_tick", branches)
    with pytest.raises(TypeError):
        prove(POLICY, first_only=True, phase="Train")


def test_the_policy_that_logs_in_training_is_safe_there_with_the_kernel_as_it_is() -> None:
    assert prove(LOGS_IN_TRAIN, phase="Train").failures == []
