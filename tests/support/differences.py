"""Gradients by central differences in float64, of the guest's own model: nothing of Chiron's is in it."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from engines import engines_for
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chiron.graph import AdmittedGraph

STEP = 1e-6
Shape = tuple[int, ...]


def _taps(
    image: NDArray[Any], kernel: Shape, *, fill: float, strides: Shape, pads: Shape, dilations: Shape
) -> NDArray[Any]:
    """Return what each place of a window sees: (places, n, channels, height, width)."""
    (top, left, bottom, right) = pads
    padded = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    high, wide = (
        (padded.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in (0, 1)
    )
    seen = []
    for place in product(range(kernel[0]), range(kernel[1])):
        row, column = place[0] * dilations[0], place[1] * dilations[1]
        view = padded[:, :, row : row + strides[0] * high : strides[0]]
        seen.append(view[..., column : column + strides[1] * wide : strides[1]][:, :, :high, :wide])
    return np.stack(seen)


def _window(given: dict[str, Any]) -> dict[str, Shape]:
    defaults = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return {name: tuple(given.get(name) or default) for name, default in defaults.items()}


def _seen(image: NDArray[Any], kernel: Shape, given: dict[str, Any], *, fill: float) -> NDArray[Any]:
    """Return what each place of a window sees; the last ones may hang over, as `ceil_mode` says."""
    window = _window(given)
    if given.get("ceil_mode"):
        room = [window["strides"][i] - 1 for i in (0, 1)]
        pads = window["pads"]
        window["pads"] = (*pads[:2], pads[2] + room[0], pads[3] + room[1])
    return _taps(image, kernel, fill=fill, **window)


class _Pool(OpRun):
    """Pools with explicit pads; the evaluator's own pools refuse pads that differ from side to side."""

    op_domain = ""

    def _run(self, image: NDArray[Any], kernel_shape: Shape = (), **given: Any) -> tuple[NDArray[Any]]:  # noqa: ANN401
        if image.ndim == 4:
            return (self.pooled(image, tuple(kernel_shape), given),)
        planes = {
            name: (neutral, *given[name])
            for name, neutral in (("strides", 1), ("dilations", 1))
            if given.get(name)
        }
        if given.get("pads"):
            planes["pads"] = (0, given["pads"][0], 0, given["pads"][1])
        return (self.pooled(image[:, :, None], (1, *kernel_shape), given | planes)[:, :, 0],)

    def pooled(self, image: NDArray[Any], kernel: Shape, given: dict[str, Any]) -> NDArray[Any]:
        raise NotImplementedError


class MaxPool(_Pool):
    """The largest that each window sees."""

    def pooled(self, image: NDArray[Any], kernel: Shape, given: dict[str, Any]) -> NDArray[Any]:
        largest: NDArray[Any] = _seen(image, kernel, given, fill=-np.inf).max(axis=0)
        return largest


class AveragePool(_Pool):
    """The mean of what each window sees."""

    def pooled(self, image: NDArray[Any], kernel: Shape, given: dict[str, Any]) -> NDArray[Any]:
        fill = 0.0 if given.get("count_include_pad") else np.nan
        return np.asarray(np.nanmean(_seen(image, kernel, given, fill=fill), axis=0))


class Erf(OpRun):
    """The error function in float64; the evaluator's own rounds to float32."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.vectorize(math.erf, otypes=[np.float64])(x),)


class Gelu(OpRun):
    """Exact Gelu in float64; the evaluator's own computes in float32."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str = "none") -> tuple[NDArray[Any]]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / np.sqrt(2))),)


class GroupNormalization(OpRun):
    """Group normalisation in float64; the evaluator's own computes in float32."""

    op_domain = ""

    def _run(
        self, x: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any], epsilon: float = 1e-5,
        num_groups: int = 1, stash_type: int = 1,  # noqa: ARG002
    ) -> tuple[NDArray[Any]]:  # fmt: skip
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(axis=2, keepdims=True)
        even = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + epsilon)
        channels = (-1, *(1,) * (x.ndim - 2))
        return (even.reshape(x.shape) * scale.reshape(channels) + bias.reshape(channels),)


class Reference:
    """A guest's model in float64; its initializers that are trained are one flat vector, as Chiron has it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        wide = onnx.ModelProto()
        wide.CopyFrom(model)
        self.initial: dict[str, NDArray[np.float64]] = {}
        kept = []
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                array = array.astype(np.float64)
                if array.shape and not tensor.name.startswith("const."):
                    self.initial[tensor.name] = array
                    declared = helper.make_tensor_value_info(tensor.name, TensorProto.DOUBLE, array.shape)
                    wide.graph.input.append(declared)
                    continue
            kept.append(numpy_helper.from_array(array, tensor.name))
        del wide.graph.initializer[:], wide.graph.value_info[:]
        wide.graph.initializer.extend(kept)
        for port in (*wide.graph.input, *wide.graph.output):
            if port.type.tensor_type.elem_type == TensorProto.FLOAT:
                port.type.tensor_type.elem_type = TensorProto.DOUBLE
        for node in wide.graph.node:
            for attribute in node.attribute:
                _widen(attribute)
        self._run = ReferenceEvaluator(wide, new_ops=[MaxPool, AveragePool, Erf, Gelu, GroupNormalization])

    def logits(self, at: NDArray[np.float64], x: NDArray[Any]) -> NDArray[np.float64]:
        """Return the logits at parameters, float64 of shape (n,)."""
        feeds: dict[str, Any] = {"x": x.astype(np.float64) if x.dtype.kind == "f" else x}
        place = 0
        for name, array in self.initial.items():
            feeds[name] = at[place : place + array.size].reshape(array.shape)
            place += array.size
        (result,) = self._run.run(["logits"], feeds)
        return np.asarray(result, dtype=np.float64)

    def loss(self, at: NDArray[np.float64], x: NDArray[Any], y: NDArray[np.int64]) -> float:
        """Return the mean cross-entropy."""
        logits = self.logits(at, x)
        shifted = logits - logits.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-logs[np.arange(len(y)), y].mean())


def _widen(attribute: onnx.AttributeProto) -> None:
    if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
    if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
        attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))


def check_gradient(
    graph: AdmittedGraph, model: onnx.ModelProto, x: NDArray[Any], random: np.random.Generator
) -> None:
    """Compare loss and gradient of an admitted graph with those of the guest's model."""
    y = random.integers(0, graph.spec.classes, len(x))
    engines = [make(graph, batch=len(x), threads=1) for make in engines_for(graph)]
    reference = Reference(model)
    at = graph.initial.astype(np.float64)
    for engine in engines:
        loss = engine.run(x.astype(np.float32), y)
        assert loss == pytest.approx(reference.loss(at, x, y), rel=1e-5, abs=1e-6)
    gradients = [engine.gradient for engine in engines]
    for gradient in gradients[1:]:
        apart = np.linalg.norm(gradient - gradients[0])
        assert apart <= 1e-5 * max(float(np.linalg.norm(gradients[0])), 1.0)
    trained = np.concatenate([np.full(p.size, p.trained) for p in graph.parameters])
    directions = [*random.normal(size=(4, at.size)), *np.eye(at.size)[random.permutation(at.size)[:12]]]
    for direction in directions:
        moved = direction * trained
        ends = [reference.loss(at + sign * STEP * moved, x, y) for sign in (1, -1)]
        numerical = (ends[0] - ends[1]) / (2 * STEP)
        for gradient in gradients:
            scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
            assert gradient @ direction == pytest.approx(numerical, rel=1e-4, abs=1e-5 * max(scale, 1.0))
