"""Engine and predictor: learning, reproducibility, buffers without copies, values that went wild."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network, perceptron
from onnx import helper

from chiron.graph import (
    AdmittedGraph,
    Engine,
    GraphError,
    GraphLimits,
    Predictor,
    TensorSpec,
    admit,
    inference_model,
    open_engine,
    training_model,
)
from chiron.graph.runtime import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = GraphLimits(max_bytes=1 << 22, max_parameters=1 << 18)


def admitted(net: Network) -> AdmittedGraph:
    return admit(net.encoded(), TensorSpec(net.shape, net.classes), limits=LIMITS)


def convolutional(size: int = 8) -> AdmittedGraph:
    net = Network((1, size, size), 4)
    net.add("Conv", net.tensor("k1", 4, 1, 3, 3), net.tensor("b1", 4), pads=[1, 1, 1, 1])
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Conv", net.tensor("k2", 6, 4, 3, 3), net.tensor("b2", 6), pads=[1, 1, 1, 1])
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 6 * (size // 4) ** 2, 4), net.tensor("b", 4))
    return admitted(net)


def batch(graph: AdmittedGraph, rows: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, *graph.spec.input_shape)).astype(np.float32)
    return x, random.integers(0, graph.spec.classes, rows)


def trained(graph: AdmittedGraph, steps: int, *, rate: float) -> tuple[Engine, list[float]]:
    x, y = batch(graph, 32)
    engine = open_engine(graph, batch=32, threads=1)
    losses = []
    for _ in range(steps):
        losses.append(engine.run(x, y))
        engine.parameters[:] -= np.float32(rate) * engine.gradient
    return engine, losses


def test_a_perceptron_learns_separable_data_to_almost_no_loss() -> None:
    graph = admitted(perceptron(2, 16, 2))
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 64)
    x = (random.normal(size=(64, 2)) * 0.3 + np.where(y, 2, -2)[:, None]).astype(np.float32)
    engine = open_engine(graph, batch=64, threads=1)
    first = engine.run(x, y)
    for _ in range(300):
        engine.run(x, y)
        engine.parameters[:] -= engine.gradient
    assert first > 0.3
    assert engine.run(x, y) < 0.01
    answers = Predictor(graph, engine.parameters, threads=1).predict(x)
    assert (answers.argmax(axis=1) == y).all()


def test_a_convolutional_network_learns_noise_by_heart() -> None:
    _, losses = trained(convolutional(), 300, rate=0.2)
    assert losses[0] > 1
    assert losses[-1] < 0.05


def test_two_runs_are_equal_to_the_last_bit() -> None:
    (one, first), (two, second) = (trained(convolutional(), 30, rate=0.1) for _ in range(2))
    assert first == second
    assert one.parameters.tobytes() == two.parameters.tobytes()
    assert one.gradient.tobytes() == two.gradient.tobytes()


def test_two_trainings_of_one_admitted_graph_do_not_touch_each_other() -> None:
    graph = convolutional()
    before = graph.initial.tobytes()
    (_, first), (_, second) = (trained(graph, 5, rate=0.1) for _ in range(2))
    assert first == second
    assert graph.initial.tobytes() == before


def test_gradients_land_in_the_buffer_that_was_there_from_the_start() -> None:
    graph = convolutional()
    engine = open_engine(graph, batch=4, threads=1)
    address = engine.gradient.ctypes.data
    engine.gradient[:] = np.nan
    engine.run(*batch(graph, 4))
    assert engine.gradient.ctypes.data == address
    assert np.isfinite(engine.gradient).all()
    assert all(np.any(engine.gradient[p.span]) for p in graph.parameters)


def test_rows_and_targets_that_are_not_contiguous_count_as_they_read() -> None:
    graph = convolutional()
    x, y = batch(graph, 8)
    engine = open_engine(graph, batch=4, threads=1)
    strided = engine.run(x[::2], y[::2])
    gradient = engine.gradient.copy()
    assert strided == engine.run(x[::2].copy(), y[::2].copy())
    assert gradient.tobytes() == engine.gradient.tobytes()


def test_a_batch_of_another_shape_or_dtype_is_refused() -> None:
    graph = convolutional()
    engine = open_engine(graph, batch=4, threads=1)
    x, y = batch(graph, 4)
    wrong: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (x[:3], y[:3]),
        (x, y[:3]),
        (x.astype(np.float64), y),
        (x, y.astype(np.int32)),
    ]
    for rows, targets in wrong:
        with pytest.raises(ValueError, match="a batch is float32"):
            engine.run(rows, targets)


def test_an_empty_batch_has_no_training_model() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        training_model(convolutional(), batch=0)


@settings(max_examples=30, deadline=None)
@given(wild=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4))
def test_a_target_outside_the_classes_adds_nothing(wild: list[int]) -> None:
    graph = admitted(perceptron(6, 5, 3))
    engine = open_engine(graph, batch=4, threads=1)
    x, _ = batch(graph, 4)
    y = np.array(wild, dtype=np.int64)
    loss = engine.run(x, y)
    mixed = engine.gradient.copy()
    valid = [i for i, target in enumerate(wild) if 0 <= target < 3]
    if not valid:
        assert loss == 0
        assert not np.any(mixed)
        return
    alone = open_engine(graph, batch=len(valid), threads=1)
    assert loss == pytest.approx(alone.run(x[valid], y[valid]) * len(valid) / 4, rel=1e-5)
    np.testing.assert_allclose(mixed, alone.gradient * len(valid) / 4, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, 3e38])
def test_wild_values_give_a_loss_that_says_so_and_no_crash(wild: float) -> None:
    graph = convolutional(32)
    engine = open_engine(graph, batch=4, threads=1)
    x, y = batch(graph, 4)
    good = engine.run(x, y)
    x[:] = wild
    assert not np.isfinite(engine.run(x, y))
    assert engine.run(*batch(graph, 4)) == good


def test_huge_logits_give_a_finite_loss() -> None:
    net = Network((2,), 2)
    net.add("Mul", net.values("const.large", np.full((1, 2), 1e30, np.float32)))
    net.add("MatMul", net.values("w", np.eye(2, dtype=np.float32)))
    engine = open_engine(admitted(net), batch=1, threads=1)
    x = np.array([[3.0, -3.0]], dtype=np.float32)
    assert engine.run(x, np.array([0])) == 0
    assert engine.run(x, np.array([1])) == pytest.approx(6e30)
    assert np.isfinite(engine.gradient).all()


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), seed=st.integers(0, 100))
def test_a_row_gets_the_same_answer_alone_and_among_others(rows: int, seed: int) -> None:
    graph = convolutional()
    x, _ = batch(graph, rows, seed=seed)
    predictor = Predictor(graph, graph.initial, threads=1)
    together = predictor.predict(x)
    alone = np.concatenate([predictor.predict(x[i : i + 1]) for i in range(rows)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)


def test_the_predictor_answers_an_empty_batch_with_no_rows() -> None:
    graph = convolutional()
    predictor = Predictor(graph, graph.initial, threads=1)
    assert predictor.predict(np.empty((0, 1, 8, 8), np.float32)).shape == (0, 4)


def test_the_predictor_refuses_rows_of_another_shape() -> None:
    graph = convolutional()
    with pytest.raises(ValueError, match="rows have shape"):
        Predictor(graph, graph.initial, threads=1).predict(np.zeros((2, 1, 8, 9), np.float32))


def test_threads_may_ask_one_predictor_at_once() -> None:
    graph = convolutional()
    predictor, (x, _) = Predictor(graph, graph.initial, threads=1), batch(graph, 16)
    wanted = predictor.predict(x)
    answers: list[NDArray[np.float32]] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(predictor.predict(x) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 80
    assert all(answer.tobytes() == wanted.tobytes() for answer in answers)


@pytest.mark.parametrize("rows", [None, 3])
def test_an_inference_model_answers_logits_for_its_batch(rows: int | None) -> None:
    graph = convolutional()
    session = open_session(inference_model(graph, graph.initial, batch=rows), threads=1)
    assert [output.name for output in session.get_outputs()] == ["logits"]
    (logits,) = session.run(None, {"x": batch(graph, 3)[0]})
    assert logits.shape == (3, 4)


@pytest.mark.parametrize("parameters", [np.zeros(3, np.float32), np.zeros(342)])
def test_parameters_of_another_size_or_dtype_are_refused(parameters: NDArray[np.float32]) -> None:
    graph = convolutional()
    with pytest.raises(GraphError, match="float32 parameters"):
        inference_model(graph, parameters, batch=1)


def test_the_training_model_is_made_of_standard_operators_alone() -> None:
    model = onnx.load_from_string(training_model(convolutional(), batch=4))
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.input][:2] == ["x", "y"]
    assert model.graph.output[0].name == "loss"


@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_an_admitted_graph_cannot_hold_values_that_are_not_finite(wild: float) -> None:
    graph = convolutional()
    values = graph.initial.copy()
    values[7] = wild
    with pytest.raises(GraphError, match="NaN or infinity"):
        AdmittedGraph(graph.spec, graph.nodes, graph.parameters, values, graph.constants, graph.tensors)


def test_an_admitted_graph_cannot_hold_parameters_of_another_size() -> None:
    graph = convolutional()
    with pytest.raises(GraphError, match="float32 values are needed"):
        AdmittedGraph(
            graph.spec, graph.nodes, graph.parameters, graph.initial[1:], graph.constants, graph.tensors
        )


def test_an_admitted_graphs_values_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        convolutional().initial[0] = 1


WATCHED = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import chiron.graph
"""


def test_telemetry_is_off_when_onnx_runtime_is_imported() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    ran = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == "1\n"


def test_a_step_that_fails_writes_nothing_to_the_logs(capfd: pytest.CaptureFixture[str]) -> None:
    to = helper.make_tensor("to", onnx.TensorProto.INT64, [2], [2, 3])
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "to"], ["y"])], "g", [x], [y], [to])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=1)
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {"x": np.zeros(5, np.float32)})
    assert capfd.readouterr() == ("", "")


def test_a_model_that_onnx_runtime_refuses_is_this_packages_error() -> None:
    with pytest.raises(GraphError, match="does not load"):
        open_session(b"no model", threads=1)
