"""What chiron_onnx.h writes is what onnx reads."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from chiron.parties.build import build
from wasm_sandbox import GuestMemory, HostCall, Limits, Outcome, run

SDK = Path(__file__).resolve().parents[2] / "spec" / "sdk" / "c"
TOML = 'name = "writer"\nlanguage = "c"\nsources = ["guest.c"]\nmemory_bytes = 1048576\n'
SOURCE = """#include "chiron_onnx.h"
static uint8_t buffer[1 << 17];
static int32_t emit(uint32_t capacity, uint32_t values, uint32_t last_values) {
  OnnxWriter w = onnx_begin(buffer, capacity);
  onnx_input(&w, "x", (int64_t[]){3, 200}, 2);
  onnx_output(&w, "logits", (int64_t[]){600}, 1);
  onnx_floats(&w, "weight", (int64_t[]){3, 200}, 2);
  for (uint32_t i = 0; i < values; i++) onnx_float(&w, (float)i - 0.5f);
  onnx_floats(&w, "const.scale", NULL, 0);
  onnx_float(&w, -1.5f);
  onnx_int64s(&w, "shape", (int64_t[]){-1, 600, (int64_t)1 << 40}, 3);
  onnx_node(&w, "LeakyRelu", "leaky", "x", NULL);
  onnx_attribute_float(&w, "alpha", 0.125f);
  onnx_node_end(&w);
  onnx_node(&w, "Flatten", "logits", "leaky", NULL);
  onnx_attribute_int(&w, "axis", -1);
  onnx_attribute_ints(&w, "numbers", (int64_t[]){0, -2, 300, (int64_t)1 << 40}, 4);
  onnx_node_end(&w);
  onnx_floats(&w, "const.last", (int64_t[]){2}, 1);
  for (uint32_t i = 0; i < last_values; i++) onnx_float(&w, 1);
  return onnx_end(&w) ? chiron_graph(w.bytes, w.used) : -9;
}
int32_t configure(void) {
  uint32_t wanted[3];
  chiron_schema(wanted, sizeof wanted);
  return emit(wanted[0], wanted[1], wanted[2]);
}
int32_t create(void) { return 0; }
"""
VALUES, LAST_VALUES = 600, 2


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("writer")
    (folder / "guest.toml").write_text(TOML, encoding="utf-8")
    (folder / "guest.c").write_text(SOURCE, encoding="utf-8")
    return build(folder, sdk=SDK).read_bytes()


def emit(
    guest: bytes, *, capacity: int = 1 << 17, values: int = VALUES, last_values: int = LAST_VALUES
) -> tuple[Outcome, bytes]:
    written = bytearray()
    wanted = np.array([capacity, values, last_values], dtype="<u4")

    def schema(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        memory.write(arguments[0], wanted)
        return wanted.nbytes

    def graph(memory: GuestMemory, arguments: tuple[int, ...]) -> int:
        written.extend(memory.read(*arguments))
        return 0

    imports = {"schema": HostCall(2, schema), "graph": HostCall(2, graph)}
    limits = Limits(fuel=10**8, memory_bytes=1 << 20)
    return run(guest, export="configure", imports=imports, limits=limits), bytes(written)


def test_onnx_reads_back_what_was_written(guest: bytes) -> None:
    outcome, raw = emit(guest)
    assert outcome.value == 0
    model = onnx.load_from_string(raw)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = np.arange(VALUES, dtype=np.float32).reshape(3, 200) - np.float32(0.5)
    assert np.array_equal(values["weight"], weight)
    assert (values["const.scale"].shape, float(values["const.scale"])) == ((), -1.5)
    assert values["shape"].tolist() == [-1, 600, 1 << 40]
    attributes = {a.name: helper.get_attribute_value(a) for node in model.graph.node for a in node.attribute}
    assert attributes == {"alpha": 0.125, "axis": -1, "numbers": [0, -2, 300, 1 << 40]}
    assert [(list(n.input), list(n.output), n.op_type) for n in model.graph.node] == [
        (["x"], ["leaky"], "LeakyRelu"),
        (["leaky"], ["logits"], "Flatten"),
    ]


def test_the_model_is_in_canonical_form(guest: bytes) -> None:
    _, raw = emit(guest)
    model = onnx.load_from_string(raw)
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (8, 17, 1)
    assert model.ByteSize() == len(raw)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["N", 3, 200]


def test_every_capacity_below_the_models_size_writes_nothing(guest: bytes) -> None:
    size = len(emit(guest)[1])
    assert len(emit(guest, capacity=size + 4)[1]) == size
    for capacity in (0, 1, 7, 50, 2000, size - 5, size - 1):
        outcome, raw = emit(guest, capacity=capacity)
        assert (outcome.value, raw) == (-9, b"")


@pytest.mark.parametrize("values", [0, VALUES - 1, VALUES + 1])
def test_a_wrong_number_of_values_writes_nothing(guest: bytes, values: int) -> None:
    outcome, raw = emit(guest, values=values)
    assert (outcome.value, raw) == (-9, b"")


@pytest.mark.parametrize("last_values", [0, 1, 3])
def test_a_wrong_number_of_last_values_writes_nothing(guest: bytes, last_values: int) -> None:
    outcome, raw = emit(guest, last_values=last_values)
    assert (outcome.value, raw) == (-9, b"")
