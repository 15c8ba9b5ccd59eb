"""Hypothesis profiles: `dev` tries other examples each time, `ci` always the same ones, `nightly` many.

HYPOTHESIS_PROFILE names one; without it `dev`. None has a deadline: machines are shared, and speed is the
benchmarks' affair.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
