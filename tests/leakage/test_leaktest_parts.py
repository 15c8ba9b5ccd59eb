"""The leak test's parts: secrets, pairs, search, words. What it finds in guests is test_leaktest_finds.py."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from deployments import POLICY, compiled
from guests import guest
from hypothesis import given
from hypothesis import strategies as st

from chiron.guest_api.dataset import Schema
from chiron.guest_api.limits import load_guest
from chiron.leaktest.report import describe, junit
from chiron.leaktest.search import as_dict, search
from chiron.leaktest.secrets import SMALL, DataSecret, GuestSecret
from chiron.leaktest.strategies import constants, data_secrets, runs
from chiron.leaktest.two_runs import Line, Secrets, Subject, Trace
from chiron.policy.header import size_class

SCHEMAS = st.builds(
    Schema,
    shape=st.sampled_from([(1,), (5,), (1, 4, 4), (3, 2, 5)]),
    classes=st.integers(2, 12),
    dtype=st.sampled_from(["float32", "uint8"]),
    rows_class=st.integers(20, 300).map(size_class),
    held_out_class=st.integers(4, 40).map(size_class),
)


@given(SCHEMAS.flatmap(lambda schema: st.tuples(st.just(schema), data_secrets(schema))))
def test_every_data_set_has_the_schema_it_is_made_for(drawn: tuple[Schema, DataSecret]) -> None:
    schema, secret = drawn
    assert secret.dataset(schema).schema == schema


@given(SCHEMAS, st.integers(-5, 500), st.integers(-5, 500))
def test_row_counts_off_their_class_are_moved_into_it(schema: Schema, rows: int, held_out: int) -> None:
    assert DataSecret(rows, held_out).dataset(schema).schema == schema


@given(runs(SMALL, "operator"))
def test_what_the_operator_knows_is_the_same_in_both_runs(pair: tuple[Secrets, ...]) -> None:
    assert {secrets.guest for secrets in pair} == {GuestSecret()}


@given(runs(SMALL, "user"))
def test_what_the_user_knows_is_the_same_in_both_runs(pair: tuple[Secrets, ...]) -> None:
    assert pair[0].data == pair[1].data


@given(st.binary(max_size=40), st.integers(0, 60), st.integers(0, 255))
def test_another_guest_writes_no_more_and_in_the_given_bytes(raw: bytes, shorter: int, other: int) -> None:
    altered = GuestSecret(shorter=shorter, other=other).altered(raw)
    assert len(altered) == (len(raw) - shorter if len(raw) > shorter else len(raw))
    assert bytes(byte ^ other for byte in altered) == raw[: len(altered)]


def test_constants_of_a_guest_are_tried_on_it() -> None:
    binary = guest(create="(drop (f32.gt (f32.const 0.625) (f32.const -31.5))) (i32.const 0)")
    assert {0.625, -31.5} <= set(constants(binary))
    assert constants(b"\x43\x00") == ()


def subject(observer: str = "operator") -> Subject:
    binary = guest()
    with load_guest(POLICY, compiled(binary)) as loaded:
        return Subject(loaded, binary, POLICY, SMALL, observer)


def scripted(leaks_above: float) -> object:
    """Return a run that shows one line more where the first value is above a number."""

    def run(_: Subject, secrets: Secrets) -> Trace:
        lines = [Line("Create", 3, "clock", "Create, then Train", "NI-4")]
        if secrets.data.first > leaks_above:
            lines.append(Line("Create", 4, "log", "above", "NI-4: nothing leaves beside"))
        return Trace(lines, reads=True, reached_create=True, carried={"outcome": 1, "answer 0": 7})

    return run


def test_a_difference_is_found_made_small_and_named() -> None:
    report = search(subject(), examples=200, run=scripted(1.5))  # type: ignore[arg-type]
    assert report.leak is not None
    left, right = report.leak.secrets
    assert replace(left.data, first=right.data.first) == right.data, "they differ in one number"
    assert (report.leak.at, report.leak.rule) == (1, "NI-4: nothing leaves beside")
    text = describe(report)
    assert "LEAK: the operator can tell two runs apart" in text
    assert "(nothing more)" in text
    assert "> " in text
    assert text.endswith("It breaks: NI-4: nothing leaves beside")
    told = as_dict(report)
    assert told["verdict"] == "leak"
    json.dumps(told)


def test_a_seed_tries_the_same_pairs_again_and_another_seed_others() -> None:
    def tried(seed: int) -> list[Secrets]:
        seen = []

        def run(_: Subject, secrets: Secrets) -> Trace:
            seen.append(secrets)
            return Trace(reads=True, reached_create=True)

        search(subject(), examples=20, seed_=seed, run=run)
        return seen

    assert tried(1) == tried(1) != tried(2)


def test_no_difference_is_not_called_no_leak() -> None:
    ticks = []
    report = search(subject(), examples=30, run=scripted(1e9), progress=lambda: ticks.append(1))  # type: ignore[arg-type]
    assert report.runs == report.reads == len(ticks) == 30
    assert describe(report).startswith("no difference found in 30 runs, 30 of which read secrets")
    assert "no leak" not in describe(report).lower()
    assert as_dict(report)["carried_bits"] == {"outcome": 0.0, "answer": 0.0}


def test_carried_bits_are_the_entropy_of_what_releases_would_tell() -> None:
    def run(_: Subject, secrets: Secrets) -> Trace:
        return Trace(reads=True, reached_create=True, carried={"outcome": secrets.data.rows % 2})

    report = search(subject(), examples=300, run=run)
    assert 0.9 < as_dict(report)["carried_bits"]["outcome"] <= 1.0


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (Trace(), "no job came to create()"),
        (Trace(reached_create=True), "only 0 of 20 runs read secrets, fewer than one in 10"),
    ],
)
def test_runs_that_read_nothing_are_inconclusive(trace: Trace, reason: str) -> None:
    report = search(subject(), examples=20, run=lambda *_: trace)
    assert reason in report.inconclusive
    assert describe(report) == f"inconclusive: {report.inconclusive}"
    assert as_dict(report)["verdict"] == "inconclusive"


def test_junit_says_failed_skipped_and_passed() -> None:
    leak = search(subject(), examples=200, run=scripted(1.5))  # type: ignore[arg-type]
    nothing = search(subject(), examples=5, run=lambda *_: Trace())
    passed = search(subject(), examples=5, run=scripted(1e9))  # type: ignore[arg-type]
    for report, counts in ((leak, ("1", "0")), (nothing, ("0", "1")), (passed, ("0", "0"))):
        suite = ET.fromstring(junit(report, "a guest"))  # noqa: S314  what was just written
        assert (suite.get("failures"), suite.get("skipped")) == counts
        case = suite.find("testcase")
        assert case is not None
        assert case.get("name") == "a guest"
        assert case.findtext("system-out") == describe(report)
