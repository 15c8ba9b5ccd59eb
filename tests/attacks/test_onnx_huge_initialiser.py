"""Attack: a few bytes of graph that stand for terabytes, or for more work than a slot has."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import onnx
import pytest
from graphs import linear
from onnx import TensorProto, helper

from chiron.graph import AdmissionError, GraphLimits, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = GraphLimits(max_bytes=1 << 16, max_parameters=4096)
SPEC = TensorSpec((8,), 3)
ALLOWED_KIB = 64 << 10


def dimensions(*sizes: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = sizes

    return change


def constant_of_shape(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [1 << 30, 1 << 30])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["s"], ["big"]))


def tile(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("r", TensorProto.INT64, [2], [1 << 20, 1 << 20]))
    model.graph.node.insert(0, helper.make_node("Tile", ["w", "r"], ["big"]))


@pytest.mark.parametrize(
    "change",
    [
        dimensions(1 << 40, 3),
        dimensions(1 << 62, 1 << 62),
        dimensions(-1, 3),
        dimensions(0, 3),
        dimensions(8, 3, *[1] * 100),
        constant_of_shape,
        tile,
    ],
)
def test_it_is_refused_before_anything_is_allocated(change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load_from_string(linear(8, 3))
    change(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AdmissionError):
        admit(model.SerializeToString(), SPEC, limits=LIMITS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ALLOWED_KIB


def test_a_graph_over_its_bytes_is_not_even_parsed() -> None:
    with pytest.raises(AdmissionError, match="65536"):
        admit(b"\xff" * (LIMITS.max_bytes + 1), SPEC, limits=LIMITS)
