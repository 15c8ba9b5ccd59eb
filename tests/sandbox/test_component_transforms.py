"""A Python guest that transforms: the same bytes as the one in C, and in a process as any guest.

One component is built and compiled for the whole file: half a minute on one core.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import POLICY, WITH_COMPONENTS, WITH_COMPONENTS_BYTES

from chiron.guest_api.calls import Flow, HostCalls
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.limits import CompiledGuest, compile_guest, load_guest
from chiron.guest_api.monitor import Monitor
from chiron.guest_api.transforms import AUGMENT, EXPORTS, INPUT, OUTPUT, Transformer, Transforms
from chiron.parties.build import build
from chiron.parties.build_python import componentize
from chiron.parties.toolchains import BuildError
from chiron.policy import kernel
from wasm_sandbox import ComponentGuest, Ending, Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chiron.guest_api.dataset import Float32Array

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = REPOSITORY / "spec"
SHAPE, CLASSES = (2, 5), 3
Loaded = Guest | ComponentGuest


def data() -> Dataset:
    random = np.random.default_rng(3)
    targets = random.choice(CLASSES, size=90, p=(0.6, 0.3, 0.1))
    rows = random.normal(size=(90, *SHAPE), scale=30).astype(np.float32)
    rows[:, 0, 1] = 7  # a constant
    return make_dataset(rows, targets, held_out=(rows[:9], targets[:9]), classes=CLASSES)


DATA = data()


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    project = tmp_path_factory.mktemp("c") / "transforms"
    shutil.copytree(REPOSITORY / "examples" / "transforms-c", project, ignore=shutil.ignore_patterns("build"))
    binary = build(project, sdk=SPEC / "sdk" / "c").read_bytes()
    with load_guest(POLICY, compile_guest(POLICY, binary)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompiledGuest:
    output = tmp_path_factory.mktemp("python") / "guest.wasm"
    componentize(REPOSITORY / "examples" / "transforms-python", output, spec=SPEC)
    return compile_guest(WITH_COMPONENTS, output.read_bytes())


@pytest.fixture(scope="module")
def in_python(compiled: CompiledGuest) -> Iterator[Loaded]:
    with load_guest(WITH_COMPONENTS, compiled) as loaded:
        assert isinstance(loaded, ComponentGuest)
        yield loaded


def run(guest: Loaded, export: str, monitor: Monitor, flow: Flow | None = None) -> bytes:
    """Run an export to its good end; return what it gave."""
    dataset = DATA if export == "create" else None
    calls = HostCalls(monitor, schema=DATA.schema, seed=b"seed", dataset=dataset, flow=flow)
    if isinstance(guest, ComponentGuest):
        outcome = guest.run(export, imports=calls.component_imports())
    else:
        outcome = guest.run(export, imports=calls.imports())
    assert (outcome.ending, outcome.value) == (Ending.RETURNED, 0), outcome.detail
    return monitor.written("transformed")


def monitor_in(phase: str) -> Monitor:
    state = kernel.initial(POLICY, rows_class=DATA.schema.rows_class, spent={})
    return Monitor(POLICY, replace(state, phase=phase))


def notes_of(guest: Loaded) -> tuple[bytes, bytes, bytes]:
    monitor = monitor_in("Create")
    run(guest, "create", monitor)
    return monitor.written("notes"), monitor.written("graph"), monitor.written("plan")


def rows_of(count: int) -> Float32Array:
    return np.random.default_rng(count).normal(size=(count, *SHAPE), scale=20).astype(np.float32)


def scores_of(count: int) -> Float32Array:
    raw = np.random.default_rng(count).random((count, CLASSES))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.nightly
def test_c_and_python_keep_and_emit_the_same_bytes(in_c: Loaded, in_python: Loaded) -> None:
    assert in_python.info.exports == {"configure", "create", *EXPORTS}
    left, right = notes_of(in_c), notes_of(in_python)
    assert left == right
    assert min(map(len, left)) > 30
    declared = [monitor_in("Configure") for _ in range(2)]
    for guest, monitor in zip((in_c, in_python), declared, strict=True):
        run(guest, "configure", monitor)
    assert declared[0].state == declared[1].state


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("export", "phase", "rows"),
    [
        (INPUT, "Train", rows_of(50)),
        (INPUT, "Serve", rows_of(1)),
        (INPUT, "Train", rows_of(30_000)),  # more than one message
        (AUGMENT, "Train", rows_of(700)),
        (OUTPUT, "Serve", scores_of(40)),
    ],
    ids=["input", "one row", "many rows", "augment", "output"],
)
def test_c_and_python_give_the_same_rows(
    export: str, phase: str, rows: Float32Array, in_c: Loaded, in_python: Loaded
) -> None:
    notes = notes_of(in_c)[0]
    given = [
        run(guest, export, monitor_in(phase), Flow(memoryview(rows.tobytes()), rows[0].nbytes, notes))
        for guest in (in_c, in_python)
    ]
    assert given[0] == given[1]
    assert len(given[0]) == rows.nbytes
    assert given[0] != rows.tobytes()


@pytest.mark.nightly
def test_a_python_guest_transforms_in_a_process_and_is_ended_on_time(compiled: CompiledGuest) -> None:
    rows, state = rows_of(5), replace(monitor_in("Train").state)
    with load_guest(WITH_COMPONENTS, compiled) as loaded:
        notes = notes_of(loaded)[0]
    carried = Transforms(compiled.binary, notes, EXPORTS)
    with Transformer(
        carried, policy=WITH_COMPONENTS_BYTES, schema=DATA.schema, compiled=compiled
    ) as transformer:
        first, again = (
            transformer.apply(AUGMENT, rows, state=state, deadline_ms=20_000, seed=b"a") for _ in range(2)
        )
        assert np.array_equal(first, again)
        many = rows_of(100_000)
        with pytest.raises(Exception, match="ended: trapped"):  # interrupted: seconds of work in Python
            transformer.apply(AUGMENT, many, state=state, deadline_ms=100)
        assert np.array_equal(
            first, transformer.apply(AUGMENT, rows, state=state, deadline_ms=20_000, seed=b"a")
        )


def test_a_module_that_is_no_python_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "guest.py").write_text("import chiron_guest\n\ndef configure(:\n", encoding="utf-8")
    with pytest.raises(BuildError, match="line 3 is not Python"):
        componentize(tmp_path, tmp_path / "out" / "guest.wasm", spec=SPEC)
