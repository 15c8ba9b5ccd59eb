"""Hostile graphs: each is refused with the rule it breaks, quickly, and without a word of its content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network, perceptron
from onnx import TensorProto, helper, numpy_helper
from refusals import refused

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    Predictor,
    StockEngine,
    TensorSpec,
    admit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[onnx.ModelProto], object]

LIMITS = GraphLimits(max_bytes=1 << 16, max_parameters=100, max_nodes=8, max_activation_bytes=1 << 22)
SPEC = TensorSpec((6,), 3)
GOOD = perceptron().encoded()


def admitted(raw: bytes, spec: TensorSpec = SPEC) -> AdmittedGraph:
    return admit(raw, spec, limits=LIMITS)


def changed(change: Change) -> bytes:
    model = perceptron().model()
    change(model)
    raw: bytes = model.SerializeToString()
    return raw


def tensor(model: onnx.ModelProto, array: Any, name: str = "w1") -> None:  # noqa: ANN401  numpy array
    for each in model.graph.initializer:
        if each.name == name:
            each.CopyFrom(numpy_helper.from_array(array, name))


def node(model: onnx.ModelProto, index: int = 0) -> Any:  # noqa: ANN401  protobuf's classes are not typed
    return model.graph.node[index]


def attribute(name: str, value: Any, index: int = 0) -> Change:  # noqa: ANN401  any attribute value
    return lambda m: node(m, index).attribute.append(helper.make_attribute(name, value))


def operator(name: str, index: int = 1) -> Change:
    return lambda m: setattr(node(m, index), "op_type", name)


def only_constants(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        each.name = f"const.{each.name}"


def four_classes(model: onnx.ModelProto) -> None:
    tensor(model, np.zeros((4, 5), np.float32), "w2")
    tensor(model, np.zeros(4, np.float32), "b2")


SUBGRAPH = helper.make_graph([], "sub", [], [])
BOMB = helper.make_tensor("w1", TensorProto.FLOAT, [1], [0.0])
BOMB.dims[:] = [1 << 40, 1 << 40]

HOSTILE: dict[str, tuple[Change, str]] = {
    "unknown opset": (lambda m: setattr(m.opset_import[0], "version", 99), "version"),
    "custom opset": (lambda m: setattr(m.opset_import[0], "domain", "com.microsoft"), "version"),
    "future IR": (lambda m: setattr(m, "ir_version", 99), "version"),
    "function": (lambda m: m.functions.add(), "feature"),
    "training": (lambda m: m.training_info.add(), "feature"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "feature"),
    "quantized": (lambda m: m.graph.quantization_annotation.add(), "feature"),
    "two inputs": (lambda m: m.graph.input.append(m.graph.input[0]), "interface"),
    "input name": (lambda m: setattr(m.graph.input[0], "name", "y"), "interface"),
    "no output": (lambda m: m.graph.output.pop(), "interface"),
    "output name": (lambda m: setattr(m.graph.output[0], "name", "z"), "interface"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "nodes"),
    "many nodes": (lambda m: m.graph.node.extend([node(m)] * 9), "nodes"),
    "external data": (
        lambda m: m.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd"),
        "tensors",
    ),
    "external place": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "tensors",
    ),
    "doubles": (lambda m: tensor(m, np.zeros((6, 5))), "tensors"),
    "strings": (lambda m: tensor(m, np.array([["a"]], dtype=object)), "tensors"),
    "NaN": (lambda m: tensor(m, np.full((6, 5), np.nan, np.float32)), "finite"),
    "infinity": (lambda m: tensor(m, np.full((6, 5), np.inf, np.float32)), "finite"),
    "short data": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234"), "tensors"),
    "odd data": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"12345"), "tensors"),
    "huge dims": (lambda m: m.graph.initializer[0].CopyFrom(BOMB), "tensors"),
    "negative dims": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -6), "tensors"),
    "rank 7": (lambda m: tensor(m, np.zeros((1,) * 7, np.float32)), "tensors"),
    "twin initializers": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "names"),
    "unused initializer": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare")),
        "unused",
    ),
    "only constants": (
        only_constants,
        "parameters",
    ),
    "undefined input": (lambda m: node(m).input.__setitem__(1, "nowhere"), "order"),
    "cycle": (lambda m: node(m).input.__setitem__(0, "logits"), "order"),
    "unsorted": (lambda m: m.graph.node.insert(0, m.graph.node.pop()), "order"),
    "empty input": (lambda m: node(m).input.__setitem__(1, ""), "order"),
    "writes x": (lambda m: node(m).output.__setitem__(0, "x"), "names"),
    "writes a weight": (lambda m: node(m).output.__setitem__(0, "w2"), "names"),
    "no output name": (lambda m: node(m).output.__setitem__(0, ""), "names"),
    "two outputs": (lambda m: node(m).output.append("more"), "operands"),
    "last node elsewhere": (lambda m: node(m, 2).output.__setitem__(0, "other"), "interface"),
    "unknown operator": (operator("Loop"), "operator"),
    "custom domain": (lambda m: setattr(node(m), "domain", "com.microsoft"), "operator"),
    "subgraph": (attribute("body", SUBGRAPH), "attribute"),
    "tensor attribute": (attribute("value", BOMB), "attribute"),
    "reference": (lambda m: node(m).attribute.add(name="transA", ref_attr_name="q"), "feature"),
    "unknown attribute": (attribute("axis", 3, 1), "attribute"),
    "attribute range": (attribute("transA", 2), "attribute"),
    "attribute type": (attribute("alpha", 1), "attribute"),
    "attribute twice": (lambda m: node(m, 2).attribute.append(node(m, 2).attribute[0]), "attribute"),
    "too many inputs": (lambda m: node(m, 1).input.append("w1"), "operands"),
    "rows as weights": (lambda m: node(m, 2).input.__setitem__(1, "x"), "shape"),
    "weights as rows": (lambda m: node(m, 2).input.__setitem__(0, "w1"), "interface"),
    "shape mismatch": (lambda m: tensor(m, np.zeros((7, 5), np.float32)), "shape"),
    "bias over the batch": (
        lambda m: tensor(m, np.zeros((3, 5), np.float32), "b1"),
        "rows",
    ),
    "wrong logits": (four_classes, "interface"),
    "many parameters": (lambda m: tensor(m, np.zeros((50, 50), np.float32)), "parameters"),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_graph_is_refused_by_its_rule_in_little_time_and_memory(kind: str) -> None:
    change, rule = HOSTILE[kind]
    raw = changed(change)
    assert refused(lambda: admitted(raw)).rule.value == rule


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"", "rule 'format'"),
        (b"\xff" * 100, "rule 'format'"),
        (b"MZ not a model", "rule '(format|version)'"),
        (bytes(1 << 17), "rule 'bytes'"),
        (b"\x3a\x80\x80\x80\x80\x70", "rule 'format'"),
    ],
)
def test_bytes_that_are_no_model_are_refused(raw: bytes, rule: str) -> None:
    with pytest.raises(AdmissionError, match=rule):
        admitted(raw)


def test_an_admitted_graph_carries_no_name_of_the_guests() -> None:
    net = Network((6,), 3)
    net.add("Sub", net.values("const.secret-mean", np.ones(6, np.float32)))
    net.add("Gemm", net.tensor("secret-weights", 6, 3))
    graph = admitted(net.encoded())
    assert "secret" not in repr([graph.nodes, graph.parameters, list(graph.constants)])
    assert [parameter.name for parameter in graph.parameters] == ["p0"]


def test_the_guests_names_may_be_ours_without_harm() -> None:
    net = Network((6,), 3)
    net.add("Gemm", net.tensor("v0", 6, 5), net.tensor("c0", 5))
    net.nodes[-1].output[0] = net.head = "p0"
    net.add("Relu")
    net.nodes[-1].output[0] = net.head = "g0"
    net.add("Gemm", net.tensor("k0", 5, 3))
    engine = StockEngine(admitted(net.encoded()), batch=2, threads=1)
    assert np.isfinite(engine.run(np.ones((2, 6), np.float32), np.array([0, 1])))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_graph_is_refused_or_trains(data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    try:
        graph = admitted(bytes(raw[:cut]))
    except AdmissionError:
        return
    StockEngine(graph, batch=2, threads=1).run(np.ones((2, 6), np.float32), np.array([0, 1]))
    Predictor(graph, graph.initial, threads=1).predict(np.ones((1, 6), np.float32))
