"""Small ONNX graphs as a guest would emit them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def linear(values: int, classes: int, *, operator: str = "Gemm") -> bytes:
    """Return a linear classifier over rows of rank 1; another operator than Gemm makes it inadmissible."""
    weights = np.random.default_rng(0).normal(size=(values, classes)).astype(np.float32) / 10
    tensors = [numpy_helper.from_array(weights, "w")]
    node = helper.make_node(operator, ["x", "w"], ["logits"], name="head")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", values])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph([node], "g", [x], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    encoded: bytes = model.SerializeToString()
    return encoded
