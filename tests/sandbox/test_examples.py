"""The example guests: what they declare, and what they make of the data's statistics."""

import hashlib
import shutil
import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from chiron.parties.build import build
from chiron.policy.header import Header, encode_header
from chiron.policy.loader import load_policy
from wasm_sandbox import Ending, GuestMemory, HostCall, Limits, run

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = Limits(fuel=10**9, memory_bytes=2 << 20)
Arguments = tuple[int, ...]


@cache
def built(example: str) -> bytes:
    with TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("build")
        project = shutil.copytree(REPOSITORY / "examples" / example, Path(folder) / example, ignore=ignore)
        return build(project, sdk=REPOSITORY / "spec" / "sdk" / "c").read_bytes()


@dataclass
class Host:
    """Answers a guest's calls from plain values and keeps what it emits."""

    shape: tuple[int, ...] = (8, 8)
    classes: int = 10
    rows: int = 1437
    per_target: tuple[int, ...] = (144,) * 10
    deviation: float = 0.25
    seed: bytes = b"seed"
    header: tuple[int, ...] = ()
    graph: bytes = b""
    plan: tuple[float, ...] = ()
    drawn: int = 0
    logged: list[bytes] = field(default_factory=list)

    def call(self, guest: bytes, export: str) -> int | None:
        calls = {
            "schema": (2, self._schema),
            "header": (2, self._header),
            "log": (2, self._log),
            "random": (2, self._random),
            "statistics": (4, self._statistics),
            "graph": (2, self._graph),
            "plan": (2, self._plan),
        }
        imports = {name: HostCall(count, handler) for name, (count, handler) in calls.items()}
        outcome = run(guest, export=export, imports=imports, limits=LIMITS)
        assert outcome.ending is Ending.RETURNED, outcome.detail
        return outcome.value

    def _schema(self, memory: GuestMemory, arguments: Arguments) -> int:
        dims = (*self.shape, 1, 1)[:3]
        memory.write(arguments[0], struct.pack("<8I", 1, self.rows, len(self.shape), *dims, self.classes, 0))
        return 32

    def _header(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.header = struct.unpack("<6I", memory.read(*arguments))
        return 0

    def _log(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.logged.append(memory.read(*arguments))
        return 0

    def _random(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.drawn += 1
        memory.write(
            arguments[0], hashlib.shake_256(self.seed + bytes([self.drawn % 256])).digest(arguments[1])
        )
        return 0

    def _statistics(self, memory: GuestMemory, arguments: Arguments) -> int:
        kind, _, pointer, capacity = arguments
        answers = {0: (0.5, self.deviation, 0.0, 1.0), 2: self.per_target, 3: (self.rows, 100)}
        data = np.array(answers[kind], dtype="<f4")
        assert data.nbytes <= capacity
        memory.write(pointer, data)
        return data.nbytes

    def _graph(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.graph += memory.read(*arguments)
        return 0

    def _plan(self, memory: GuestMemory, arguments: Arguments) -> int:
        self.plan = struct.unpack("<IIfffIII", memory.read(*arguments))
        return 0

    def values(self) -> dict[str, NDArray[np.float32]]:
        model = onnx.load_from_string(self.graph)
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def trained(self) -> int:
        return sum(value.size for name, value in self.values().items() if not name.startswith("const."))


def digits() -> Host:
    return Host()


def clothes() -> Host:
    return Host(shape=(1, 28, 28), rows=60_000, per_target=(6000,) * 10)


EXAMPLES = [("mlp-c", digits), ("mlp-c", clothes), ("cnn-c", clothes)]


def completed(example: str, host: Host) -> Host:
    guest = built(example)
    assert host.call(guest, "configure") == 0
    assert host.call(guest, "create") == 0
    return host


@pytest.mark.parametrize(("example", "make"), EXAMPLES)
def test_the_header_is_on_the_policys_menus(example: str, make: type[Host]) -> None:
    host = completed(example, make())
    encode_header(load_policy(REPOSITORY / "spec" / "policy.toml").menus, Header(*host.header))


@pytest.mark.parametrize(("example", "make"), EXAMPLES)
def test_the_graph_is_valid_and_fits_its_size_class(example: str, make: type[Host]) -> None:
    host = completed(example, make())
    onnx.checker.check_model(onnx.load_from_string(host.graph), full_check=True)
    parameters = host.header[3]
    assert parameters // 8 < host.trained() <= parameters


@pytest.mark.parametrize(("example", "make"), EXAMPLES)
def test_weights_are_drawn_with_the_deviation_of_their_inputs(example: str, make: type[Host]) -> None:
    for name, value in completed(example, make()).values().items():
        if name.endswith(".weight"):
            inputs = value.size // (value.shape[0] if value.ndim == 4 else value.shape[-1])
            assert abs(float(value.std()) / (2 / inputs) ** 0.5 - 1) < 0.15
            assert abs(float(value.mean())) < 3 * float(value.std()) / value.size**0.5


def test_the_perceptron_for_digits_has_the_header_of_a_short_training() -> None:
    assert completed("mlp-c", digits()).header == (20, 32, 2, 1 << 14, 20, 2000)


def test_the_net_for_clothes_has_the_header_of_five_epochs() -> None:
    assert completed("cnn-c", clothes()).header == (5, 64, 2, 1 << 18, 100, 5000)


def test_the_same_seed_gives_the_same_graph_and_another_does_not() -> None:
    graphs = [completed("mlp-c", Host(seed=seed)).graph for seed in (b"a", b"a", b"b")]
    assert graphs[0] == graphs[1] != graphs[2]


def test_input_is_normalised_by_the_datas_own_statistics() -> None:
    values = completed("mlp-c", digits()).values()
    assert (float(values["const.mean"]), float(values["const.scale"])) == (0.5, 4.0)


@pytest.mark.parametrize("example", ["mlp-c", "cnn-c"])
def test_constant_data_are_not_divided_by_zero(example: str) -> None:
    host = completed(example, Host(shape=(1, 8, 8), deviation=0.0))
    assert float(host.values()["const.scale"]) == 1.0


@pytest.mark.parametrize(("example", "shape"), [("mlp-c", (8, 8)), ("cnn-c", (1, 28, 28))])
def test_few_rows_make_a_narrower_layer(example: str, shape: tuple[int, ...]) -> None:
    few = Host(shape=shape, rows=400, per_target=(40,) * 10)
    many = Host(shape=shape, rows=40_000, per_target=(4000,) * 10)
    assert completed(example, few).trained() < completed(example, many).trained()


@pytest.mark.parametrize(("example", "shape"), [("mlp-c", (8, 8)), ("cnn-c", (1, 28, 28))])
def test_rare_targets_make_smaller_steps(example: str, shape: tuple[int, ...]) -> None:
    even = Host(shape=shape, rows=9000, per_target=(900,) * 10)
    uneven = Host(shape=shape, rows=9000, per_target=(4500,) + (500,) * 9)
    assert completed(example, uneven).plan[2] < completed(example, even).plan[2]


def test_a_row_of_one_dimension_needs_no_flattening() -> None:
    host = completed("mlp-c", Host(shape=(13,), classes=3, rows=178, per_target=(59, 71, 48)))
    operators = [node.op_type for node in onnx.load_from_string(host.graph).graph.node]
    assert operators == ["Sub", "Mul", "Gemm", "Relu", "Gemm"]


@pytest.mark.parametrize(
    ("example", "shape"), [("mlp-c", (3, 256, 256)), ("cnn-c", (8, 8)), ("cnn-c", (1, 30, 30))]
)
def test_data_of_an_unfit_shape_are_declined_with_a_reason(example: str, shape: tuple[int, ...]) -> None:
    host = Host(shape=shape)
    assert host.call(built(example), "configure") in {2, 3}
    assert host.header == ()
    assert len(host.logged) == 1
