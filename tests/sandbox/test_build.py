"""`build` turns a C project into a guest, or says what is wrong with it."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from chiron.parties.build import GuestProject, build, parse_project
from chiron.parties.toolchains import BuildError
from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, inspect, run

REPOSITORY = Path(__file__).resolve().parents[2]
SDK = REPOSITORY / "spec" / "sdk" / "c"
TOML = 'name = "tiny"\nlanguage = "c"\nsources = ["guest.c"]\nmemory_bytes = 524288\n'
SOURCE = """#include "chiron.h"
int32_t configure(void) { return chiron_log_text("hello"); }
int32_t create(void) { return 0; }
"""


def make_project(folder: Path, *, toml: str = TOML, source: str = SOURCE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "guest.toml").write_text(toml, encoding="utf-8")
    (folder / "guest.c").write_text(source, encoding="utf-8")
    return folder


def test_a_built_guest_runs(tmp_path: Path) -> None:
    said: list[bytes] = []

    def log(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        said.append(memory.read(*arguments))
        return 0

    guest = build(make_project(tmp_path), sdk=SDK)
    limits = Limits(fuel=10_000, memory_bytes=524_288)
    outcome = run(guest.read_bytes(), export="configure", imports={"log": HostCall(2, log)}, limits=limits)
    assert (outcome.ending, outcome.value, said) == (Ending.RETURNED, 0, [b"hello"])


def test_the_guest_goes_to_the_build_folder_or_where_it_was_told(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    assert build(project, sdk=SDK) == project / "build" / "guest.wasm"
    elsewhere = tmp_path / "elsewhere" / "model.wasm"
    assert build(project, sdk=SDK, output=elsewhere) == elsewhere
    assert elsewhere.read_bytes() == (project / "build" / "guest.wasm").read_bytes()
    assert [path.name for path in elsewhere.parent.iterdir()] == ["model.wasm"]


def test_two_builds_in_different_folders_are_identical(tmp_path: Path) -> None:
    sdk = shutil.copytree(SDK.parent, tmp_path / "another" / "sdk") / "c"
    first = build(make_project(tmp_path / "a"), sdk=SDK)
    second = build(make_project(tmp_path / "b" / "deeper"), sdk=sdk)
    assert first.read_bytes() == second.read_bytes()


def test_memory_is_fixed_at_the_declared_size(tmp_path: Path) -> None:
    guest = build(make_project(tmp_path, toml=TOML.replace("524288", "1048576")), sdk=SDK)
    info = inspect(guest.read_bytes(), granted={"log": 2}, limits=Limits(fuel=0, memory_bytes=1 << 20))
    assert info.memory_bytes == 1 << 20


def test_a_compiler_error_is_shown_and_keeps_the_old_guest(tmp_path: Path) -> None:
    guest = build(make_project(tmp_path), sdk=SDK)
    before = guest.read_bytes()
    make_project(tmp_path, source=SOURCE.replace("return 0;", "return nothing;"))
    with pytest.raises(BuildError, match=r"tiny does not compile:[\s\S]*guest\.c:3:\d+: error.*nothing"):
        build(tmp_path, sdk=SDK)
    assert guest.read_bytes() == before
    assert not list(guest.parent.glob(".guest-*"))


def test_too_little_memory_is_the_linkers_error(tmp_path: Path) -> None:
    make_project(tmp_path, toml=TOML.replace("524288", "65536"))
    with pytest.raises(BuildError, match="initial memory too small"):
        build(tmp_path, sdk=SDK)


def test_a_guest_the_sandbox_would_refuse_keeps_the_old_guest(tmp_path: Path) -> None:
    guest = build(make_project(tmp_path), sdk=SDK)
    before = guest.read_bytes()
    attribute = '__attribute__((import_module("env"), import_name("socket")))'
    socket = f'#include "chiron.h"\n{attribute} int32_t open_socket(void);\n'
    make_project(tmp_path, source=socket + SOURCE.replace("return 0;", "return open_socket();"))
    with pytest.raises(BuildError, match=r"sandbox would refuse it.*'env\.socket' is not granted"):
        build(tmp_path, sdk=SDK)
    assert guest.read_bytes() == before


def test_a_guest_without_create_is_refused(tmp_path: Path) -> None:
    make_project(tmp_path, source='#include "chiron.h"\nint32_t configure(void) { return 0; }')
    with pytest.raises(BuildError, match=r"no function create\(\)"):
        build(tmp_path, sdk=SDK)


def test_a_missing_compiler_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BuildError, match=r"pip install 'chiron-mlaas\[build\]'"):
        build(tmp_path, sdk=SDK)


def test_a_missing_sdk_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"chiron\.h"):
        build(make_project(tmp_path / "project"), sdk=tmp_path)


def test_a_project_is_parsed(tmp_path: Path) -> None:
    assert parse_project(make_project(tmp_path)) == GuestProject("tiny", "c", ("guest.c",), 524_288)


def test_a_folder_without_guest_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no readable guest\.toml"):
        parse_project(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ('name = "tiny"', "", "missing key 'name'"),
        ('name = "tiny"', 'name = "tiny"\nflags = ["-O3"]', "unknown key 'flags'"),
        ('name = "tiny"', "name = ", "not TOML"),
        ('"tiny"', '"Tiny Net"', "name must be"),
        ('"tiny"', "1", "name must be"),
        ('"c"', '"cobol"', "language must be"),
        ('["guest.c"]', '"guest.c"', "sources must be a list"),
        ('["guest.c"]', "[]", "sources must be a list"),
        ('["guest.c"]', "[1]", "sources must be a list"),
        ('"guest.c"', '"../guest.c"', "inside the project"),
        ('"guest.c"', '"/etc/guest.c"', "inside the project"),
        ('"guest.c"', '"-o/tmp/x.c"', "inside the project"),
        ('"guest.c"', '"@options.c"', "inside the project"),
        ('"guest.c"', '"guest.wasm"', "inside the project"),
        ('"guest.c"', '"other.c"', "does not exist"),
        ("524288", "524289", "multiple of 65536"),
        ("524288", "0", "multiple of 65536"),
        ("524288", "8589934592", "up to 4 GiB"),
        ("524288", "true", "multiple of 65536"),
        ("524288", "524288.0", "multiple of 65536"),
    ],
)
def test_a_wrong_guest_toml_is_refused(tmp_path: Path, old: str, new: str, shown: str) -> None:
    make_project(tmp_path, toml=TOML.replace(old, new))
    with pytest.raises(BuildError, match=shown):
        parse_project(tmp_path)
