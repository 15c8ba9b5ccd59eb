"""The Python SDK in this interpreter: its calls go to the real host calls, as a component's would."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from deployments import POLICY, small_dataset
from onnx import numpy_helper

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.lowering import CALLS, MESSAGE_BYTES
from chiron.guest_api.monitor import Monitor
from chiron.policy import kernel
from wasm_sandbox.component_types import ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wasm_sandbox import ComponentCall

SDK = Path(__file__).resolve().parents[2] / "spec" / "sdk" / "python"
DATASET = small_dataset()


class Err(Exception):  # noqa: N818 - componentize-py's name
    """What componentize-py raises for the error of a result."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class Guest:
    """The SDK's modules, bound to one run."""

    def __init__(self, phase: str, *, seed: bytes = b"seed") -> None:
        state = replace(kernel.initial(POLICY, rows_class=DATASET.schema.rows_class, spent={}), phase=phase)
        self.monitor = Monitor(POLICY, state)
        host = HostCalls(self.monitor, schema=DATASET.schema, seed=seed, dataset=DATASET)
        calls = ModuleType("calls")
        for name, call in host.component_imports().items():
            setattr(calls, name, self._function(name, call))
        self.sizes: list[int] = []
        types, world, imports = ModuleType("types"), ModuleType("wit_world"), ModuleType("imports")
        types.Err = Err  # type: ignore[attr-defined]
        imports.calls = calls  # type: ignore[attr-defined]
        modules = {"componentize_py_types": types, "wit_world": world, "wit_world.imports": imports}
        sys.modules.update(modules)
        sys.path.insert(0, str(SDK))
        try:
            self.api: Any = importlib.import_module("chiron_guest")
        finally:
            sys.path.remove(str(SDK))
            for module in (*modules, "chiron_guest"):
                del sys.modules[module]

    def _function(self, name: str, call: ComponentCall) -> Callable[..., Any]:
        def function(*values: Any) -> Any:  # noqa: ANN401 - as the bindings
            dtype = ELEMENTS[CALLS[name].element]
            packed = [v if isinstance(v, int) else np.array(list(v), dtype).tobytes() for v in values]
            self.sizes += [len(value) for value in packed if isinstance(value, bytes)]
            answer = call.handler(tuple(packed))
            if isinstance(answer, int):
                if answer < 0:
                    raise Err(answer)
                return None
            numbers = np.frombuffer(answer if isinstance(answer, bytes) else answer.tobytes(), dtype)
            return numbers.tobytes() if dtype == "u1" else numbers.tolist()

        return function


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(SDK)
    yield importlib.import_module("chiron_onnx")
    del sys.modules["chiron_onnx"]


def test_the_schema_has_as_many_dimensions_as_its_rank() -> None:
    schema = Guest("Configure").api.schema()
    assert (schema.version, schema.rows, schema.shape, schema.classes) == (
        1,
        DATASET.schema.rows_class,
        DATASET.schema.shape,
        DATASET.schema.classes,
    )
    assert schema.row_values == DATASET.schema.row_values


def test_a_header_off_its_menu_is_a_status_and_a_good_one_is_not() -> None:
    api = Guest("Configure").api
    fields = {"epochs": 1, "batch": 16, "workers": 1, "parameters": 4096, "slot_ms": 5, "create_ms": 1000}
    assert api.header(**fields | {"batch": 17}) == api.REFUSED
    assert api.header(**fields) == 0


def test_the_log_is_written_as_utf_8() -> None:
    guest = Guest("Configure")
    guest.api.log("größe")
    assert guest.monitor.written("operator_log") == "größe".encode()


def test_rows_come_in_messages_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest("Create")
    schema, count = guest.api.schema(), len(DATASET.rows)
    monkeypatch.setattr(guest.api, "MESSAGE_BYTES", 7 * 4 * schema.row_values)
    parts = list(guest.api.rows(schema, count))
    assert [len(targets) for _, targets in parts[:-1]] == [7] * (len(parts) - 1)
    assert [target for _, targets in parts for target in targets] == DATASET.targets.tolist()
    assert sum(len(values) for values, _ in parts) == count * schema.row_values


def test_a_large_graph_goes_out_in_messages() -> None:
    guest = Guest("Create")
    model = np.random.default_rng(1).integers(0, 256, 2 * MESSAGE_BYTES + 5, dtype="uint8").tobytes()
    guest.api.graph(model)
    assert guest.sizes == [MESSAGE_BYTES, MESSAGE_BYTES, 5]
    assert guest.monitor.written("graph") == model


def test_gaussians_are_the_same_however_many_are_drawn_at_once() -> None:
    together = Guest("Create").api.Random().gaussians(1500, deviation=0.5)
    random = Guest("Create").api.Random()
    apart = [random.gaussians(count, deviation=0.5) for count in (1, 511, 512, 476)]
    assert b"".join(apart) == together
    values = np.frombuffer(together, "<f4")
    assert abs(float(values.mean())) < 0.05
    assert abs(float(values.std()) - 0.5) < 0.05


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-40, 16777217.0, -2.5])
def test_f32_rounds_as_float32_does(value: float) -> None:
    assert Guest("Create").api.f32(value) == float(np.float32(value))


def test_the_writer_writes_what_onnx_reads(writer: Any) -> None:  # noqa: ANN401 - a module
    weights = np.arange(6, dtype="<f4")
    graph = writer.Graph()
    graph.input("x", (2, 3))
    graph.output("logits", (6,))
    graph.floats("weight", (6,), weights.tobytes())
    graph.int64s("shape", [-1, 6])
    graph.node("Reshape", "flat", "x", "shape", allowzero=0)
    graph.node("Transpose", "turned", "flat", perm=[0, 1])
    graph.node("LeakyRelu", "active", "turned", alpha=0.125)
    graph.node("Softmax", "soft", "active", axis=-1)
    graph.node("Mul", "logits", "soft", "weight")
    model = onnx.load_from_string(graph.model())
    onnx.checker.check_model(model, full_check=True)
    weight, shape = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    assert weight.tolist() == weights.tolist()
    assert shape.tolist() == [-1, 6]
    found = [onnx.helper.get_attribute_value(node.attribute[0]) for node in model.graph.node[:4]]
    assert found == [0, [0, 1], 0.125, -1]


def test_an_initializer_of_another_size_than_it_says_is_an_error(writer: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="8 bytes for 3 values"):
        writer.Graph().floats("weight", (3,), bytes(8))
