"""The network as it is served: normalisation folded into convolutions, blocks of rows phrased by shape."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from networks import Network

from chiron.graph import (
    AdmittedGraph,
    GraphLimits,
    Predictor,
    StockEngine,
    TensorSpec,
    admit,
    inference_model,
)
from chiron.graph.layout import settle
from chiron.graph.phrasing import mostly_filtered
from chiron.graph.predictor import BLOCK
from chiron.graph.runtime import open_session
from chiron.graph.writer import finished, inference_tape

LIMITS = GraphLimits(max_bytes=1 << 24, max_parameters=1 << 22)
CLASSES = 4


def normalised(*, mode: int, biased: bool, branches: bool = False, shared: bool = False) -> Network:
    """Return two convolutions with normalisations; in `branches` a convolution's output is read twice."""
    net = Network((5, 6, 6), CLASSES)
    for layer in range(2):
        kernel = "k0" if shared and layer else net.tensor(f"k{layer}", 5, 5, 3, 3)
        conv = net.add("Conv", kernel, *([net.tensor(f"c{layer}", 5)] if biased else []), pads=[1] * 4)
        moments = [net.tensor(f"{name}{layer}", 5) for name in ("s", "b", "m")]
        variance = net.values(f"v{layer}", np.linspace(0.2, 2, 5).astype(np.float32))
        net.add("BatchNormalization", *moments, variance, training_mode=mode, epsilon=0.01)
        if branches:
            net.add("Add", conv)
        net.add("Relu")
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("MatMul", net.tensor("head", 5, CLASSES))
    return net


def kinds(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("branches", [False, True])
def test_normalisation_is_folded_where_a_convolution_is_its_own(
    *, mode: int, biased: bool, shared: bool, branches: bool
) -> None:
    net = normalised(mode=mode, biased=biased, branches=branches, shared=shared)
    graph = admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)
    served = inference_model(graph, graph.initial, batch=None)
    assert kinds(served)["BatchNormalization"] == (2 if branches else 0)
    x = np.random.default_rng(0).normal(size=(3, *net.shape)).astype(np.float32)
    plain = normalised(mode=0, biased=biased, branches=branches, shared=shared).encoded()
    (wanted,) = open_session(plain, threads=1).run(None, {"x": x})
    (found,) = open_session(served, threads=1).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def wide(channels: int) -> AdmittedGraph:
    """Return convolutions over so many channels, normalised, and a pool."""
    net = Network((3, 12, 12), CLASSES)
    ins = 3
    for layer in range(2):
        net.add("Conv", net.tensor(f"k{layer}", channels, ins, 3, 3, scale=0.1), pads=(1,) * 4)
        moments = [net.tensor(f"{name}{layer}", channels) for name in ("s", "b", "m")]
        net.add("BatchNormalization", *moments, net.values(f"v{layer}", np.ones(channels, np.float32)))
        net.add("Relu")
        ins = channels
    net.add("MaxPool", kernel_shape=(2, 2), strides=(2, 2))
    net.add("Flatten")
    net.add("MatMul", net.tensor("head", channels * 36, CLASSES, scale=0.1))
    return admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)


def test_a_row_has_the_same_answer_alone_and_in_a_block() -> None:
    graph = wide(24)
    assert mostly_filtered(graph)
    rows = np.random.default_rng(0).normal(size=(2 * BLOCK + 3, 3, 12, 12)).astype(np.float32)
    predictor = Predictor(graph, graph.initial, threads=1)
    alone = np.concatenate([predictor.predict(row[None]) for row in rows])
    np.testing.assert_allclose(predictor.predict(rows), alone, rtol=1e-3, atol=1e-5)


def test_a_block_is_filtered_on_planes() -> None:
    tape = inference_tape(wide(24), wide(24).initial, batch=BLOCK, phrased=True)
    model = settle(finished(tape, wide(24), output="logits"))
    counted = Counter(node.op_type for node in model.graph.node)
    assert counted["Conv"] == 1  # the first layer's, over few channels
    assert counted["Gather"] == 1
    assert counted["MaxPool"] == counted["BatchNormalization"] == counted["Greater"] == 0


def test_few_channels_are_served_as_they_stand() -> None:
    assert not mostly_filtered(wide(16))
    net = Network((6,), CLASSES)
    net.add("MatMul", net.tensor("head", 6, CLASSES))
    assert not mostly_filtered(admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS))


def test_images_that_a_row_is_cut_into_are_filtered_too() -> None:
    """A layer's images may be more than the batch has rows: here six for each."""
    net = Network((6, 32, 8, 8), CLASSES)
    net.add("Reshape", net.values("images", np.array([-1, 32, 8, 8])))
    net.add("Conv", net.tensor("kernel", 32, 32, 3, 3, scale=0.1), net.tensor("bias", 32), pads=[1] * 4)
    net.add("GlobalAveragePool")
    net.add("Reshape", net.values("rows", np.array([-1, 192])))
    net.add("Gemm", net.tensor("head", 192, CLASSES))
    graph = admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)
    assert mostly_filtered(graph)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(BLOCK + 1, *net.shape)).astype(np.float32), np.zeros(BLOCK + 1, np.int64)
    answers = Predictor(graph, graph.initial, threads=1).predict(x)
    (logits,) = open_session(net.encoded(), threads=1).run(None, {"x": x})
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(answers, shares, rtol=1e-3, atol=1e-5)
    loss = StockEngine(graph, batch=BLOCK + 1, threads=1).run(x, y)
    assert loss == pytest.approx(-np.log(shares[:, 0]).mean(), rel=1e-4)
