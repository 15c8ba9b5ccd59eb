"""pytest plugin: `@pytest.mark.leak`, the fixture `two_runs`, `--leak-selfcheck`.

    @pytest.mark.leak(observer="operator", examples=200)
    def test_nothing_of_the_data_reaches_the_operator(two_runs):
        two_runs("build/guest.wasm", data="digits.npz")

It loads nothing of Chiron before a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chiron.leaktest.search import Report

MARK = "leak(observer='operator', examples=500, seed=0): what `two_runs` compares, and how often"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --leak-selfcheck."""
    parser.getgroup("chiron").addoption(
        "--leak-selfcheck",
        action="store_true",
        help="sabotage the runtime in each leak test, which must notice every sabotage",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", MARK)


@pytest.fixture
def two_runs(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Return a function that compares two runs of a guest and fails with what an observer sees.

    Its arguments: the guest's file or bytes; `data`, a file whose schema is used, or `schema`; `policy`, a
    policy file. It returns the report. A test of it that is inconclusive fails, with the reason.
    """
    mark = request.node.get_closest_marker("leak")
    options: dict[str, Any] = {} if mark is None else mark.kwargs
    selfcheck: bool = request.config.getoption("--leak-selfcheck")

    def compare(guest: Path | str | bytes, **where: Any) -> Report:  # noqa: ANN401  as `check` takes them
        from chiron.leaktest.check import check, selfchecked  # noqa: PLC0415  slow, for tests that use it

        report = check(guest, **options, **where)
        if selfcheck:
            missed = selfchecked(guest, **options, **where)
            if missed:
                pytest.fail("the leak test did not notice: " + "; ".join(missed), pytrace=False)
        return report

    return compare
