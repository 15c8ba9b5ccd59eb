"""What the repository may not hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from realjob import CHECKOUT

PACKAGES = ("chiron", "enclave", "wasm_sandbox", "paramserver")


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    return [CHECKOUT / name for name in listed.decode().split("\0") if name]


def texts() -> dict[str, str]:
    suffixes = {".py", ".md", ".toml", ".c", ".h", ".wit", ".lock", ""}
    return {
        str(path.relative_to(CHECKOUT)): path.read_text(errors="replace")
        for path in files()
        if path.is_file() and path.suffix in suffixes
    }


@pytest.mark.parametrize(
    "word", ["TO" + "DO", "FIX" + "ME", "X" * 3 + ":", "py" + "pi.org", "python" + "hosted"]
)
def test_no_file_holds_a_note_to_self_or_a_registrys_host(word: str) -> None:
    assert [name for name, text in texts().items() if word in text] == []


def test_no_file_names_a_path_of_a_machine() -> None:
    alien = re.compile(rf"{re.escape(str(CHECKOUT))}/|{re.escape(str(Path.home()))}/")
    assert [name for name, text in texts().items() if alien.search(text)] == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_requirement_has_a_hash(lock: str) -> None:
    entries = (CHECKOUT / lock).read_text().replace("\\\n", " ").splitlines()
    assert len(entries) > 20
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is_and_ships_its_types(package: str) -> None:
    assert (CHECKOUT / package / "py.typed").is_file()
    assert [p for p in (CHECKOUT / package).rglob("*.py") if not p.read_text().startswith('"""')] == []
