"""Bad input to the real commands: a message that says what is wrong and what to do, exit code 1, no loss."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import wasmtime
from graphs import linear
from guests import LOOP, TRAP, guest
from realjob import Done, Parties, Running, chiron, make_parties, platform, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
VALUES, CLASSES = 8, 3
GOOD_GRAPH = linear(VALUES, CLASSES)


def module(memory: str) -> bytes:
    exports = "".join(
        f'(func (export "{name}") (result i32) (i32.const 0))' for name in ("configure", "create")
    )
    return bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") {memory}) {exports})'))


def write_rows(path: Path, *, rows: int = 60) -> Path:
    random = np.random.default_rng(1)
    targets = np.arange(rows) % CLASSES
    values = random.normal(size=(rows, VALUES)).astype(np.float32)
    values[np.arange(rows), targets] += 5
    np.savez(path, rows=values, targets=targets)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return write_rows(folder / "rows.npz")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with platform(folder / "platform", workers=1, measured=True) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def parties(folder: Path, running: Running) -> Parties:
    return make_parties(folder, folder / "platform", running.url, measured=True)


@pytest.fixture(scope="module")
def sealed(folder: Path, data: Path, running: Running, parties: Parties) -> str:
    path = folder / "good.wasm"
    path.write_bytes(guest(graph=GOOD_GRAPH))
    return run_job(parties, running, path, data)


def unmeasured(parties: Parties) -> Parties:
    """Return the parties without coverage, for commands that a test runs many times over."""
    return replace(parties, measured=False)


def assert_refused(done: Done, *words: str) -> None:
    assert done.code == 1, done.error
    text = json.loads(done.error.splitlines()[-1])["error"]
    for word in words:
        assert re.search(word, text), text


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (b"", ("not WebAssembly", "compiled binary")),
        (b"MZ not wasm at all", ("not WebAssembly",)),
        (guest(extra='(import "wasi_snapshot_preview1" "fd_write" (func (param i32)))'), ("fd_write",)),
        (
            guest(extra='(import "chiron" "open_file" (func (param i32) (result i32)))'),
            ("open_file", "grant"),
        ),
        (wasmtime.wat2wasm('(module (memory (export "memory") 1 1))'), ("configure",)),
        (module("1 9"), ("memory", "maximum|minimum")),
        (module("9999 9999"), ("memory", "268435456|limit")),
    ],
)
def test_a_bad_guest_is_refused_before_it_leaves_the_operator(
    binary: bytes, words: tuple[str, ...], tmp_path: Path, parties: Parties
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(binary)
    assert_refused(unmeasured(parties).run("operator", "submit", str(path)), "guest", *words)


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (guest(configure=TRAP), (r"configure\(\)", "trapped", "unreachable")),
        (guest(create=TRAP, graph=GOOD_GRAPH), (r"create\(\)", "trapped", "unreachable")),
        (guest(create=LOOP, graph=GOOD_GRAPH), (r"create\(\)", "out of time|out of fuel")),
        (
            guest(create="(drop (i32.load (i32.const 99999999)))", graph=GOOD_GRAPH),
            (r"create\(\)", "trapped", "memory"),
        ),
        (
            guest(create="(drop (memory.grow (i32.const 1000))) (drop (i32.load (i32.const 9999999)))"),
            (r"create\(\)", "memory"),
        ),
        (guest(configure="(drop (call $graph (i32.const 0) (i32.const 4)))"), ("not granted in this phase",)),
        (guest(create="(drop (call $log (i32.const 0) (i32.const 4)))"), ("not granted in this phase",)),
        (guest(header=(7, 7, 7, 7, 7, 7), graph=GOOD_GRAPH), ("declared no header",)),
        (guest(graph=b"certainly not a graph"), ("ONNX",)),
        (
            guest(graph=linear(VALUES, CLASSES, operator="MatMulInteger")),
            ("head", "MatMulInteger", "allow-list"),
        ),
        (guest(graph=linear(VALUES + 1, CLASSES)), ("shapes do not fit|shape",)),
    ],
)
def test_a_dry_run_says_what_is_wrong_with_a_guest(
    binary: bytes, words: tuple[str, ...], tmp_path: Path, data: Path
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(binary)
    assert_refused(chiron("dry-run", str(path), "--data", str(data), measured=False), *words)


def test_a_dry_run_of_a_good_guest_shows_its_header_plan_and_steps(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest(graph=GOOD_GRAPH))
    done = chiron("dry-run", str(path), "--data", str(data), "--steps", "30")
    assert (done.code, done.lines[0]["header"]["batch"], done.lines[0]["parameters"]) == (
        0,
        16,
        VALUES * CLASSES,
    )
    assert done.lines[0]["losses"][-1] < done.lines[0]["losses"][0]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"rows": np.zeros((4, 2)), "targets": np.arange(5) % 2}, ("4 rows but 5 targets",)),
        ({"rows": np.full((9, 2), np.nan), "targets": np.arange(9) % 2}, ("NaN", "fill or drop")),
        ({"rows": np.zeros((300, 2)), "targets": np.arange(300)}, ("300 targets", "2 to 256")),
        ({"rows": np.zeros((9, 1, 1, 1, 2)), "targets": np.arange(9) % 2}, ("rank 1 to 3", "reshape")),
        ({"rows": np.zeros((9, 2)), "targets": np.zeros((9, 1), dtype=int)}, ("one whole number a row",)),
        ({"pixels": np.zeros((9, 2)), "targets": np.arange(9)}, ("rows", "name them so")),
    ],
)
def test_a_bad_data_set_is_refused_before_it_leaves_the_user(
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    words: tuple[str, ...],
    tmp_path: Path,
    parties: Parties,
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    submitted = unmeasured(parties).run("user", "submit", "0" * 32, "--data", str(path))
    assert_refused(submitted, re.escape(str(path)), *words)


def test_a_truncated_data_file_is_named_and_left_as_it_is(
    tmp_path: Path, data: Path, parties: Parties
) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(data.read_bytes()[:500])
    assert_refused(
        parties.run("user", "submit", "0" * 32, "--data", str(path)), "cut.npz", "truncated", "again"
    )
    assert path.read_bytes() == data.read_bytes()[:500]


def test_evidence_for_another_measurement_is_refused(tmp_path: Path, folder: Path, running: Running) -> None:
    values = json.loads((folder / "reference.json").read_bytes())
    values["measurement"] = "0" * 64
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps(values))
    assert (
        chiron("operator", "init", "--home", str(tmp_path / "operator"), "--reference", str(reference)).code
        == 0
    )
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest(graph=GOOD_GRAPH))
    refused = Parties(tmp_path, running.url).run("operator", "submit", str(path))
    assert_refused(refused, "not trusted", "step 4", "other code", "do not send")
    assert not list((folder / "platform" / "blobs").glob("*.part"))


def test_a_data_set_encrypted_to_another_enclave_is_refused(
    tmp_path: Path, data: Path, running: Running
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest(graph=GOOD_GRAPH))
    with platform(tmp_path / "other", workers=1) as other:
        there = make_parties(tmp_path, tmp_path / "other", other.url)
        job = there.run("operator", "submit", str(path)).lines[-1]["job"]
        assert there.run("user", "submit", job, "--data", str(data)).code == 0
        stolen = (tmp_path / "other" / "blobs" / f"{job}.dataset").read_bytes()
        mine = (tmp_path / "other" / "blobs" / f"{job}.guest").read_bytes()
    for kind, content in (("guest", mine), ("dataset", stolen)):
        assert httpx.put(f"{running.url}/v1/jobs/{job}/{kind}", content=content).status_code == 201
    event = running.ended(job)
    assert "encrypted to another enclave" in event["reason"]
    assert_refused(
        chiron("jobs", job, "--wait", "--platform", running.url), "another enclave", "submit it again"
    )


def test_a_guest_that_traps_in_configure_is_refused_and_its_operator_can_read_why(
    tmp_path: Path, data: Path, running: Running, parties: Parties
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest(configure=TRAP))
    job = parties.submit(path, data)
    assert running.ended(job)["outcome"] == "no-header"
    log = parties.run("operator", "log", job)
    assert "unreachable" in log.lines[0]["log"]
    assert_refused(
        parties.run("user", "log", job) if False else parties.run("user", "approve", job, "--yes"), "early"
    )


@pytest.mark.parametrize("create", [TRAP, LOOP])
def test_a_guest_that_fails_after_taint_shows_only_as_a_failed_outcome_after_the_whole_schedule(
    create: str, tmp_path: Path, data: Path, running: Running, parties: Parties, sealed: str
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest(create=create, graph=GOOD_GRAPH))
    job = parties.submit(path, data)
    running.wait_for(event="phase", job=job, phase="Approve")
    parties.approve(job)
    assert running.ended(job)["outcome"] == "failed"
    shape = [
        [
            (e.get("phase"), e.get("planned_ms"))
            for e in running.events
            if e.get("job") == each and "phase" in e
        ]
        for each in (job, sealed)
    ]
    assert shape[0] == shape[1]
    assert_refused(chiron("jobs", job, "--wait", "--platform", running.url), "failed", "dry-run")


def test_a_query_of_the_wrong_shape_names_both_shapes(tmp_path: Path, parties: Parties, sealed: str) -> None:
    np.save(tmp_path / "q.npy", np.zeros((2, VALUES + 1), dtype=np.float32))
    asked = parties.run("user", "query", sealed, "--input", str(tmp_path / "q.npy"))
    assert_refused(asked, r"\(2, 9\)", r"\(n, 8\)")


def test_a_query_with_nan_is_refused_by_the_enclave(tmp_path: Path, parties: Parties, sealed: str) -> None:
    np.save(tmp_path / "q.npy", np.full((1, VALUES), np.nan, dtype=np.float32))
    assert_refused(parties.run("user", "query", sealed, "--input", str(tmp_path / "q.npy")), "NaN")


def test_only_the_jobs_user_gets_answers(tmp_path: Path, parties: Parties, sealed: str) -> None:
    np.save(tmp_path / "q.npy", np.zeros((1, VALUES), dtype=np.float32))
    home = ("--home", str(parties.folder / "operator"), "--platform", parties.url)
    asked = chiron("user", "query", *home, sealed, "--input", str(tmp_path / "q.npy"))
    assert_refused(asked, "403", "not signed with the key of the job's user")


def test_the_models_metadata_and_answers_show_nothing_but_shapes_class_and_score(
    tmp_path: Path, data: Path, parties: Parties, sealed: str
) -> None:
    rows = np.load(data)["rows"][:20]
    np.save(tmp_path / "q.npy", rows)
    asked = parties.run("user", "query", sealed, "--input", str(tmp_path / "q.npy"))
    assert [answer["class"] for answer in asked.lines[0]["answers"]] == [
        index % CLASSES for index in range(20)
    ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("jobs", "xyz", "--platform", "http://127.0.0.1:9"), "32 hexadecimal digits"),
        (("jobs", "--platform", "http://127.0.0.1:9"), "chiron up"),
        (("operator", "approve", "0" * 32, "--home", "/nowhere"), "init --reference"),
        (("dry-run", "/nowhere.wasm", "--data", "/nowhere"), "nowhere.wasm"),
        (("demo", "--dataset", "fashion-mnist", "--data", "/nowhere"), "/nowhere"),
        (("build", "/nowhere"), "guest.toml"),
    ],
)
def test_a_command_that_cannot_start_says_what_to_do(arguments: tuple[str, ...], word: str) -> None:
    assert_refused(chiron(*arguments), word)


def test_wrong_usage_exits_with_two() -> None:
    assert chiron("operator", "submit", as_json=False).code == 2
    assert chiron("nonsense", as_json=False).code == 2
