"""The repository as a whole: nothing of one machine in it, documented packages, hash-locked requirements."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("chiron", "wasm_sandbox", "enclave", "paramserver")
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-ort-training.lock")
HIDDEN_AND_OURS = {".ci", ".github", ".gitignore"}
MADE = {"__pycache__", "build", "dist", "htmlcov", "mutants", "site", "node_modules"}
BINARY = {".gz", ".npz", ".wasm", ".png", ".pyc"}
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:home|Users|root|work|mnt|opt)/\w",
    "the place of a checkout": r"(?<![\w.])" + re.escape(str(CHECKOUT)) + "/",
    "a package registry's host": r"(?:pypi|pythonhosted|npmjs|crates|golang)\.(?:org|io|com)\b",
    "an index or a path in a requirement": r"--(?:extra-)?index-url|--find-links|file://",
    "work that is left": r"\b(?:TODO|FIXME|XXX|HACK)\b",
    "an earlier try": r"(?i)\bproto" + r"types?\b",
}
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,-]+\])?==(\S+)(?: ; .+?)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
PYPROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def ours(name: str) -> bool:
    return name not in MADE and (not name.startswith(".") or name in HIDDEN_AND_OURS)


@cache
def texts() -> dict[Path, str]:
    """Every file of ours, neither hidden nor made by a tool, and what is in it."""
    found = []
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = filter(ours, folders)  # environments have a hundred thousand files: not even looked at
        found += [Path(folder, name) for name in names if ours(name)]
    return {path: path.read_text(encoding="utf-8") for path in sorted(found) if path.suffix not in BINARY}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes of each requirement of a lock, which has nothing else in it."""
    found: dict[str, tuple[str, int]] = {}
    current = ""
    for line in (CHECKOUT / name).read_text(encoding="utf-8").splitlines():
        if pinned := PINNED.match(line):
            current = pinned[1]
            found[current] = (pinned[2], 0)
        else:
            assert HASH.match(line), f"{name}: {line}"
            version, hashes = found[current]
            found[current] = (version, hashes + 1)
    return found


def bare(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(CHECKOUT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for path, text in texts().items()
        if path != Path(__file__).resolve()
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_every_package_and_module_says_what_it_is_for() -> None:
    silent = [
        path.relative_to(CHECKOUT)
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_the_wheel_ships_py_typed_in_every_package_and_the_specification() -> None:
    shipped = {file.distribution_path for file in WheelBuilder(str(CHECKOUT)).recurse_included_files()}
    wanted = {f"{package}/py.typed" for package in PACKAGES}
    assert wanted <= shipped
    assert "chiron/_spec/policy.toml" in {
        f"{target}/{path.relative_to(CHECKOUT / source)}"
        for source, target in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items()
        for path in (CHECKOUT / source).rglob("*")
    }


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    requirements = locked(name)
    assert len(requirements) > 10
    assert [wanted for wanted, (_, hashes) in requirements.items() if hashes == 0] == []


def test_the_locks_cover_what_the_project_names() -> None:
    run = {bare(requirement) for requirement in PYPROJECT["project"]["dependencies"]}
    extra = {bare(each) for group in PYPROJECT["project"]["optional-dependencies"].values() for each in group}
    dev = {bare(requirement) for requirement in PYPROJECT["dependency-groups"]["dev"]}
    assert run <= set(locked("requirements.lock"))
    assert run | extra | dev <= set(locked("requirements-dev.lock"))


def test_what_runs_is_what_is_tested() -> None:
    run, dev, _ = (locked(name) for name in LOCKS)
    assert {name: dev.get(name) for name in run} == run


def test_the_second_engines_environment_differs_in_onnx_runtime_alone() -> None:
    _, dev, second = (locked(name) for name in LOCKS)
    (version, _), stock = second.pop("onnxruntime-training-cpu"), dev.pop("onnxruntime")
    assert (version, second) == ("1.19.2", dev)
    assert stock[0] != version


def test_the_licence_is_the_one_that_is_stated() -> None:
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
