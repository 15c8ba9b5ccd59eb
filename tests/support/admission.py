"""Networks before admission: admitted, or refused with an error to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from networks import Network, perceptron

from chiron.graph import AdmissionError, AdmittedGraph, GraphLimits, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

MIB = 1 << 20
LIMITS = GraphLimits(max_bytes=32 * MIB, max_parameters=1 << 16, max_activation_bytes=64 * MIB)


def admitted(net: Network, limits: GraphLimits = LIMITS) -> AdmittedGraph:
    return admit(net.encoded(), TensorSpec(net.shape, net.classes), limits=limits)


def refusal(raw: bytes, spec: TensorSpec, limits: GraphLimits = LIMITS) -> AdmissionError:
    with pytest.raises(AdmissionError) as caught:
        admit(raw, spec, limits=limits)
    return caught.value


def refused(net: Network, limits: GraphLimits = LIMITS) -> AdmissionError:
    return refusal(net.encoded(), TensorSpec(net.shape, net.classes), limits)


def changed(change: Callable[[onnx.ModelProto], object]) -> AdmissionError:
    model = perceptron().model()
    change(model)
    return refusal(model.SerializeToString(), TensorSpec((6,), 3))


def image_network() -> Network:
    """Return a network with most operators in it."""
    net = Network((2, 8, 8), 3)
    net.add(
        "Conv", net.tensor("k1", 4, 1, 3, 3), net.tensor("b1", 4), pads=[1] * 4, group=2, dilations=[1, 1]
    )
    side = net.add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("AveragePool", kernel_shape=[2, 2], pads=[1] * 4)
    net.add("LeakyRelu", alpha=0.125)
    net.add("GlobalAveragePool")
    net.add("Mul", side)
    net.add("Reshape", net.values("to", np.array([0, 16, -1], np.int64)))
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 3, 256), net.tensor("b", 3), transB=1)
    return net
