"""The review of weakenings: each survivor has one reason, and nothing stale stays listed."""

from __future__ import annotations

import tomllib

import pytest
from realjob import CHECKOUT

from prover import mutants

SPEC = CHECKOUT / "spec"
TABLE = tomllib.loads((SPEC / "policy.toml").read_text())


def test_reviewed_weakenings_are_weakenings_and_have_reasons() -> None:
    listed = mutants.read_reviewed((SPEC / "mutants.toml").read_text())
    assert listed <= {mutant.name for mutant in mutants.mutants(TABLE)}
    assert len(listed) > 100


@pytest.mark.parametrize(
    "text",
    [
        'harmless = [{weakenings = ["a"]}]',
        'harmless = [{why = " ", weakenings = ["a"]}]',
        'harmless = [{why = "b", weakenings = ["a"]}, {why = "c", weakenings = ["a"]}]',
    ],
)
def test_a_reviewed_weakening_needs_one_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"mutants\.toml"):
        mutants.read_reviewed(text)


def test_an_unreviewed_survivor_and_a_stale_entry_fail(capsys: pytest.CaptureFixture[str]) -> None:
    caught, survivor = (
        mutants.Verdict(name, by, "", attacked=False) for name, by in (("caught", "proof"), ("survivor", ""))
    )
    assert mutants.report([caught, survivor], {"survivor"}, [], total=2) == 0
    assert mutants.report([caught, survivor], set(), [], total=2) == 1
    assert mutants.report([caught, survivor], {"caught", "survivor"}, [], total=2) == 1
    assert mutants.report([caught, survivor], {"survivor", "gone"}, ["gone"], total=2) == 1
    assert "nothing catches survivor" in capsys.readouterr().err
