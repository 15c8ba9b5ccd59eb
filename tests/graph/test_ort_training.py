"""The engine ort-training: the builder's graph, the same bits again, nothing outside a tensor."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from engines import HAS_ORT_TRAINING, needs_ort_training
from networks import Network
from onnx import TensorProto, helper

from chiron.graph import (
    GraphError,
    GraphLimits,
    Loss,
    LossKind,
    OrtTrainingEngine,
    StockEngine,
    TensorSpec,
    admit,
    open_engine,
)
from chiron.graph.ort_training import MAX_UNFOLDED_BYTES, ort_training_model
from chiron.graph.runtime import differentiate, open_session
from chiron.installation import (
    DISTRIBUTIONS,
    EngineName,
    InstallationError,
    _only,
    _refusal,
    check_engine,
    installed_engine,
)
from chiron.launch import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.graph import AdmittedGraph

LIMITS = GraphLimits(max_bytes=1 << 22, max_parameters=1 << 20)


def admitted(net: Network) -> AdmittedGraph:
    return admit(net.encoded(), TensorSpec(net.shape, net.classes), limits=LIMITS)


def pooling(kernel: int = 2) -> AdmittedGraph:
    net = Network((2, 6, 6), 3)
    net.add("Add", net.tensor("shift", 1, 2, 6, 6))
    net.add("MaxPool", kernel_shape=[kernel, kernel], strides=[2, 2])
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 18 if kernel == 2 else 8, 3), net.tensor("b", 3))
    return admitted(net)


@needs_ort_training
def test_the_installed_engine_is_the_one_that_opens() -> None:
    assert isinstance(open_engine(pooling(), batch=2, threads=1), OrtTrainingEngine)


@pytest.mark.skipif(HAS_ORT_TRAINING, reason="the environment of make test-ort-training has the other engine")
def test_where_ort_training_is_not_installed_stock_opens_and_the_other_names_the_target() -> None:
    assert isinstance(open_engine(pooling(), batch=2, threads=1), StockEngine)
    with pytest.raises(GraphError, match="make test-ort-training"):
        OrtTrainingEngine(pooling(), batch=2, threads=1)


@needs_ort_training
def test_nothing_that_the_package_imports_without_declaring_is_imported() -> None:
    OrtTrainingEngine(pooling(), batch=2, threads=1)
    found = {name.split(".")[0] for name in sys.modules}
    assert not found & {"torch", "cerberus", "h5py", "sympy"}
    assert "onnxruntime.training" not in sys.modules


@needs_ort_training
def test_the_gradient_graph_has_the_inputs_and_outputs_of_the_stock_one_and_kernels_of_its_own() -> None:
    model = onnx.load_from_string(ort_training_model(pooling(), batch=4))
    assert [value.name for value in model.graph.input] == ["x", "y", "p0", "p1", "p2"]
    assert {value.name for value in model.graph.output} == {"loss", "d.p0", "d.p1", "d.p2"}
    assert "MaxPoolGrad" in {node.op_type for node in model.graph.node}


def dropping() -> AdmittedGraph:
    net = Network((2, 6, 6), 3)
    moments = [net.tensor(name, 4) for name in ("scale", "bias")]
    running = [net.values(name, np.full(4, value, np.float32)) for name, value in (("mean", 0), ("var", 1))]
    net.add("Conv", net.tensor("k", 4, 2, 3, 3), pads=[1, 1, 1, 1])
    net.add("BatchNormalization", *moments, *running, training_mode=1)
    net.add(
        "Dropout", net.values("ratio", np.array(0.25, np.float32)), net.values("train", np.ones((), bool))
    )
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 144, 3), net.tensor("b", 3))
    return admitted(net)


@needs_ort_training
@pytest.mark.parametrize("network", [pooling, dropping])
def test_both_engines_learn_alike_and_each_gives_the_same_bits_again(
    network: Callable[[], AdmittedGraph],
) -> None:
    graph, random = network(), np.random.default_rng(0)
    x = random.normal(size=(16, 2, 6, 6)).astype(np.float32)
    y = random.integers(0, 3, 16)
    ends = []
    for make in (StockEngine, OrtTrainingEngine) * 2:
        engine = make(graph, batch=16, threads=1)
        losses = []
        for step in range(50):
            losses.append(engine.run(x, y, noise=np.random.default_rng(step)))
            engine.parameters[:] -= engine.gradient / 4
        ends.append((losses, engine.parameters.copy()))
    for first, second in zip(ends[:2], ends[2:], strict=True):
        assert first[0] == second[0]
        assert first[1].tobytes() == second[1].tobytes()
    assert ends[1][0][-1] < ends[1][0][0] / 2
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-3)


@needs_ort_training
@pytest.mark.parametrize(
    "loss",
    [
        Loss(class_weights=(0.5, 1.0, 2.0)),
        Loss(smoothing=0.1),
        Loss(LossKind.SQUARED),
        Loss(LossKind.HUBER, delta=0.3),
        Loss(LossKind.BINARY),
    ],
    ids=repr,
)
def test_both_engines_give_the_same_gradient_of_every_loss(loss: Loss) -> None:
    graph, random = replace(pooling(), loss=loss), np.random.default_rng(0)
    x, y = random.normal(size=(16, 2, 6, 6)).astype(np.float32), random.integers(-1, 3, 16)
    one, other = (make(graph, batch=16, threads=1) for make in (StockEngine, OrtTrainingEngine))
    assert one.run(x, y) == pytest.approx(other.run(x, y), rel=1e-5)
    assert np.linalg.norm(one.gradient - other.gradient) <= 1e-5 * np.linalg.norm(one.gradient)
    assert np.any(one.gradient)


@needs_ort_training
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("wild", [np.nan, -np.inf])
def test_the_gradient_of_a_window_without_a_largest_value_stays_inside_its_tensor(
    wild: float, kernel: int
) -> None:
    model = onnx.load_from_string(ort_training_model(pooling(kernel), batch=2))
    (pool,) = [node for node in model.graph.node if node.op_type == "MaxPool"]
    (back,) = [node for node in model.graph.node if node.op_type == "MaxPoolGrad"]
    names = [pool.output[1], back.input[1]]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in names)
    graph = pooling(kernel)
    feeds = {p.name: graph.initial[p.span].reshape(p.shape) for p in graph.parameters}
    feeds |= {"x": np.full((2, 2, 6, 6), wild, np.float32), "y": np.zeros(2, np.int64)}
    found, used = open_session(model.SerializeToString(), threads=1).run(names, feeds)
    assert found.min() < 0, "this release would be safe without the step that is tested here"
    assert used.min() == 0
    assert used.max() < 2 * 2 * 6 * 6


@needs_ort_training
def test_an_operator_without_a_gradient_is_refused_with_a_remedy() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    nodes = [
        helper.make_node("Softsign", ["x"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["l"], keepdims=0),
    ]
    made = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("l", TensorProto.FLOAT, [])])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(GraphError, match="knows fewer operators"):
        differentiate(model.SerializeToString(), loss="l", wanted={"x"})


def test_a_convolution_that_unfolds_an_image_too_far_is_refused_before_it_is_built() -> None:
    net = Network((16, 112, 112), 2)
    net.add("Conv", net.tensor("k", 1, 16, 40, 40), pads=[20, 20, 19, 19])
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 1, 2))
    unfolded = 4 * 16 * 40 * 40 * 112 * 112
    assert unfolded > MAX_UNFOLDED_BYTES
    with pytest.raises(GraphError, match=f"unfolds an image to {unfolded} bytes"):
        ort_training_model(admitted(net), batch=1)


def test_an_empty_batch_has_no_training_model() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        ort_training_model(pooling(), batch=0)


def test_one_engine_is_installed_and_no_other_is_taken() -> None:
    (other,) = set(EngineName) - {installed_engine()}
    check_engine(installed_engine())
    with pytest.raises(InstallationError, match="engine ort-training"):
        check_engine(other)


@pytest.mark.parametrize("found", [[], list(EngineName)])
def test_an_installation_with_no_engine_or_both_is_refused(found: list[EngineName]) -> None:
    with pytest.raises(InstallationError, match="exactly one must be installed") as refusal:
        _only(found)
    assert all(name in str(refusal.value) for name in DISTRIBUTIONS.values())


@pytest.mark.parametrize(
    ("wanted", "python", "remedy"),
    [
        (EngineName.ORT_TRAINING, (3, 12), "make test-ort-training builds it, then"),
        (EngineName.ORT_TRAINING, (3, 13), "make test-ort-training PYTHON=python3.12"),
        (EngineName.STOCK, (3, 12), "say --engine ort-training"),
    ],
)
def test_a_refusal_says_where_the_other_engine_is(
    wanted: EngineName, python: tuple[int, int], remedy: str
) -> None:
    assert remedy in _refusal(wanted, python)


def test_the_measurement_tells_the_engines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "1.0")
    measured = set()
    for name in EngineName:
        monkeypatch.setattr(runtime, "installed_engine", lambda name=name: name)
        measured.add(runtime.runtime_measurement.__wrapped__())
    assert len(measured) == 2
