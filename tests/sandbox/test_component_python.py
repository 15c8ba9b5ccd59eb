"""A real Python guest: the same logic as the one in C gives the same bytes through both lowerings.

One component is built and compiled for the whole file: half a minute on one core.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from deployments import POLICY, WITH_COMPONENTS

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.dataset import Dataset, make_dataset
from chiron.guest_api.limits import compile_guest, load_guest, sandbox_limits
from chiron.guest_api.monitor import Monitor
from chiron.parties.build import build
from chiron.parties.build_python import componentize
from chiron.parties.toolchains import BuildError
from chiron.policy import kernel
from wasm_sandbox import ComponentGuest, Ending, GuestRefusedError, Outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = REPOSITORY / "spec"
LIMITS = sandbox_limits(WITH_COMPONENTS)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def c_guest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    project = tmp_path_factory.mktemp("c") / "mlp-c"
    shutil.copytree(REPOSITORY / "examples" / "mlp-c", project, ignore=shutil.ignore_patterns("build"))
    return build(project, sdk=SPEC / "sdk" / "c").read_bytes()


@pytest.fixture(scope="module")
def python_binary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("python") / "guest.wasm"
    componentize(REPOSITORY / "examples" / "mlp-python", output, spec=SPEC)
    return output.read_bytes()


@pytest.fixture(scope="module")
def python_guest(python_binary: bytes) -> Iterator[ComponentGuest]:
    loaded = load_guest(WITH_COMPONENTS, compile_guest(WITH_COMPONENTS, python_binary))
    assert isinstance(loaded, ComponentGuest)
    with loaded:
        yield loaded


def dataset(shape: tuple[int, ...], classes: int, *, rows: int, constant: bool = False) -> Dataset:
    random = np.random.default_rng(rows)
    values = random.integers(0, 1 if constant else 256, size=(rows, *shape)).astype("uint8")
    targets = np.minimum(random.integers(0, classes, rows), random.integers(0, classes, rows))
    return make_dataset(values, targets, held_out=(values[:5], targets[:5]), classes=classes)


DATASETS = {
    "digits": dataset((8, 8), 10, rows=1437),
    "table": dataset((13,), 3, rows=178),
    "clothes": dataset((1, 28, 28), 10, rows=6000),
    "constant": dataset((2, 3), 2, rows=100, constant=True),
    "too wide": dataset((3, 256, 256), 10, rows=5),
}


def completed(
    guest: bytes | ComponentGuest, data: Dataset, *, seed: bytes
) -> list[kernel.State | int | None]:
    """Run both exports and return the kernel's state after each, with what they returned; 0 goes on."""
    seen: list[kernel.State | int | None] = []
    state = kernel.initial(POLICY, rows_class=data.schema.rows_class, spent={})
    for phase in ("Configure", "Create"):
        monitor = Monitor(POLICY, replace(state, phase=phase))
        calls = HostCalls(monitor, schema=data.schema, seed=seed, dataset=data if phase == "Create" else None)
        outcome = one(guest, phase.lower(), calls)
        assert outcome.ending is Ending.RETURNED, outcome.detail
        seen += [monitor.state, outcome.value]
        if outcome.value != 0:
            break
    return seen


def one(guest: bytes | ComponentGuest, export: str, calls: HostCalls) -> Outcome:
    if isinstance(guest, bytes):
        return run(guest, export=export, imports=calls.imports(), limits=LIMITS)
    return guest.run(export, imports=calls.component_imports())


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("seed", [b"one", b"another"])
def test_c_and_python_give_the_same_bytes(
    c_guest: bytes, python_guest: ComponentGuest, name: str, seed: bytes
) -> None:
    left, right = (completed(guest, DATASETS[name], seed=seed) for guest in (c_guest, python_guest))
    assert left == right
    states = [state for state in left if isinstance(state, kernel.State)]
    emitted = {sink: max(state.sinks[sink].size for state in states) for sink in POLICY.sinks}
    if name == "too wide":
        assert left[1] == 2
    else:
        assert emitted["header"] == 8
        assert emitted["plan"] == 32
        assert emitted["graph"] > 4 * 16


def test_the_same_component_uses_the_same_fuel_each_time(python_guest: ComponentGuest) -> None:
    data = DATASETS["digits"]
    outcomes = []
    for _ in range(3):
        state = replace(kernel.initial(POLICY, rows_class=data.schema.rows_class, spent={}), phase="Create")
        calls = HostCalls(Monitor(POLICY, state), schema=data.schema, seed=b"", dataset=data)
        outcomes.append(one(python_guest, "create", calls))
    assert outcomes[0].fuel_used > 10_000_000
    assert len(set(outcomes)) == 1


def test_a_call_outside_its_phase_stops_the_python_guest(python_guest: ComponentGuest) -> None:
    data = DATASETS["digits"]
    monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=data.schema.rows_class, spent={}))
    calls = HostCalls(monitor, schema=data.schema, seed=b"", dataset=data)
    outcome = one(python_guest, "create", calls)
    assert outcome.ending is Ending.STOPPED
    assert "statistics" in outcome.detail
    assert not monitor.state.alive


def test_an_exception_of_the_guest_comes_back_as_its_line(python_guest: ComponentGuest) -> None:
    data = DATASETS["digits"]
    state = replace(kernel.initial(POLICY, rows_class=data.schema.rows_class, spent={}), phase="Create")
    imports = HostCalls(
        Monitor(POLICY, state), schema=data.schema, seed=b"", dataset=data
    ).component_imports()
    refused = replace(imports["statistics"], handler=lambda _: -1)
    outcome = python_guest.run("create", imports=imports | {"statistics": refused})
    source = (REPOSITORY / "examples" / "mlp-python" / "guest.py").read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if "chiron.statistics(chiron.ALL_VALUES)" in text)
    assert outcome.value == 100_000 + line


def test_little_fuel_and_little_memory_end_the_python_guest(
    python_guest: ComponentGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATASETS["digits"]
    for change, ending in (
        (replace(LIMITS, fuel=1_000_000), Ending.OUT_OF_FUEL),
        (replace(LIMITS, memory_bytes=1 << 20), Ending.MEMORY),
        (replace(LIMITS, table_elements=1000), Ending.MEMORY),
    ):
        monitor = Monitor(POLICY, kernel.initial(POLICY, rows_class=data.schema.rows_class, spent={}))
        calls = HostCalls(monitor, schema=data.schema, seed=b"", dataset=None).component_imports()
        monkeypatch.setattr(python_guest, "limits", change)
        assert python_guest.run("configure", imports=calls).ending is ending


def test_the_python_guest_imports_the_contract_and_no_wasi(python_guest: ComponentGuest) -> None:
    assert python_guest.info.imports <= {
        "schema", "random", "header", "log", "statistics", "batch", "targets", "graph", "plan",
        "keep", "kept", "take", "give"
    }  # fmt: skip


def test_without_the_switch_a_component_is_refused(python_binary: bytes) -> None:
    with pytest.raises(GuestRefusedError, match="components on") as caught:
        compile_guest(POLICY, python_binary)
    assert caught.value.rule == "components"


def test_the_builders_own_message_reaches_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiron.parties.build_python._MAIN", "raise SystemExit('line 1: no such module')")
    (tmp_path / "guest.py").write_text("import no_such_module\n")
    with pytest.raises(BuildError, match="line 1: no such module"):
        componentize(tmp_path, tmp_path / "out" / "guest.wasm", spec=SPEC)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("module", ["missing", "Guest", "../guest", "component", "wit_world", ""])
def test_a_module_that_cannot_be_is_refused_before_the_builder_runs(tmp_path: Path, module: str) -> None:
    with pytest.raises(BuildError):
        componentize(tmp_path, tmp_path / "guest.wasm", spec=SPEC, module=module)


def test_building_needs_the_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BuildError, match="pip install"):
        componentize(tmp_path, tmp_path / "guest.wasm", spec=SPEC)
