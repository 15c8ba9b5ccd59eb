"""What a step or an answer takes of memory is counted before it is taken: also where ONNX Runtime unfolds."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import Network

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    Predictor,
    Rule,
    TensorSpec,
    admit,
    predictor,
)
from chiron.graph.shapes import volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MIB = 1 << 20


def admitted(net: Network, megabytes: int, *, batch: int = 2) -> AdmittedGraph:
    limits = GraphLimits(64 * MIB, 1 << 22, max_activation_bytes=megabytes * MIB, max_batch=batch)
    return admit(net.encoded(), TensorSpec(net.shape, net.classes), limits=limits)


def image(channels: int = 1) -> Network:
    """Return a network whose few inputs become an image of 256 by 256."""
    net = Network((4,), 3)
    net.add("Gemm", net.tensor("high", 4, 256))
    net.add("Reshape", net.values("to", np.array([0, 1, 256, 1])))
    net.add("Add", net.tensor("wide", channels, 1, 256))
    return net


def classified(net: Network, channels: int = 1) -> Network:
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("Gemm", net.tensor("head", channels, 3))
    return net


def wide_average() -> Network:
    net = image()
    net.add("AveragePool", kernel_shape=[48, 48])
    return classified(net)


def strided_convolution() -> Network:
    net = image(4)
    net.add("Conv", net.tensor("kernel", 1, 4, 40, 40), strides=[2, 1])
    return classified(net)


def shared_weights() -> Network:
    net = Network((512,), 512)
    net.tensor("w", 512, 512)
    for _ in range(200):
        net.add("MatMul", "w")
    return net


HUNGRY: dict[str, Callable[[], Network]] = {
    "wide average": wide_average,
    "strided convolution": strided_convolution,
    "shared weights": shared_weights,
}


@pytest.mark.parametrize("kind", sorted(HUNGRY))
def test_memory_that_does_not_grow_with_the_batch_counts_too(kind: str) -> None:
    net = HUNGRY[kind]()
    with pytest.raises(AdmissionError) as refusal:
        admitted(net, 150)
    assert refusal.value.rule is Rule.MEMORY
    assert admitted(net, 1024)


@pytest.mark.parametrize("operator", ["Conv", "AveragePool"])
def test_an_ordinary_layer_with_strides_costs_little(operator: str) -> None:
    net = image(8)
    if operator == "Conv":
        net.add("Conv", net.tensor("kernel", 8, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    else:
        net.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    assert admitted(classified(net, 8), 64)


STEP = """
import pathlib, re, sys
import numpy as np
from chiron.graph import GraphLimits, StockEngine, TensorSpec, admit

def kib(what):
    return int(re.search(what + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

shape, classes, batch = {shape}, {classes}, {batch}
limits = GraphLimits(1 << 26, 1 << 23, max_activation_bytes=1 << 30, max_batch=batch)
graph = admit(sys.stdin.buffer.read(), TensorSpec(shape, classes), limits=limits)
engine = StockEngine(graph, batch=batch, threads=1)
before = kib("VmRSS")
engine.run(np.ones((batch, *shape), np.float32), np.zeros(batch, np.int64))
print((kib("VmHWM") - before) // 1024)
"""


def least_estimate(net: Network, *, batch: int = 2) -> int:
    """Return the lowest limit, in MiB, that admits a network."""
    low, high = 1, 1024
    while low < high:
        middle = (low + high) // 2
        try:
            admitted(net, middle, batch=batch)
            high = middle
        except AdmissionError:
            low = middle + 1
    return low


def long_kernel() -> Network:
    """Return a first layer whose windows hold 1,600 values."""
    net = Network((4, 16_384), 3)
    net.add("Conv", net.tensor("kernel", 8, 4, 400))
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("Gemm", net.tensor("head", 8, 3))
    return net


def dilated_convolution() -> Network:
    """Return many channels that become few: each place of the kernel has a share of the image."""
    net = image(64)
    net.add("Conv", net.tensor("kernel", 8, 64, 3, 3), dilations=[2, 2], pads=[2] * 4)
    return classified(net, 8)


def tall_convolution() -> Network:
    net = image(64)
    net.add("Conv", net.tensor("kernel", 8, 64, 9, 1), pads=[4, 0, 4, 0])
    return classified(net, 8)


def stack_of_matrices() -> Network:
    """Return few values for a row that are multiplied by 64 matrices."""
    net = Network((16,), 3)
    net.add("Reshape", net.values("to", np.array([-1, 1, 1, 16])))
    net.add("MatMul", net.tensor("stack", 64, 16, 2048))
    net.add("ReduceMean", axes=[1, 2], keepdims=0)
    net.add("Gemm", net.tensor("head", 2048, 3))
    return net


STEPS: dict[str, tuple[Callable[[], Network], int]] = {
    "shared weights": (shared_weights, 2),
    "long kernel": (long_kernel, 2),
    "dilated convolution": (dilated_convolution, 2),
    "tall convolution": (tall_convolution, 2),
    "stack of matrices": (stack_of_matrices, 16),
}


@pytest.mark.parametrize("kind", sorted(STEPS))
def test_a_step_takes_no_more_memory_than_was_counted(kind: str) -> None:
    made, batch = STEPS[kind]
    net = made()
    code = STEP.format(shape=net.shape, classes=net.classes, batch=batch)
    done = subprocess.run([sys.executable, "-c", code], input=net.encoded(), capture_output=True, check=True)
    assert int(done.stdout) <= least_estimate(net, batch=batch) + 32


def test_a_prediction_takes_few_rows_at_once_where_each_takes_much(monkeypatch: pytest.MonkeyPatch) -> None:
    net = image()
    graph = admitted(classified(net), 64)
    x = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    wanted = Predictor(graph, graph.initial, threads=1).predict(x)
    monkeypatch.setattr(
        predictor, "AT_ONCE_VALUES", 4 * sum(volume(shape) for shape in graph.tensors.values())
    )
    few, sizes = Predictor(graph, graph.initial, threads=1), []
    run = few._run

    def counted(session: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ANN401
        sizes.append(len(rows))
        return run(session, rows)

    monkeypatch.setattr(few, "_run", counted)
    np.testing.assert_allclose(few.predict(x), wanted, rtol=1e-5)
    assert sizes == [4, 4, 3]


def deep_convolutions(layers: int) -> Network:
    """Return convolutions over many channels, whose tiles pass with each and whose images stay."""
    net = Network((16, 32, 32), 3)
    for layer in range(layers):
        net.add("Conv", net.tensor(f"kernel{layer}", 16, 16, 3, 3, scale=0.1), pads=[1, 1, 1, 1])
    return classified(net, 16)


def test_what_passes_with_a_layer_is_counted_once() -> None:
    """Each layer keeps its image, its gradient and its tiles, 4.25 images; one takes 7 more for a while."""
    few, many = least_estimate(deep_convolutions(2)), least_estimate(deep_convolutions(10))
    image_bytes = 4 * 2 * 16 * 32 * 32
    assert 4 * 8 * image_bytes <= (many - few) * MIB <= 5 * 8 * image_bytes + 2 * MIB


def test_a_row_over_the_size_of_a_part_is_answered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = admitted(classified(image()), 64)
    monkeypatch.setattr(predictor, "AT_ONCE_VALUES", 1)
    assert Predictor(graph, graph.initial, threads=1).predict(np.zeros((3, 4), np.float32)).shape == (3, 3)
