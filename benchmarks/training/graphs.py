"""Writes the networks as a guest would: ONNX with initial parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.training.nets import Average, Conv, Dense, Flatten, Pool, Relu, Residual
from chiron.graph import GraphLimits, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.training.nets import Layer, Net
    from chiron.graph import AdmittedGraph

EPSILON = 1e-5
LIMITS = GraphLimits(max_bytes=1 << 30, max_parameters=1 << 28, max_activation_bytes=1 << 36)


class _Writer:
    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._random = np.random.default_rng(seed)

    def weights(self, *shape: int) -> str:
        """Add weights as He et al. draw them (ICCV 2015)."""
        fan_in = int(np.prod(shape[1:]))
        return self._tensor(self._random.normal(0.0, (2 / fan_in) ** 0.5, shape))

    def filled(self, size: int, value: float, *, prefix: str = "") -> str:
        return self._tensor(np.full(size, value), prefix)

    def _tensor(self, values: NDArray[np.float64], prefix: str = "") -> str:
        name = f"{prefix}t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  any attribute value
        output = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def layers(self, layers: Sequence[Layer], head: str) -> str:
        for layer in layers:
            head = self.layer(layer, head)
        return head

    def layer(self, layer: Layer, head: str) -> str:  # noqa: PLR0911  a case for each kind
        match layer:
            case Conv():
                return self.conv(layer, head)
            case Relu():
                return self.op("Relu", head)
            case Pool(kernel, stride):
                return self.op("MaxPool", head, kernel_shape=[kernel] * 2, strides=[stride] * 2)
            case Average():
                return self.op("GlobalAveragePool", head)
            case Flatten():
                return self.op("Flatten", head)
            case Dense(ins, outs):
                return self.op("Gemm", head, self.weights(outs, ins), self.filled(outs, 0.0), transB=1)
            case Residual(inner, short):
                return self.op("Relu", self.op("Add", self.layers(inner, head), self.layers(short, head)))

    def conv(self, layer: Conv, head: str) -> str:
        inputs = [head, self.weights(layer.outs, layer.ins, layer.kernel, layer.kernel)]
        window: dict[str, Any] = {"pads": [layer.pad] * 4, "strides": [layer.stride] * 2}
        if not layer.norm:
            return self.op("Conv", *inputs, self.filled(layer.outs, 0.0), **window)
        head = self.op("Conv", *inputs, **window)
        moments = [self.filled(layer.outs, value, prefix="stat.") for value in (0.0, 1.0)]
        scale, bias = self.filled(layer.outs, 1.0), self.filled(layer.outs, 0.0)
        return self.op("BatchNormalization", head, scale, bias, *moments, epsilon=EPSILON, training_mode=1)


def encoded(net: Net, *, seed: int = 0) -> bytes:
    """Return the network as the bytes of an ONNX model, its weights drawn from the seed."""
    writer = _Writer(seed)
    writer.layers(net.layers, "x")
    writer.nodes[-1].output[0] = "logits"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *net.shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", net.classes])
    graph = helper.make_graph(writer.nodes, "net", [x], [logits], writer.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def admitted(net: Net, *, seed: int = 0) -> AdmittedGraph:
    """Return a network as admission leaves it."""
    return admit(encoded(net, seed=seed), TensorSpec(net.shape, net.classes), limits=LIMITS)


def random_batch(net: Net, batch: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rows, float32 of shape (batch, *shape), and targets, int64 of shape (batch,)."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(batch, *net.shape)).astype(np.float32)
    return x, random.integers(0, net.classes, batch)
