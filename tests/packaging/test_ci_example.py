"""examples/ci as a new user has it: a project of its own, Chiron's wheel installed, and its check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from realjob import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project beside a virtual environment with the wheel; dependencies come from this one."""
    folder = tmp_path_factory.mktemp("ci")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), folder=CHECKOUT)
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    (wheel,) = folder.glob("*.whl")
    run(str(folder / "venv/bin/pip"), "install", "--quiet", "--no-index", "--no-deps", str(wheel))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ours = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(CHECKOUT / "examples" / "ci", folder / "project", ignore=ours)
    return folder / "project"


def run(*command: str, folder: Path | None = None) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "PYTHON"))}
    if folder is not None and folder.name == "project":
        kept["PATH"] = f"{folder.parent}/venv/bin:{kept['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_check_passes_on_the_wheel_alone(project: Path) -> None:
    said = run("./check.sh", folder=project)
    assert "3 passed" in said
    assert "no difference found in 500 runs" in said
    where = run("python", "-c", "import chiron; print(chiron.__file__)", folder=project)
    assert where.startswith(str(project.parent)), "the wheel's, not the checkout's"
    tests = ET.parse(project / "build" / "tests.xml").getroot()  # noqa: S314  what was just written
    assert {case.get("name") for case in tests.iter("testcase")} == {
        "test_nothing_of_the_users_data_reaches_us",
        "test_nothing_of_our_guest_reaches_the_user",
        "test_the_platform_sees_neither",
    }
    assert (project / "build" / "leaktest.xml").is_file()


def test_the_workflow_runs_the_check(project: Path) -> None:
    workflow = (project / ".github" / "workflows" / "leaks.yml").read_text()
    assert "- run: ./check.sh\n" in workflow
    assert "chiron-mlaas[build] @" in workflow
