"""One perceptron in every language: the same header, graph and plan, byte for byte, as the C guest's."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from examples_host import Host, clothes, digits

from chiron.cli.main import main
from chiron.parties.build import build
from chiron.parties.sections import without_debug
from chiron.parties.toolchains import BuildError
from wasm_sandbox import Limits, inspect

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
SDK = REPOSITORY / "spec" / "sdk" / "c"
LANGUAGES = ("cpp", "zig", "rust", "assemblyscript")
ABSENT = ("there is no", "no target")  # a compiler that PyPI does not have; the message says how to get it


@cache
def built(language: str) -> bytes:
    with TemporaryDirectory() as folder:
        return build_in(Path(folder), language)


def build_in(folder: Path, language: str) -> bytes:
    source = REPOSITORY / "examples" / f"mlp-{language}"
    project = shutil.copytree(source, folder / "project", ignore=shutil.ignore_patterns("build"))
    try:
        return build(project, sdk=SDK).read_bytes()
    except BuildError as error:
        if any(words in str(error) for words in ABSENT):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("make", [digits, clothes])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_emits_what_c_emits(language: str, make: type[Host]) -> None:
    hosts = [make(), make()]
    for host, guest in zip(hosts, (built("c"), built(language)), strict=True):
        assert host.call(guest, "configure") == 0
        assert host.call(guest, "create") == 0
    reference, other = hosts
    assert (other.header, other.plan, other.logged) == (reference.header, reference.plan, reference.logged)
    assert np.array_equal(other.values()["hidden.weight"], reference.values()["hidden.weight"])
    assert other.graph == reference.graph


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_declines_rows_that_are_too_wide(language: str) -> None:
    host = Host(shape=(3, 256, 256))
    assert host.call(built(language), "configure") == 2
    assert (host.header, len(host.logged)) == ((), 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_builds_in_different_folders_are_identical(language: str, tmp_path: Path) -> None:
    assert build_in(tmp_path, language) == built(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_functions_stay_for_the_dry_run(language: str) -> None:
    assert b"\x04name" in built(language)


def test_a_guest_without_its_debug_sections_is_the_same_guest() -> None:
    whole, bare = built("c"), without_debug(built("c"))
    granted = {"schema": 2, "random": 2, "header": 2, "log": 2, "statistics": 4, "graph": 2, "plan": 2}
    limits = Limits(fuel=0, memory_bytes=2 << 20)
    found = [inspect(guest, granted=granted, limits=limits) for guest in (whole, bare)]
    assert found[0].imports == found[1].imports
    assert b".debug_line" in whole
    assert b".debug_" not in bare


BROKEN = {
    "c": ("guest.c", "int32_t configure(void) {\n", "  __builtin_trap();\n"),
    "cpp": ("guest.cpp", "int32_t configure() {\n", "  __builtin_trap();\n"),
    "zig": (
        "guest.zig",
        "configure() i32 {\n    var schema = chiron.Schema{};\n",
        "    if (schema.version == 0) @trap();\n",
    ),
    "rust": ("guest.rs", 'extern "C" fn configure() -> i32 {\n', "    core::arch::wasm32::unreachable();\n"),
    "assemblyscript": ("guest.ts", "export function configure(): i32 {\n", "  unreachable();\n"),
}


@pytest.mark.parametrize(
    "language",
    [each if each in {"c", "rust"} else pytest.param(each, marks=pytest.mark.nightly) for each in BROKEN],
)
def test_a_dry_run_names_the_line_of_a_trap(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, start, trap = BROKEN[language]
    build_in(tmp_path, language)  # skips where there is no compiler
    source = tmp_path / "project" / name
    text = source.read_text(encoding="utf-8")
    assert text.count(start) == 1
    source.write_text(text.replace(start, start + trap), encoding="utf-8")
    line = text[: text.index(start) + len(start)].count("\n") + 1
    guest = build(tmp_path / "project", sdk=SDK)
    data = REPOSITORY / "examples" / "data" / "digits.npz"
    assert main(["dry-run", str(guest), "--data", str(data)]) == 1
    assert f"{name}:{line}:" in capsys.readouterr().err
