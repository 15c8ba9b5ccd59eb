"""Hypothesis profiles: `dev` tries other examples each time, `ci` always the same ones, `nightly` many.

HYPOTHESIS_PROFILE names one; without it `dev`. None has a deadline: machines are shared, and speed is the
benchmarks' affair.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under mutmut, which names tests in no order, run the quick ones of the policy first."""
    if os.environ.get("MUTANT_UNDER_TEST"):
        items.sort(key=lambda item: item.nodeid)
