"""A case for every operator of the allow-list: a network, and how many values a row has at its end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from operator_networks import (
    attention,
    batch_normalized,
    binary,
    choice,
    clipped,
    constants,
    cut,
    embedding,
    enlarged,
    evenly_parted,
    images,
    merged,
    moved,
    normalized,
    padded,
    parted,
    picked,
    places,
    positive,
    power,
    recurrent,
    reduced,
    reduced_by_no_axes,
    shaped,
    simple,
    sizes_from_shapes,
    spread_constants,
    tiled,
    token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from operator_networks import Case


UNARY = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Exp", "Neg", "Abs", "Erf", "Softplus", "Elu", "Selu",
    "HardSigmoid", "HardSwish", "Identity",
)  # fmt: skip
CASES: dict[str, Callable[[], tuple[Case, int]]] = {
    **{name: simple(name) for name in UNARY},
    "Gelu": simple("Gelu", opset=20),
    "Gelu by tanh": simple("Gelu", opset=20, approximate="tanh"),
    "Mish": simple("Mish", opset=18),
    "Swish": simple("Swish", opset=24, alpha=0.5),
    "Softmax": simple("Softmax"),
    "Softmax of another axis": simple("Softmax", axis=1),
    "LogSoftmax": simple("LogSoftmax", axis=-1),
    "Sum": lambda: binary("Sum"),
    **{name: positive(name) for name in ("Sqrt", "Log", "Reciprocal")},
    **{name: partial(binary, name) for name in ("Add", "Sub", "Mul", "Div", "Min", "Max")},
    **{name: partial(choice, name) for name in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")},
    "transpose": moved,
    "merged": merged,
    "sizes from shapes": sizes_from_shapes,
    "attention": attention,
    "embedding": embedding,
    "token": token,
    "picked": picked,
    "cut": cut,
    "parted": parted,
    "evenly parted": evenly_parted,
    "padded": padded,
    "enlarged": enlarged(sizes=False),
    "enlarged to sizes": enlarged(sizes=True),
    "tiled": tiled,
    "constants": constants,
    "spread constants": spread_constants,
    "LSTM": lambda: recurrent("LSTM", "forward"),
    "LSTM backwards": lambda: recurrent("LSTM", "reverse", states=True),
    "LSTM both ways": lambda: recurrent("LSTM", "bidirectional"),
    "GRU": lambda: recurrent("GRU", "forward"),
    "GRU both ways": lambda: recurrent("GRU", "bidirectional", linear_before_reset=1, states=True),
    "Conv 1D": lambda: images("Conv", 4, 9, kernel=(6, 2, 3), group=2, strides=[2], pads=[1, 0]),
    "Conv depthwise": lambda: images("Conv", 4, 6, 6, kernel=(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER"),
    "Conv same lower": lambda: images("Conv", 2, 5, 6, kernel=(3, 2, 2, 4), strides=[2, 2],
                                      auto_pad="SAME_LOWER"),
    "ConvTranspose": lambda: images("ConvTranspose", 4, 3, 4, kernel=(4, 3, 3, 2), strides=[2, 2],
                                    pads=[1, 0, 0, 1], output_padding=[1, 0], dilations=[1, 2]),
    "ConvTranspose 1D": lambda: images("ConvTranspose", 2, 4, kernel=(2, 3, 3), strides=[2]),
    "MaxPool hanging over": lambda: images("MaxPool", 2, 6, 6, kernel_shape=[3, 3], strides=[2, 2],
                                           ceil_mode=1),
    "MaxPool 1D": lambda: images("MaxPool", 2, 8, kernel_shape=[2], strides=[2]),
    "AveragePool 1D": lambda: images("AveragePool", 2, 8, kernel_shape=[3], strides=[2]),
    "GlobalMaxPool of images": lambda: images("GlobalMaxPool", 2, 4, 4),
    "LayerNormalization": lambda: normalized("LayerNormalization", 2, 5),
    "RMSNormalization": lambda: normalized("RMSNormalization", 2, 5, opset=23),
    "InstanceNormalization": lambda: normalized("InstanceNormalization", 2, 4, 3),
    "GroupNormalization": lambda: normalized("GroupNormalization", 4, 3, 2, opset=21, num_groups=2),
    "BatchNormalization": lambda: batch_normalized(1, 3, 4, 2),
    "BatchNormalization of vectors": lambda: batch_normalized(1, 5),
    "BatchNormalization, fixed": lambda: batch_normalized(0, 3, 4, 2),
}  # fmt: skip

for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"):
    for version in (17, 18):
        CASES[f"{name} at {version}"] = partial(reduced, name, [-1, 1], 0, version)
        CASES[f"{name} kept at {version}"] = partial(reduced, name, [2], 1, version)

CASES["ReduceL2 by no axes"] = reduced_by_no_axes

for number in (0.5, 1.0, 2.0, 3.0, -1.5):
    CASES[f"Pow {number}"] = partial(power, number)

CASES["Clip"] = lambda: clipped(-0.5, 0.5)
CASES["Clip below"] = lambda: clipped(None, 0.25)

CASES["shaped"] = shaped
CASES["places"] = places
