# ruff: noqa: INP001 - a guest is no package
"""A perceptron with one hidden layer: the logic of examples/mlp-c in Python, with the same bytes as result.

`configure` sees the shape of the data and says publicly how long training takes. `create` sees the data and
chooses what stays secret: the hidden layer's width, the learning rate, the weight decay.
"""

from __future__ import annotations

import struct
from math import sqrt
from typing import NamedTuple

import chiron_guest as chiron
from chiron_guest import clamp, f32
from chiron_onnx import Graph
from wit_world import exports

MAX_CLASSES, MIN_WIDTH, GOOD_WIDTH, EPOCHS, BATCH, WORKERS = 256, 16, 128, 20, 32, 2
SIZE_CLASSES = (1 << 12, 1 << 14, 1 << 16, 1 << 18)


def widest(schema: chiron.Schema, parameters: int) -> int:
    """Trainable values: inputs*width + width + width*classes + classes."""
    return (parameters - schema.classes) // (schema.row_values + 1 + schema.classes)


def size_class(schema: chiron.Schema) -> int:
    """Return the smallest size class that leaves room for a good width; the largest if none does.

    Depends on the public schema alone, so that create comes to the same answer as configure.
    """
    fitting = (size for size in SIZE_CLASSES if widest(schema, size) >= GOOD_WIDTH)
    return next(fitting, SIZE_CLASSES[-1])


class Findings(NamedTuple):
    """`imbalance`: rows of the commonest target over the mean of all."""

    rows: float
    imbalance: float
    mean: float
    deviation: float


def study(schema: chiron.Schema) -> Findings:
    """Ask for statistics of the training rows."""
    mean, deviation, _, _ = chiron.statistics(chiron.ALL_VALUES)
    most = max(chiron.statistics(chiron.ROWS_PER_TARGET))
    rows = chiron.statistics(chiron.ROW_COUNTS)[0]
    return Findings(rows, f32(f32(most * schema.classes) / rows), mean, deviation)


def choose_width(schema: chiron.Schema, found: Findings) -> int:
    """About as many hidden units as there are rows a target: more would only learn them by heart."""
    room = f32(widest(schema, size_class(schema)))
    return int(clamp(f32(found.rows / schema.classes), MIN_WIDTH, room)) & ~7  # whole SIMD vectors


def emit_plan(schema: chiron.Schema, found: Findings, width: int) -> None:
    """Smaller steps for wide layers and for rare targets, whose gradients are noisy."""
    parameters = f32((schema.row_values + 1 + schema.classes) * width + schema.classes)
    steps_per_epoch = f32(found.rows / (BATCH * WORKERS))
    wide = f32(sqrt(f32(GOOD_WIDTH / width)))
    rate = f32(f32(f32(0.004) * wide) / f32(sqrt(found.imbalance)))
    decay = f32(f32(f32(0.005) * parameters) / found.rows)
    chiron.plan(
        optimiser=chiron.ADAMW,
        learning_rate=clamp(rate, f32(0.0005), f32(0.01)),
        weight_decay=clamp(decay, f32(0.005), f32(0.1)),
        schedule=chiron.COSINE,
        warmup_steps=int(clamp(steps_per_epoch, 1, 100)),
    )


def layer(graph: Graph, noise: chiron.Random, name: str, inputs: int, outputs: int) -> None:
    """He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps the variance through a ReLU."""
    deviation = f32(sqrt(f32(2 / inputs)))
    graph.floats(f"{name}.weight", (inputs, outputs), noise.gaussians(inputs * outputs, deviation=deviation))
    graph.floats(f"{name}.bias", (outputs,), bytes(4 * outputs))


def make_graph(schema: chiron.Schema, found: Findings, width: int) -> bytes:
    """Return the network with its initial weights."""
    graph, noise = Graph(), chiron.Random()
    scale = f32(1 / found.deviation) if found.deviation > 0 else 1.0
    graph.input("x", schema.shape)
    graph.output("logits", (schema.classes,))
    graph.floats("const.mean", (), struct.pack("<f", found.mean))
    graph.floats("const.scale", (), struct.pack("<f", scale))
    layer(graph, noise, "hidden", schema.row_values, width)
    layer(graph, noise, "output", width, schema.classes)
    graph.node("Sub", "centred", "x", "const.mean")
    graph.node("Mul", "normal", "centred", "const.scale")
    row = "normal"
    if len(schema.shape) > 1:
        row = "flat"
        graph.node("Flatten", row, "normal", axis=1)
    graph.node("Gemm", "hidden", row, "hidden.weight", "hidden.bias")
    graph.node("Relu", "active", "hidden")
    graph.node("Gemm", "logits", "active", "output.weight", "output.bias")
    return graph.model()


class Model(exports.Model):
    """The guest."""

    @chiron.traced
    def configure(self) -> int:
        """Look at the schema and declare the public header."""
        schema = chiron.schema()
        if schema.version != 1:
            return 1
        parameters = size_class(schema)
        if widest(schema, parameters) < MIN_WIDTH:
            chiron.log("rows are too wide for this perceptron: use a convolutional guest\n")
            return 2
        chiron.log("perceptron: one hidden layer, AdamW\n")
        return chiron.header(
            epochs=EPOCHS,
            batch=BATCH,
            workers=WORKERS,
            parameters=parameters,
            slot_ms=20 if parameters <= 1 << 16 else 50,
            create_ms=2000 if parameters <= 1 << 16 else 5000,
        )

    @chiron.traced
    def create(self) -> int:
        """Look at the data's statistics; emit one graph and one plan."""
        schema = chiron.schema()
        if schema.classes > MAX_CLASSES:
            return 1
        found = study(schema)
        width = choose_width(schema, found)
        chiron.graph(make_graph(schema, found, width))
        emit_plan(schema, found, width)
        return 0
