"""What `chiron leaktest` finds: every weakening in examples/leaky, and nothing without the weakening."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from guests import guest

from chiron.cli.main import main
from chiron.leaktest.check import LeakError, check, selfchecked
from chiron.leaktest.search import EXAMPLES
from chiron.leaktest.secrets import SCHEMAS
from chiron.leaktest.selfcheck import SABOTAGES
from chiron.parties.build import build
from chiron.policy.loader import spec_folder

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.no_cover  # many runs of what other tests cover: tracing takes most of the time

EXAMPLES_FOLDER = Path(__file__).parents[2] / "examples"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("weakenings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["weakenings"] = module
    spec.loader.exec_module(module)
    return module


leaky = load(EXAMPLES_FOLDER / "leaky" / "weakenings.py")
SILENT = [
    ("copies", "operator"),
    ("copies", "platform"),
    ("greets", "user"),
    ("plans", "operator"),
    ("tells", "operator"),
    ("traps", "operator"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("guests")
    names = sorted({weakening.guest for weakening in leaky.WEAKENINGS.values()})
    for name in names:
        source = EXAMPLES_FOLDER / "leaky" / name
        build(source, output=folder / f"{name}.wasm", sdk=spec_folder() / "sdk" / "c")
    return {name: folder / f"{name}.wasm" for name in names}


def test_there_are_at_least_eight_with_a_sentence_each() -> None:
    assert len(leaky.WEAKENINGS) >= 8
    assert all(each.why for each in leaky.WEAKENINGS.values())


@pytest.mark.parametrize("name", leaky.WEAKENINGS)
def test_every_weakening_is_found_within_the_default_budget(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaky.leaktest(name, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "leak"
    assert report["runs"] <= EXAMPLES
    leak = report["leak"]
    at, (left, right) = leak["first_difference"], leak["traces"]
    assert left[:at] == right[:at]
    assert left[at : at + 1] != right[at : at + 1]
    assert leak["rule"]
    assert leak["secrets"][0] != leak["secrets"][1]


@pytest.mark.parametrize(("name", "observer"), SILENT)
def test_nothing_is_found_without_the_weakening(name: str, observer: str, built: dict[str, Path]) -> None:
    report = check(built[name], observer=observer, examples=60)
    assert report.reads >= report.runs / 4


def test_the_report_goes_where_it_is_asked_to(
    built: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xml = tmp_path / "leaktest.xml"
    asked = ["leaktest", str(built["copies"]), "--examples", "20", "--seed", "5", "--junit", str(xml)]
    assert main(asked) == 0
    assert "no difference found in 20 runs, 20 of which read secrets" in capsys.readouterr().out
    assert ET.fromstring(xml.read_bytes()).get("tests") == "1"  # noqa: S314  what was just written


def test_a_guest_that_reads_nothing_is_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "guest.wasm"
    file.write_bytes(guest())
    assert main(["leaktest", str(file), "--examples", "20"]) == 2
    assert "inconclusive" in capsys.readouterr().out


def test_a_file_that_is_no_guest_is_an_error_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "guest.wasm"
    file.write_bytes(b"not a module")
    assert main(["leaktest", str(file)]) not in {0, 1}
    assert "it is not WebAssembly" in capsys.readouterr().err


def test_a_release_carries_no_more_than_it_declares(built: dict[str, Path]) -> None:
    report = check(built["traps"], examples=100)
    outcomes = set(report.carried["outcome"])
    assert outcomes == {0, 1}, "the guest's own end depends on the data, and shows in this release alone"
    assert all(0 <= answer < 1 << 16 for answer in report.carried["answer"])


def test_every_sabotage_of_the_runtime_is_noticed(built: dict[str, Path]) -> None:
    for observer in ("operator", "platform"):
        assert selfchecked(built["copies"], observer=observer, schema=SCHEMAS[0], examples=60) == []


def test_a_sabotage_that_goes_unnoticed_is_named() -> None:
    of_operator = [each.what for each in SABOTAGES if "operator" in each.observers]
    assert selfchecked(guest(), examples=10) == of_operator


def test_a_check_that_is_inconclusive_fails() -> None:
    with pytest.raises(LeakError, match=r"^inconclusive: only 0 of 10 runs read secrets"):
        check(guest(), examples=10)
