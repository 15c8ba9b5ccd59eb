"""The command line as a whole: help with an example, JSON, and "simulated", everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from realjob import CHECKOUT, chiron, environment

from chiron.cli.main import COMMANDS
from chiron.installation import EngineName, installed_engine

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {
    "operator": ("init", "submit", "approve", "refuse", "metrics", "log", "receipt"),
    "user": ("init", "submit", "approve", "refuse", "query", "receipt"),
}
FULL: list[tuple[str, ...]] = [(name,) for name in COMMANDS if name not in GROUPS]
FULL += [(group, name) for group, names in GROUPS.items() for name in names]


@pytest.mark.parametrize("command", FULL, ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(command: tuple[str, ...]) -> None:
    done = chiron(*command, "--help", as_json=False)
    assert done.code == 0
    assert re.search(rf"example:\n  chiron {' '.join(command)}\b", done.lines[0]["text"])
    assert "--json" in done.lines[0]["text"]


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_lists_exactly_its_commands(group: str) -> None:
    text = chiron(group, "--help", as_json=False).lines[0]["text"]
    listed = re.findall(r"^    (\w[\w-]*)  ", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(GROUPS[group])


def test_the_help_lists_every_command() -> None:
    text = chiron("--help", as_json=False).lines[0]["text"]
    assert re.findall(r"^    ([\w-]+)(?:  |$)", text, flags=re.MULTILINE) == list(COMMANDS)


def test_reference_values_for_simulated_enclaves_say_so(tmp_path: Path) -> None:
    (tmp_path / "root.pub").write_bytes(bytes(32))
    arguments = (
        "--insecure-simulated-root",
        str(tmp_path / "root.pub"),
        "--output",
        str(tmp_path / "r.json"),
    )
    as_text = chiron("reference", *arguments, as_json=False)
    as_json = chiron("reference", *arguments)
    assert "SIMULATED" in as_text.lines[0]["text"]
    assert as_json.lines[-1]["simulated"] is True
    assert "SIMULATED" in json.loads(as_json.error)["warning"]


@pytest.mark.parametrize("command", ["up", "demo"])
def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(
    tmp_path: Path, command: str
) -> None:
    (other,) = set(EngineName) - {installed_engine()}
    done = chiron(command, "--engine", other, "--home", str(tmp_path / "home"))
    assert (done.code, "engine ort-training" in json.loads(done.error)["error"]) == (1, True)
    assert not (tmp_path / "home").exists()


def test_reference_values_need_the_simulated_root_to_be_named(tmp_path: Path) -> None:
    done = chiron("reference", "--output", str(tmp_path / "r.json"), as_json=False)
    assert (done.code, "--insecure-simulated-root" in done.error) == (2, True)


def test_the_wheel_carries_the_specification_and_runs_without_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "chiron" / "_spec" / "policy.toml").is_file()
    assert (tmp_path / "site" / "enclave" / "py.typed").is_file()
    program = "from chiron.policy.loader import load_policy, spec_folder; load_policy(); print(spec_folder())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path / "site", measured=False),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "chiron" / "_spec")
