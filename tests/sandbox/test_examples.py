"""The example guests: what they declare, and what they make of the data's statistics."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest
from examples_host import Host, clothes, digits

from chiron.parties.build import build
from chiron.policy.header import Header, encode_header
from chiron.policy.loader import load_policy

REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def built(example: str) -> bytes:
    with TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("build")
        project = shutil.copytree(REPOSITORY / "examples" / example, Path(folder) / example, ignore=ignore)
        return build(project, sdk=REPOSITORY / "spec" / "sdk" / "c").read_bytes()


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
