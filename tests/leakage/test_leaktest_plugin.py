"""The pytest plugin as a project of its own uses it: installed, found by pytest, no import of ours needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from guests import guest

from chiron.parties.build import build
from chiron.policy.loader import spec_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.leaktest.search import Report

COPIES = Path(__file__).parents[2] / "examples" / "leaky" / "copies"
TEST = """
import pytest

@pytest.mark.leak(observer="operator", examples=30)
def test_guest(two_runs):
    report = two_runs("guest.wasm")
    assert report.runs == report.reads == 30
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_guest.py").write_text(TEST)
    build(COPIES, output=tmp_path / "guest.wasm", sdk=spec_folder() / "sdk" / "c")
    return tmp_path


def run_pytest(folder: Path, *more: str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "-W",
        "error",
        *more,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_guest_passes(project: Path) -> None:
    code, text = run_pytest(project)
    assert code == 0, text


def test_a_guest_that_reads_nothing_fails_with_the_reason(project: Path) -> None:
    (project / "guest.wasm").write_bytes(guest())
    code, text = run_pytest(project)
    assert code == 1
    assert "LeakError: inconclusive: only 0 of 30 runs read secrets" in text


def test_the_self_check_passes_where_every_sabotage_is_noticed(project: Path) -> None:
    code, text = run_pytest(project, "--leak-selfcheck")
    assert code == 0, text


def test_the_self_check_names_what_went_unnoticed(project: Path) -> None:
    test = TEST.replace("examples=30", "examples=1").replace("== 30", "== 2")
    (project / "test_guest.py").write_text(test)
    code, text = run_pytest(project, "--leak-selfcheck")
    assert code == 1
    assert "the leak test did not notice: a call prints a value" in text


def test_the_mark_is_explained(project: Path) -> None:
    code, text = run_pytest(project, "--markers")
    assert code == 0
    assert "@pytest.mark.leak(observer='operator', examples=500, seed=0)" in text


@pytest.mark.leak(observer="user", examples=20)
def test_the_fixture_takes_bytes(two_runs: Callable[..., Report]) -> None:
    assert two_runs(guest()).observer == "user"
