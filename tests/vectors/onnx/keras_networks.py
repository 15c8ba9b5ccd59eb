"""Networks in Keras on its PyTorch backend; `model.export(format="onnx")` traces TorchScript there.

It fails on LayerNormalization (keras 3.15), so there is none here.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

os.environ["KERAS_BACKEND"] = "torch"
import keras
from keras import layers

if TYPE_CHECKING:
    from collections.abc import Callable


def conv_net() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="x"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def residual_net() -> keras.Model:
    x = keras.Input((32, 32, 3), name="x")
    h = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    for width in (16, 32):
        y = layers.SeparableConv2D(width, 3, strides=2, padding="same", activation="swish")(h)
        y = layers.Conv2D(width, 3, padding="same")(y)
        h = layers.ReLU()(layers.add([y, layers.Conv2D(width, 1, strides=2)(h)]))
    return keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(h)))


def perceptron() -> keras.Model:
    x = keras.Input((20,), name="x")
    h = layers.Dropout(0.2)(layers.BatchNormalization()(layers.Dense(64, activation="gelu")(x)))
    return keras.Model(x, layers.Dense(3)(h))


def lstm() -> keras.Model:
    x = keras.Input((12, 6), name="x")
    return keras.Model(x, layers.Dense(4)(layers.LSTM(16)(x)))


def attention() -> keras.Model:
    x = keras.Input((16,), dtype="int64", name="x")
    h = layers.Embedding(500, 32)(x)
    h = layers.ReLU()(h + layers.MultiHeadAttention(2, 16)(h, h))
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling1D()(h)))


def export(build: Callable[[], keras.Model]) -> onnx.ModelProto:
    """Export, and rename the output to `logits`: the exporter gives no choice."""
    keras.utils.set_random_seed(0)
    model = build()
    model(np.zeros((2, *model.input_shape[1:]), dtype=model.inputs[0].dtype))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(str(path), format="onnx", verbose=False)
        proto = onnx.load(path)
    (output,) = proto.graph.output
    for node in proto.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "logits"
    output.name = "logits"
    return proto


BUILDERS = {
    "conv_net": conv_net,
    "residual_net": residual_net,
    "perceptron": perceptron,
    "lstm": lstm,
    "attention": attention,
}
KERAS = {name: partial(export, build) for name, build in BUILDERS.items()}
