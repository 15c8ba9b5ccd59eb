"""The verdict on mutants: what is read of mutmut, what a reason is good for, that each reason is in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from survivors import CHANGED, REVIEWED, Change, function_of, parse_change, reviewed, unreviewed

CHECKOUT = Path(__file__).parents[2]
CHANGE = Change("chiron.policy.kernel._ended", "return 1", "return 2")
DIFF = """--- chiron/policy/kernel.py
+++ chiron/policy/kernel.py
@@ -1,3 +1,3 @@
 def _ended(policy):
-    return 1
+    return 2
"""


@pytest.mark.parametrize(
    ("mutant", "function"),
    [
        ("chiron.policy.kernel.x_step__mutmut_1", "chiron.policy.kernel.step"),
        ("chiron.policy.kernel.x__ended__mutmut_12", "chiron.policy.kernel._ended"),
        ("paramserver.frames.xǁOutboxǁ__init____mutmut_6", "paramserver.frames.Outbox.__init__"),
    ],
)
def test_a_mutants_function_has_its_name_in_the_source(mutant: str, function: str) -> None:
    assert function_of(mutant) == function


def test_a_change_is_its_lines_without_their_margin() -> None:
    assert parse_change("chiron.policy.kernel.x__ended__mutmut_12", DIFF) == CHANGE


def test_a_reason_answers_its_own_change_and_no_other() -> None:
    other = Change(CHANGE.function, CHANGE.old, "return 3")
    reasons = reviewed(
        '[[reviewed]]\nwhy = "equal"\nchanges = [["chiron.policy.kernel._ended", "return 1", "return 2"]]'
    )
    assert unreviewed([CHANGE, other], reasons) == [other]
    assert unreviewed([CHANGE], {}) == [CHANGE]


def test_a_change_without_a_reason_is_no_review() -> None:
    with pytest.raises(ValueError, match="without a reason"):
        reviewed('[[reviewed]]\nwhy = " "\nchanges = [["f", "a", "b"]]')


@pytest.mark.parametrize("change", reviewed(REVIEWED.read_text()), ids=lambda each: each.new[:60])
def test_what_was_reviewed_still_stands_in_the_source(change: Change) -> None:
    module = next(each for each in CHANGED if change.function.startswith(each.split(".x")[0].rstrip("*")))
    file = module.split(".x")[0].removesuffix(".*").replace(".", "/") + ".py"
    source = " ".join((CHECKOUT / file).read_text().split())
    assert " ".join(change.old.split()) in source
    assert change.new != change.old
