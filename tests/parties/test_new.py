"""A new project is a working one, and never replaces anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiron.cli.main import main
from chiron.cli.new import templates
from chiron.parties.build import build, parse_project
from chiron.parties.errors import PartyError
from chiron.parties.new import new, project_name
from chiron.parties.toolchains import SUFFIXES

SDK = Path(__file__).resolve().parents[2] / "spec" / "sdk" / "c"
WRITTEN = [language for language in SUFFIXES if templates()[language].is_dir()]


def test_every_language_has_a_template() -> None:
    assert set(WRITTEN) == set(SUFFIXES)


@pytest.mark.parametrize("language", WRITTEN)
def test_a_new_project_has_settings_and_source_of_its_language(tmp_path: Path, language: str) -> None:
    folder = tmp_path / "My Model"
    assert "guest.toml" in new(folder, language=language, templates=templates())
    project = parse_project(folder)
    assert (project.name, project.language) == ("my-model", language)
    assert [path.name for path in tmp_path.iterdir()] == ["My Model"]


def test_a_new_project_builds(tmp_path: Path) -> None:
    new(tmp_path / "model", language="c", templates=templates())
    assert build(tmp_path / "model", sdk=SDK).read_bytes()[:4] == b"\0asm"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "guest.c" in new(tmp_path / "model", language="c", templates=templates())


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    occupied = tmp_path / "model" / "mine" if kind == "folder" else tmp_path / "model"
    occupied.parent.mkdir(exist_ok=True)
    occupied.write_text("precious", encoding="utf-8")
    with pytest.raises(PartyError, match="not an empty folder"):
        new(tmp_path / "model", language="c", templates=templates())
    assert occupied.read_text(encoding="utf-8") == "precious"


def test_a_language_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartyError, match="no c project"):
        new(tmp_path / "model", language="c", templates={"c": tmp_path})


@pytest.mark.parametrize(("name", "expected"), [("Über_Netz 2", "ber-netz-2"), ("---", "guest"), ("a", "a")])
def test_names_are_what_guest_toml_allows(name: str, expected: str) -> None:
    assert project_name(Path(name)) == expected


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["new", str(tmp_path / "model"), "--language", "zig", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["guest.toml", "guest.zig"]
    assert main(arguments) == 1
    assert "not an empty folder" in json.loads(capsys.readouterr().err)["error"]
