"""Layers with random shapes and attributes, for ONNX and for PyTorch: both ends draw the same from one seed.

Needs numpy alone, since PyTorch is in an environment of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BATCH, CLASSES = 3, 4


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: rows' shape, ONNX operator and attributes, and what torch.nn.functional takes for them."""

    shape: tuple[int, ...]
    operator: str
    attributes: dict[str, Any]
    options: dict[str, Any]
    parameters: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    opset: int = 20


def _weights(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.normal(size=shape).astype(np.float32)


def _pick(random: np.random.Generator, low: int, high: int, count: int = 2) -> list[int]:
    return [int(each) for each in random.integers(low, high + 1, count)]


def conv2d(random: np.random.Generator) -> Layer:
    group = int(random.choice([1, 1, 2, 3]))
    ins, outs = (group * int(n) for n in random.integers(1, 4, 2))
    kernel, strides, dilations = _pick(random, 1, 5), _pick(random, 1, 2), _pick(random, 1, 2)
    pads = [int(random.integers(0, k)) for k in kernel]
    size = [(k - 1) * d + 1 + int(random.integers(0, 9)) for k, d in zip(kernel, dilations, strict=True)]
    said = {"strides": strides, "pads": pads * 2, "dilations": dilations, "group": group}
    told = {"stride": strides, "padding": pads, "dilation": dilations, "groups": group}
    held = {"weight": _weights(random, outs, ins // group, *kernel), "bias": _weights(random, outs)}
    return Layer((ins, *size), "Conv", said, told, held)


def conv1d(random: np.random.Generator) -> Layer:
    ins, outs, kernel, stride = (int(n) for n in random.integers(1, 4, 4))
    said = {"strides": [stride], "pads": [kernel - 1, kernel - 1]}
    told = {"stride": stride, "padding": kernel - 1}
    held = {"weight": _weights(random, outs, ins, kernel), "bias": _weights(random, outs)}
    return Layer((ins, kernel + 6), "Conv", said, told, held)


def conv_transpose2d(random: np.random.Generator) -> Layer:
    group = int(random.choice([1, 2]))
    ins, outs = group * int(random.integers(1, 3)), int(random.integers(1, 3))
    kernel, strides = _pick(random, 2, 4), _pick(random, 1, 3)
    pads, extra = _pick(random, 0, 1), [int(random.integers(0, s)) for s in strides]
    said = {"strides": strides, "pads": pads * 2, "output_padding": extra, "group": group}
    told = {"stride": strides, "padding": pads, "output_padding": extra, "groups": group}
    held = {"weight": _weights(random, ins, outs, *kernel), "bias": _weights(random, outs * group)}
    return Layer((ins, *_pick(random, 2, 5)), "ConvTranspose", said, told, held)


def max_pool2d(random: np.random.Generator) -> Layer:
    kernel, strides, dilations = _pick(random, 2, 3), _pick(random, 1, 3), _pick(random, 1, 2)
    pads, ceil = _pick(random, 0, 1), bool(random.integers(0, 2))
    said = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "dilations": dilations}
    told = {"kernel_size": kernel, "stride": strides, "padding": pads, "dilation": dilations}
    shape = (2, *_pick(random, 6, 11))
    return Layer(shape, "MaxPool", said | {"ceil_mode": int(ceil)}, told | {"ceil_mode": ceil})


def avg_pool2d(random: np.random.Generator) -> Layer:
    kernel, strides, pads = _pick(random, 2, 3), _pick(random, 1, 3), _pick(random, 0, 1)
    counted = bool(random.integers(0, 2))
    said = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "count_include_pad": int(counted)}
    told = {"kernel_size": kernel, "stride": strides, "padding": pads, "count_include_pad": counted}
    return Layer((2, *_pick(random, 4, 9)), "AveragePool", said, told)


def _norm(random: np.random.Generator, size: int) -> dict[str, NDArray[np.float32]]:
    return {"weight": _weights(random, size), "bias": _weights(random, size)}


def batch_norm(random: np.random.Generator) -> Layer:
    channels, *size = _pick(random, 1, 4, 3)
    told = {"running_mean": None, "running_var": None, "training": True}
    return Layer((channels, *size), "BatchNormalization", {"training_mode": 1}, told, _norm(random, channels))


def layer_norm(random: np.random.Generator) -> Layer:
    steps, size = _pick(random, 2, 6)
    return Layer((steps, size), "LayerNormalization", {}, {"normalized_shape": [size]}, _norm(random, size))


def group_norm(random: np.random.Generator) -> Layer:
    groups, each, *size = _pick(random, 1, 3, 4)
    shape = (groups * each, size[0] + 1, size[1] + 1)
    said, held = {"num_groups": groups}, _norm(random, groups * each)
    return Layer(shape, "GroupNormalization", said, said, held, opset=21)


def instance_norm(random: np.random.Generator) -> Layer:
    channels, *size = _pick(random, 2, 4, 3)
    return Layer((channels, *size), "InstanceNormalization", {}, {}, _norm(random, channels))


def interpolate(random: np.random.Generator) -> Layer:
    return Layer((2, *_pick(random, 2, 4)), "Resize", {}, {"scale_factor": 2, "mode": "nearest"})


def _plain(operator: str, said: dict[str, Any], told: dict[str, Any], opset: int = 20) -> Any:  # noqa: ANN401
    return lambda random: Layer(tuple(_pick(random, 1, 5)), operator, said, told, opset=opset)


LAYERS: dict[str, Callable[[np.random.Generator], Layer]] = {
    each.__name__: each
    for each in (
        conv2d, conv1d, conv_transpose2d, max_pool2d, avg_pool2d, batch_norm, layer_norm, group_norm,
        instance_norm, interpolate,
    )
} | {
    "relu": _plain("Relu", {}, {}),
    "gelu": _plain("Gelu", {"approximate": "tanh"}, {"approximate": "tanh"}),
    "hardswish": _plain("HardSwish", {}, {}),
    "hardsigmoid": _plain("HardSigmoid", {"alpha": 1 / 6}, {}),
    "elu": _plain("Elu", {"alpha": 0.5}, {"alpha": 0.5}),
    "selu": _plain("Selu", {}, {}),
    "leaky_relu": _plain("LeakyRelu", {"alpha": 0.2}, {"negative_slope": 0.2}),
    "softplus": _plain("Softplus", {}, {}),
    "mish": _plain("Mish", {}, {}),
    "silu": _plain("Swish", {}, {}, opset=24),
    "softmax": _plain("Softmax", {"axis": 2}, {"dim": 2}),
    "log_softmax": _plain("LogSoftmax", {"axis": 1}, {"dim": 1}),
}  # fmt: skip


def draw(name: str, seed: int) -> tuple[Layer, NDArray[np.float32], NDArray[np.int64]]:
    """Return a layer, rows and targets; the same for the same seed everywhere."""
    random = np.random.default_rng(seed)
    layer = LAYERS[name](random)
    rows = random.normal(size=(BATCH, *layer.shape)).astype(np.float32)
    return layer, rows, random.integers(0, CLASSES, BATCH)


def head(width: int, seed: int) -> NDArray[np.float32]:
    """Return the last layer, which is not trained: (width, classes)."""
    drawn = np.random.default_rng(seed + 1).normal(size=(width, CLASSES))
    scaled: NDArray[np.float32] = (drawn / np.sqrt(width)).astype(np.float32)
    return scaled
