"""The promises: spec/README.md, the code, the tests, the README and the policy say the same."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = ("chiron", "wasm_sandbox", "enclave", "paramserver", "spec")
ID = r"(?:NI|CONF|ATT|TRAIN|SERVE|SAND|JOB|ERR)-\d+"
ROW = re.compile(
    rf"^\| ({ID}) \| (.+?) \| (?:`(\S+)`)? ?\| (?:`(\S+)`)? ?\| (holds|pending) \|$", re.MULTILINE
)
SPEC = (CHECKOUT / "spec" / "README.md").read_text(encoding="utf-8")
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of the table."""

    id: str
    text: str
    enforced: str
    test: str
    status: str

    def __str__(self) -> str:
        return self.id


PROMISES = [Promise(*row) for row in ROW.findall(SPEC)]
KEPT = [promise for promise in PROMISES if promise.status == "holds"]
PENDING = [promise for promise in PROMISES if promise.status == "pending"]


def lines_of(source: str, symbol: str) -> str:
    """Return the source lines of a function or class, named with its class before a dot."""
    scope: Any = ast.parse(source)
    for name in symbol.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        (scope,) = (node for node in scope.body if isinstance(node, kinds) and node.name == name)
    return "\n".join(source.splitlines()[scope.lineno - 1 : scope.end_lineno])


def ids_in_comments() -> Iterator[tuple[str, str]]:
    for package in CODE:
        for path in sorted((CHECKOUT / package).rglob("*")):
            if path.suffix in {".py", ".toml", ".wit", ".h"}:
                for comment in re.findall(r"(?:#|//|/\*).*", path.read_text(encoding="utf-8")):
                    yield from ((found, path.name) for found in re.findall(ID, comment))


def policy_keys(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield key
        if isinstance(value, dict):
            yield from policy_keys(value)


def test_every_row_of_the_table_is_understood() -> None:
    assert [promise.id for promise in PROMISES] == re.findall(rf"^\|\s*({ID})\b", SPEC, re.MULTILINE)


def test_ids_are_numbered_from_one_without_gaps() -> None:
    families: dict[str, list[int]] = {}
    for promise in PROMISES:
        family, number = promise.id.split("-")
        families.setdefault(family, []).append(int(number))
    assert families == {family: list(range(1, len(numbers) + 1)) for family, numbers in families.items()}


@pytest.mark.parametrize("promise", KEPT, ids=str)
def test_the_function_that_enforces_a_promise_names_it_in_a_comment(promise: Promise) -> None:
    path, symbol = promise.enforced.split(":")
    body = lines_of((CHECKOUT / path).read_text(encoding="utf-8"), symbol)
    assert re.search(rf"#.*\b{promise.id}\b", body), f"{path}: {symbol} has no comment with {promise.id}"


@pytest.mark.parametrize("promise", KEPT, ids=str)
def test_the_test_of_a_promise_exists(promise: Promise) -> None:
    path, name = promise.test.split("::")
    assert lines_of((CHECKOUT / path).read_text(encoding="utf-8"), name).startswith(f"def {name}(")


@pytest.mark.parametrize("promise", PENDING, ids=str)
def test_a_pending_promise_names_neither_code_nor_test(promise: Promise) -> None:
    assert (promise.enforced, promise.test) == ("", "")


def test_every_id_in_the_code_is_a_promise_that_holds() -> None:
    held = {promise.id for promise in KEPT}
    assert [(found, name) for found, name in ids_in_comments() if found not in held] == []


def test_the_readme_gives_each_promise_with_its_test_or_as_pending() -> None:
    expected = [
        f"- {p.id} {p.text} (`{p.test}`)" if p.test else f"- {p.id} {p.text} `pending`" for p in PROMISES
    ]
    assert re.findall(rf"^- {ID} .*", README, re.MULTILINE) == expected


def test_every_key_of_the_policy_is_explained() -> None:
    section = SPEC.split("\n## policy.toml\n")[1].split("\n## ")[0]
    policy = tomllib.loads((CHECKOUT / "spec" / "policy.toml").read_text(encoding="utf-8"))
    missing = {key for key in policy_keys(policy) if f"`{key}`" not in section and f"`[{key}" not in section}
    assert missing == set()
