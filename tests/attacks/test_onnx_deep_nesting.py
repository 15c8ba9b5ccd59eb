"""Attack: messages nested so deeply that the parser's stack ends, and with it the enclave."""

from __future__ import annotations

import onnx
import pytest
from graphs import linear
from onnx import helper

from chiron.graph import AdmissionError, GraphLimits, TensorSpec, admit

LIMITS = GraphLimits(max_bytes=1 << 24, max_parameters=4096)
SPEC = TensorSpec((8,), 3)
GRAPH_FIELD, NODE_FIELD, ATTRIBUTE_FIELD, SUBGRAPH_FIELD = 7, 1, 5, 6  # onnx.proto3


def field(number: int, body: bytes) -> bytes:
    """Return a protobuf field of bytes."""
    size, length = len(body), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + body


@pytest.mark.parametrize("depth", [20, 200, 20_000])
def test_graphs_in_graphs_are_refused(depth: int) -> None:
    body = b""
    for _ in range(depth):
        body = field(NODE_FIELD, field(ATTRIBUTE_FIELD, field(SUBGRAPH_FIELD, body)))
        if len(body) > LIMITS.max_bytes // 2:
            break
    with pytest.raises(AdmissionError):
        admit(field(GRAPH_FIELD, body), SPEC, limits=LIMITS)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "SequenceMap"])
def test_a_graph_inside_a_node_is_refused(operator: str) -> None:
    model = onnx.load_from_string(linear(8, 3))
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node(operator, ["x"], ["y"], body=inner))
    with pytest.raises(AdmissionError):
        admit(model.SerializeToString(), SPEC, limits=LIMITS)


def test_a_function_of_the_guests_own_is_refused() -> None:
    model = onnx.load_from_string(linear(8, 3))
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", ["x", "w"], ["y"], [node], opset))
    with pytest.raises(AdmissionError):
        admit(model.SerializeToString(), SPEC, limits=LIMITS)
