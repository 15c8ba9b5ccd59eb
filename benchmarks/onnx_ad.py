"""Measures gradient graphs of the package onnx-ad against Chiron's own, and how far onnx-ad agrees.

    pip install onnx-ad==0.3.0 && python -m benchmarks.onnx_ad

The same admitted network, loss and batch go both ways; both graphs run on one thread of stock ONNX Runtime,
in turns; times are the processor's. A ratio above 1 says that Chiron's graph is faster. onnx-ad is no
dependency of Chiron: see spec/adr/0012-gradient-rules-are-our-own.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ad
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from corpus import load
from networks import Network

from chiron.graph import AdmittedGraph, GraphLimits, TensorSpec, admit
from chiron.graph.gradient import gradient_name, training_model
from chiron.graph.runtime import open_session
from chiron.graph.writer import tape_of, value_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BATCH, CLASSES, WARM_UP = 64, 10, 3
LIMITS = GraphLimits(max_bytes=1 << 28, max_parameters=1 << 25, max_activation_bytes=8 << 30, max_batch=BATCH)
OPSET = 17
TOKENS = 1000  # of the text network's vocabulary
NO_GRADIENT = 1e-3  # below this norm a gradient may be zero but for rounding


def mlp() -> AdmittedGraph:
    """Build 784-256-128-10."""
    net = Network((1, 28, 28), CLASSES)
    net.add("Flatten")
    _dense(net, 784, 256)
    net.add("Relu")
    _dense(net, 256, 128)
    net.add("Relu")
    return _head(net, 128)


def lenet() -> AdmittedGraph:
    """Build two 5x5 convolutions with pooling, three dense layers."""
    net = Network((1, 28, 28), CLASSES)
    for came, out, pad in ((1, 6, 2), (6, 16, 0)):
        _conv(net, came, out, 5, pad)
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Flatten")
    _dense(net, 400, 120)
    net.add("Relu")
    _dense(net, 120, 84)
    net.add("Relu")
    return _head(net, 84)


def vgg9() -> AdmittedGraph:
    """Build six 3x3 convolutions and three dense layers for 32x32 images."""
    net = Network((3, 32, 32), CLASSES)
    came = 3
    for width, count in ((64, 1), (128, 1), (256, 2), (256, 2)):
        for _ in range(count):
            _conv(net, came, width, 3, 1)
            came = width
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Flatten")
    _dense(net, 1024, 256)
    net.add("Relu")
    _dense(net, 256, 256)
    net.add("Relu")
    return _head(net, 256)


def of_corpus(name: str, row: tuple[int, ...], classes: int) -> Callable[[], AdmittedGraph]:
    """Return what admits a network of tests/vectors/onnx."""
    return lambda: admit(load(name), TensorSpec(row, classes), limits=LIMITS)


NETWORKS: dict[str, Callable[[], AdmittedGraph]] = {
    "MLP": mlp,
    "LeNet": lenet,
    "VGG-9": vgg9,
    "MLP-Mixer": of_corpus("mixer.dynamo.eval", (3, 32, 32), 10),
    "transformer for text": of_corpus("plain_transformer.dynamo.eval", (32,), 4),
    "ResNet, GroupNorm": of_corpus("resnet_group_norm.script.train", (3, 32, 32), 10),
    "GRU": of_corpus("gru_series.dynamo.train", (20, 8), 5),
}


def _conv(net: Network, came: int, out: int, kernel: int, pad: int) -> None:
    scale = (2 / (came * kernel**2)) ** 0.5
    number = len(net.tensors)
    weights = net.tensor(f"w{number}", out, came, kernel, kernel, scale=scale)
    net.add("Conv", weights, net.tensor(f"b{number}", out, scale=0.01), pads=[pad] * 4)
    net.add("Relu")


def _dense(net: Network, came: int, out: int) -> None:
    number = len(net.tensors)
    weights = net.tensor(f"w{number}", came, out, scale=(2 / came) ** 0.5)
    net.add("Gemm", weights, net.tensor(f"b{number}", out, scale=0.01))


def _head(net: Network, came: int) -> AdmittedGraph:
    _dense(net, came, CLASSES)
    return admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)


def by_onnx_ad(graph: AdmittedGraph, batch: int) -> bytes:
    """Return the training graph that onnx-ad makes of network and loss."""
    tape = tape_of(graph, batch=batch, training=False)
    nodes = [*tape.nodes, helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "y"], ["loss"])]
    inputs = [
        value_info("x", (batch, *graph.spec.input_shape)),
        value_info("y", (batch,), TensorProto.INT64),
        *(value_info(p.name, p.shape) for p in graph.parameters),
    ]
    made = helper.make_graph(nodes, "loss", inputs, [value_info("loss", ())], tape.tensors)
    opset = helper.make_opsetid("", OPSET)
    model = onnx.shape_inference.infer_shapes(helper.make_model(made, opset_imports=[opset], ir_version=8))
    names = [p.name for p in graph.parameters]
    adjoint: onnx.ModelProto = onnx_ad.reverse(model, inputs=names, outputs=["loss"], layout="onnx")
    return with_one_seed(adjoint)


def with_one_seed(model: onnx.ModelProto) -> bytes:
    """Make the seed, one 1, a constant: ONNX Runtime can fold what follows from it."""
    kept = [value for value in model.graph.input if value.name != "adj_loss"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1,), np.float32), "adj_loss"))
    return bytes(model.SerializeToString())


def compare(name: str, *, rounds: int) -> str:
    """Return a table's row: nodes, the largest relative difference, times in turns."""
    graph = NETWORKS[name]()
    random = np.random.default_rng(0)
    shape, top = (BATCH, *graph.spec.input_shape), TOKENS if "text" in name else 1
    feeds: dict[str, NDArray[np.generic]] = {
        "x": (random.random(shape) * top).astype(np.float32),
        "y": random.integers(0, graph.spec.classes, BATCH),
        **{p.name: graph.initial[p.span].reshape(p.shape) for p in graph.parameters},
    }
    models = training_model(graph, batch=BATCH), by_onnx_ad(graph, BATCH)
    wanted = (
        ["loss", *(gradient_name(p.name) for p in graph.parameters)],
        ["loss", *(f"adj_{p.name}" for p in graph.parameters)],
    )
    sessions = [open_session(models[0], threads=1, as_written=True), open_session(models[1], threads=1)]
    ours, theirs = (session.run(names, feeds) for session, names in zip(sessions, wanted, strict=True))
    worst = max(
        float(np.linalg.norm(a - b.reshape(a.shape))) / max(float(np.linalg.norm(a)), NO_GRADIENT)
        for a, b in zip(ours, theirs, strict=True)
    )
    times: list[list[float]] = [[], []]
    for turn in range(WARM_UP + rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            sessions[which].run(wanted[which], feeds)
            times[which].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(*(each[WARM_UP:] for each in times), strict=True)]
    nodes = [len(onnx.load_from_string(model).graph.node) for model in models]
    ms = [1000 * median(each[WARM_UP:]) for each in times]
    return (
        f"| {name} | {nodes[0]} | {nodes[1]} | {worst:.1e} | {ms[0]:.1f} ms | {ms[1]:.1f} ms |"
        f" {median(ratios):.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print("| network | nodes, Chiron | nodes, onnx-ad | difference | Chiron | onnx-ad | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in NETWORKS:
        print(compare(name, rounds=rounds), flush=True)


if __name__ == "__main__":
    main()
