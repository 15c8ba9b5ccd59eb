"""Whole jobs, two runs: the same public facts, other secrets, and everything that leaves is the same.

One guest does what a value of the data tells it, so that runs end differently inside: that is where a leak
would show. What is declared to leave (outcome, accuracy, losses, answers) is left out of the comparison and
held to its declared width instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from obedient import Does
from observations import differences, edges
from watched_jobs import Case, Observation, observe_all

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone  # seven jobs at once keep slots of 50 ms
GOOD, FAILED, STOPPED = "sealed", "failed", "stopped"
CASES = {
    "good": Case(),
    "good, on other data": Case(seed=2, rows=57, noise=1.5),
    "good, by another network": Case(guest=1, log="a word to the operator" * 9),
    "traps": Case(Does.TRAP),
    "loops": Case(Does.LOOP),
    "diverges": Case(Does.DIVERGES),
    "the guest's own trap": Case(guest=2),
}
MORE = {
    "traps": Case(Does.TRAP),
    "makes a denied call": Case(Does.DENIED_CALL),
    "emits a graph that is not admitted": Case(Does.BAD_GRAPH),
    "emits nothing": Case(Does.NOTHING),
    "returns a number": Case(Does.FAILS),
    "floods its sink": Case(Does.FLOODS),
}
AUGMENTING = {
    "traps": Case(Does.TRAP, augments=True),
    "good": Case(augments=True),
    "its transform traps": Case(Does.AUGMENT_TRAPS, augments=True),
    "its transform loops": Case(Does.AUGMENT_LOOPS, augments=True),
    "its transform gives nothing": Case(Does.AUGMENT_GIVES_NOTHING, augments=True),
}
CUT = {
    "good": Case(cut_at=20),
    "traps": Case(Does.TRAP, cut_at=20),
    "diverges": Case(Does.DIVERGES, cut_at=20),
}
Runs = dict[str, Observation]


@pytest.fixture(scope="module")
def watched() -> Iterator[None]:
    with edges():
        yield


@pytest.fixture(scope="module")
def runs(watched: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:  # noqa: ARG001
    return observe_all(tmp_path_factory.mktemp("runs"), CASES)


def test_the_runs_end_differently_inside(runs: Runs) -> None:
    outcomes = {name: run.declared["outcome"] for name, run in runs.items()}
    assert outcomes == {name: GOOD if "good" in name else FAILED for name in CASES}
    metrics = {str(run.declared["metrics"]) for name, run in runs.items() if "good" in name}
    answers = {str(run.declared["answers"]) for name, run in runs.items() if "good" in name}
    assert len(metrics) == len(answers) == 3


@pytest.mark.parametrize(
    ("observer", "one", "other"),
    [
        ("operator", "good", "good, on other data"),
        ("operator", "traps", "loops"),
        ("operator", "traps", "diverges"),
        ("user", "good", "good, by another network"),
        ("user", "diverges", "the guest's own trap"),
        ("platform", "good, on other data", "good, by another network"),
        ("platform", "loops", "the guest's own trap"),
    ],
)
def test_nothing_an_observer_sees_differs_with_a_secret_of_others(
    observer: str, one: str, other: str, runs: Runs
) -> None:
    assert differences(runs[one].seen_by(observer), runs[other].seen_by(observer)) == []


@pytest.mark.parametrize("failed", ["traps", "loops", "diverges"])
def test_before_the_outcome_a_job_that_fails_looks_like_one_that_does_not(failed: str, runs: Runs) -> None:
    good = runs["good"].until_the_outcome("operator")
    assert differences(good, runs[failed].until_the_outcome("operator")) == []


@pytest.mark.parametrize("way", ["standard output", "standard error", "logging"])
def test_enclaves_write_and_log_nothing(way: str, runs: Runs) -> None:
    said = {name: [seen for at, seen in run.ways.items() if at.startswith(way)] for name, run in runs.items()}
    assert said == {name: [] for name in runs}


def test_no_frame_and_no_phase_ends_before_its_time(runs: Runs) -> None:
    for name, run in runs.items():
        early = [way for way, seen in run.ways.items() if "before their time" in way and seen]
        assert early == [], name
        assert not [event for event in run.ways["events"] if event["early"]], name


def test_every_frame_of_the_schedule_was_seen(runs: Runs) -> None:
    for run in runs.values():
        exchanged = [
            seen
            for way, seen in run.ways.items()
            if way.startswith("network to server") and "time" not in way
        ]
        assert sorted(map(len, exchanged)) == [9, 215, 215]  # a preamble of 6 and 209 frames


@pytest.mark.long
@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("cases", [MORE, AUGMENTING], ids=["create", "transforms"])
def test_however_a_guest_fails_all_that_leaves_is_the_same(
    cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ran = observe_all(tmp_path_factory.mktemp("runs"), cases)
    first = ran["traps"]
    for name, run in ran.items():
        before = differences(first.until_the_outcome("operator"), run.until_the_outcome("operator"))
        assert before == [], name
        if run.declared["outcome"] == FAILED:
            assert differences(first.seen_by("operator"), run.seen_by("operator")) == [], name


@pytest.mark.usefixtures("watched")
def test_a_job_whose_connection_the_platform_cuts_ends_the_same_whatever_went_on_inside(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ran = observe_all(tmp_path_factory.mktemp("runs"), CUT)
    assert {run.declared["outcome"] for run in ran.values()} == {STOPPED}
    for name, run in ran.items():
        cut, other = (each.until_the_cut("operator") for each in (ran["good"], run))
        assert differences(cut, other) == [], name
