"""The injected bugs still apply and name tests that are there. `make leak-selfcheck` tries them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from injected_bugs import BUGS, Bug
from selfcheck import main

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", BUGS, ids=[bug.what for bug in BUGS])
def test_a_bug_applies_to_one_place_and_names_a_test(bug: Bug) -> None:
    assert (CHECKOUT / bug.file).read_text().count(bug.old) == 1
    assert bug.new != bug.old
    file, _, name = bug.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (CHECKOUT / file).read_text()
    promises = (CHECKOUT / "spec" / "README.md").read_text()
    assert re.search(rf"^\| {bug.promise} \|", promises, re.MULTILINE)


def test_there_are_at_least_thirty_and_no_two_alike() -> None:
    assert len(BUGS) >= 30
    assert len({bug.what for bug in BUGS}) == len(BUGS)
    assert len({(bug.file, bug.old) for bug in BUGS}) == len(BUGS)


@pytest.mark.long
def test_a_bug_is_found_and_one_that_no_test_finds_survives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pad = next(bug for bug in BUGS if bug.what == "a skipped pad")
    harmless = Bug("a comment", pad.promise, pad.file, pad.old, f"{pad.old}  # changed", pad.test)
    monkeypatch.setattr("selfcheck.BUGS", (pad, harmless))
    monkeypatch.setattr("sys.argv", ["selfcheck.py"])
    assert main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("found    CONF-4: a skipped pad")
    assert lines[1].startswith("SURVIVED CONF-4: a comment")
