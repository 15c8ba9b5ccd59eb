"""The numbered promises: table, code, tests, README and policy file hold together."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

import pytest
from realjob import CHECKOUT

ROW = re.compile(r"^\| ([A-Z]+-\d+) \| (.+?) \| (.*?) \| (.*?) \| (holds|pending) \|$", re.MULTILINE)
TABLE = (CHECKOUT / "spec" / "README.md").read_text()
README = (CHECKOUT / "README.md").read_text()
PACKAGES = ("chiron", "enclave", "wasm_sandbox", "paramserver")


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of the table."""

    number: str
    text: str
    place: str
    test: str
    status: str


PROMISES = [Promise(*(part.strip("` ") for part in row)) for row in ROW.findall(TABLE)]
HELD = [promise for promise in PROMISES if promise.status == "holds"]


def cited() -> set[str]:
    """Return the numbers that comments in the code name."""
    found = set()
    for package in PACKAGES:
        for path in (CHECKOUT / package).rglob("*.py"):
            for comment in re.findall(r"#.*", path.read_text()):
                found.update(re.findall(r"\b(?:NI|CONF|ATT|TRAIN|SERVE|SAND|JOB|ERR)-\d+\b", comment))
    return found


def test_the_table_has_promises_and_each_number_once() -> None:
    numbers = [promise.number for promise in PROMISES]
    assert len(numbers) == len(set(numbers)) > 40


@pytest.mark.parametrize("promise", HELD, ids=lambda promise: promise.number)
def test_a_promise_that_holds_is_cited_where_it_is_enforced(promise: Promise) -> None:
    file, _, symbol = promise.place.partition(":")
    text = (CHECKOUT / file).read_text()
    assert re.search(rf"#.*\b{promise.number}\b", text), f"{file} does not cite {promise.number}"
    for name in symbol.split("."):
        assert re.search(rf"(def|class) {name}\b", text) or not name, f"{file} has no {name}"


@pytest.mark.parametrize("promise", HELD, ids=lambda promise: promise.number)
def test_a_promise_that_holds_has_a_test(promise: Promise) -> None:
    file, _, name = promise.test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (CHECKOUT / file).read_text(), re.MULTILINE), promise.test


def test_every_number_that_the_code_cites_is_a_promise_that_holds() -> None:
    assert cited() <= {promise.number for promise in HELD}


def test_the_readme_lists_the_same_promises_with_the_same_words() -> None:
    shown = dict(re.findall(r"^\| ([A-Z]+-\d+) \| (.+?) \|", README, re.MULTILINE))
    assert shown == {promise.number: promise.text for promise in PROMISES}


def test_every_key_of_the_policy_is_explained() -> None:
    policy = tomllib.loads((CHECKOUT / "spec" / "policy.toml").read_text())
    keys = set(policy)
    for name in ("header", "limits", "serving"):
        keys |= set(policy[name])
    for name in ("sinks", "phases", "calls", "declassify"):
        keys |= {key for entry in policy[name].values() for key in entry}
    assert [key for key in sorted(keys) if f"`{key}`" not in TABLE and f"[{key}" not in TABLE] == []
