"""Builds ONNX graphs node by node, good ones and hostile ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Network:
    """A graph in the making; `head` is the tensor that the next node reads."""

    shape: tuple[int, ...]
    classes: int
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    head: str = "x"

    def tensor(self, name: str, *shape: int, scale: float = 0.5) -> str:
        """Add a float32 initializer of seeded noise."""
        random = np.random.default_rng(self.seed + len(self.tensors))
        return self.values(name, (random.normal(size=shape) * scale).astype(np.float32))

    def values(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer with these values."""
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *others: str, first: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """Add a node on the head and others; its output becomes the head."""
        output = f"t{len(self.nodes)}"
        inputs = [self.head if first is None else first, *others]
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        self.head = output
        return output

    def model(self) -> onnx.ModelProto:
        """Return the model, the last node writing `logits`."""
        self.nodes[-1].output[0] = "logits"
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *self.shape])
        logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", self.classes])
        graph = helper.make_graph(self.nodes, "g", [x], [logits], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def encoded(self) -> bytes:
        """Return the model's bytes."""
        raw: bytes = self.model().SerializeToString()
        return raw


def perceptron(values: int = 6, hidden: int = 5, classes: int = 3) -> Network:
    """Return Gemm, Tanh, Gemm."""
    net = Network((values,), classes)
    net.add("Gemm", net.tensor("w1", values, hidden), net.tensor("b1", hidden))
    net.add("Tanh")
    net.add("Gemm", net.tensor("w2", classes, hidden), net.tensor("b2", classes), transB=1)
    return net
