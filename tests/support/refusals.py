"""What a refusal by admission takes: processor time and the largest memory of Python's own allocations."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from chiron.graph import AdmissionError

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES, MOST_SECONDS = 200_000_000, 1


def refused(admission: Callable[[], object]) -> AdmissionError:
    """Return the error of an admission that must be refused in under a second and under 200 MB."""
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(AdmissionError) as caught:
            admission()
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < MOST_SECONDS
    assert peak < MOST_BYTES
    return caught.value
