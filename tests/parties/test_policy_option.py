"""Another policy than the installed one: every party must name the same file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from components import component
from deployments import POLICY, WITH_COMPONENTS, WITH_COMPONENTS_BYTES, make_attester, with_policy

from chiron.cli import build as build_command
from chiron.cli.main import main
from chiron.parties.errors import PartyError
from chiron.parties.home import create_home, open_home
from chiron.policy.types import PolicyError
from chiron.training.node import POLICY as POLICY_STATEMENT
from enclave import ReferenceValues

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "components.toml"
    path.write_bytes(WITH_COMPONENTS_BYTES)
    return path


def reference_of(tmp_path: Path, *arguments: str) -> ReferenceValues:
    (tmp_path / "root.pub").write_bytes(bytes(32))
    output = str(tmp_path / "reference.json")
    root = str(tmp_path / "root.pub")
    assert main(["reference", "--insecure-simulated-root", root, "--output", output, *arguments]) == 0
    return ReferenceValues.from_json((tmp_path / "reference.json").read_bytes())


def test_reference_values_are_of_the_policy_that_is_named(tmp_path: Path, policy: Path) -> None:
    installed, named = (reference_of(tmp_path, *more) for more in ((), ("--policy", str(policy))))
    assert installed.require == {POLICY_STATEMENT: bytes.fromhex(POLICY.digest)}
    assert named.require == {POLICY_STATEMENT: bytes.fromhex(WITH_COMPONENTS.digest)}


def test_a_party_keeps_the_policy_that_it_trusts(tmp_path: Path, policy: Path) -> None:
    values = with_policy(make_attester(tmp_path / "cpu").own_reference(), WITH_COMPONENTS)
    (tmp_path / "reference.json").write_bytes(values.to_json())
    create_home(tmp_path / "home", tmp_path / "reference.json", policy=policy)
    policy.unlink()
    assert open_home(tmp_path / "home").policy == WITH_COMPONENTS


def test_reference_values_of_another_policy_are_refused(tmp_path: Path, policy: Path) -> None:
    own = make_attester(tmp_path / "cpu").own_reference()
    for values, named in ((with_policy(own), policy), (with_policy(own, WITH_COMPONENTS), None), (own, None)):
        (tmp_path / "reference.json").write_bytes(values.to_json())
        with pytest.raises(PartyError, match="another policy"):
            create_home(tmp_path / "home", tmp_path / "reference.json", policy=named)
    assert not (tmp_path / "home").exists()


def test_a_home_without_its_policy_says_so(tmp_path: Path) -> None:
    values = with_policy(make_attester(tmp_path / "cpu").own_reference())
    (tmp_path / "reference.json").write_bytes(values.to_json())
    create_home(tmp_path / "home", tmp_path / "reference.json")
    (tmp_path / "home" / "policy.toml").unlink()
    with pytest.raises(PolicyError, match=r"policy\.toml cannot be read"):
        open_home(tmp_path / "home")


def test_a_missing_policy_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = str(tmp_path / "none.toml")
    assert main(["dry-run", str(tmp_path), "--data", nothing, "--policy", nothing]) == 1
    assert main(["up", "--home", str(tmp_path / "platform"), "--policy", nothing]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "platform").exists()


def test_build_says_that_the_policy_refuses_components(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(component("(i32.const 0)"))
    monkeypatch.setattr(build_command, "build", lambda *_, **__: guest)
    assert main(["build", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_under_policy"] is False
    assert main(["build", str(tmp_path), "--policy", str(policy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_under_policy"] is True
    assert main(["build", str(tmp_path)]) == 0
    assert "component_bytes" in capsys.readouterr().out
