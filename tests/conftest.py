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

FIRST = (  # they take longest: begun last, one would leave a core idle
    "leakage/test_canaries.py",
    "packaging/test_ci_example.py",
    "training/test_whole_job.py",
    "leakage/test_leaktest_finds.py",
    "leakage/test_leaktest_plugin.py",
    "sandbox/test_hostile.py",
    "attacks/test_bad_input.py",
    "attacks/test_killed_processes.py",
    "leakage/test_side_by_side.py",
    "serving/test_transforms.py",
    "parties/test_dry_run.py",
    "training/test_streamed_job.py",
    "training/test_transforms.py",
    "sandbox/test_languages.py",
    "sandbox/test_component_python.py",
    "sandbox/test_automl.py",
    "policy/test_prover_conformance.py",
    "policy/test_prover.py",
    "graph/test_corpus_admission.py",
)

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of `FIRST`; under mutmut, which has no order, with the policy's quick tests."""
    if os.environ.get("MUTANT_UNDER_TEST"):
        items.sort(key=lambda item: item.nodeid)
        return
    places = {f"tests/{name}": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(FIRST)))
