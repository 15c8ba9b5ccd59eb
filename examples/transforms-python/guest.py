# ruff: noqa: INP001 - a guest is no package
"""A linear classifier that also transforms: the logic of examples/transforms-c, with the same bytes.

Each value of a row is normalised, the rows of each training step are jittered, and scores are corrected for
targets that are rarer in training than elsewhere.
"""

from __future__ import annotations

from array import array
from itertools import cycle

import chiron_guest as chiron
import wit_world
from chiron_guest import f32
from chiron_onnx import Graph
from wit_world import exports

EPOCHS, BATCH, WORKERS = 20, 32, 2
MAX_VALUES, MAX_CLASSES = 4096, 256
SIZE_CLASSES = (1 << 12, 1 << 14, 1 << 16)
MEAN, DEVIATION = range(2)


def study(schema: chiron.Schema) -> bytes:
    """Return the transforms' notes, laid out as in C: two counts, means, scales, shares of the targets."""
    columns = [chiron.statistics(chiron.ONE_COLUMN, i) for i in range(schema.row_values)]
    # a constant says nothing
    scales = [f32(1 / c[DEVIATION]) if c[DEVIATION] > f32(1e-6) else 0.0 for c in columns]
    counts = [f32(rows + 1) for rows in chiron.statistics(chiron.ROWS_PER_TARGET)]  # no target is impossible
    total = 0.0
    for count in counts:
        total = f32(total + count)
    shares = [f32(count / total) for count in counts]
    parts = (([c[MEAN] for c in columns], MAX_VALUES), (scales, MAX_VALUES), (shares, MAX_CLASSES))
    floats = b"".join(array("f", numbers).tobytes().ljust(4 * room, b"\0") for numbers, room in parts)
    return array("I", [schema.row_values, schema.classes]).tobytes() + floats


def make_graph(schema: chiron.Schema) -> bytes:
    """Return softmax regression from zero."""
    graph = Graph()
    graph.input("x", schema.shape)
    graph.output("logits", (schema.classes,))
    for name, shape in (("weight", (schema.row_values, schema.classes)), ("bias", (schema.classes,))):
        values = schema.row_values * schema.classes if name == "weight" else schema.classes
        graph.floats(name, shape, bytes(4 * values))
    graph.node("Flatten", "flat", "x", axis=1)
    graph.node("Gemm", "logits", "flat", "weight", "bias")
    return graph.model()


class Model(exports.Model):
    """The guest."""

    @chiron.traced
    def configure(self) -> int:
        """Look at the schema and declare the public header."""
        schema = chiron.schema()
        parameters = (schema.row_values + 1) * schema.classes
        fitting = [size for size in SIZE_CLASSES if parameters <= size]
        if schema.row_values > MAX_VALUES or not fitting:
            chiron.log("rows have too many values for this classifier\n")
            return 2
        chiron.log("linear classifier with normalised rows, jitter and corrected scores\n")
        return chiron.header(
            epochs=EPOCHS, batch=BATCH, workers=WORKERS, parameters=fitting[0], slot_ms=20, create_ms=2000
        )

    @chiron.traced
    def create(self) -> int:
        """Look at the data; keep notes, emit the network and say how to train it."""
        schema = chiron.schema()
        chiron.keep(study(schema))
        chiron.graph(make_graph(schema))
        chiron.plan(
            optimiser=chiron.SGD,
            learning_rate=f32(0.05),
            momentum=f32(0.9),
            weight_decay=f32(1e-4),
            schedule=chiron.COSINE,
            warmup_steps=10,
        )
        return 0


class Notes:
    """What `create` kept."""

    def __init__(self) -> None:
        raw = chiron.kept()
        values, classes = array("I", raw[:8])
        floats = array("f", raw[8:])
        self.mean, self.scale = floats[:values], floats[MAX_VALUES : MAX_VALUES + values]
        self.prior = floats[2 * MAX_VALUES :][:classes]


class WitWorld(wit_world.WitWorld):
    """The transforms; each run has an instance of its own."""

    @chiron.traced
    def transform_input(self) -> int:
        """Give each value of a row mean 0 and deviation 1, as in the training rows."""
        notes = Notes()
        for values in chiron.take():
            columns = zip(values, cycle(notes.mean), cycle(notes.scale), strict=False)
            chiron.give([f32(value - mean) * scale for value, mean, scale in columns])
        return 0

    @chiron.traced
    def augment(self) -> int:
        """Add a little noise to what `transform_input` gave, other noise at each step."""
        noise = chiron.Random()
        for values in chiron.take():
            drawn = array("f", noise.gaussians(len(values), deviation=f32(0.1)))
            chiron.give([value + more for value, more in zip(values, drawn, strict=True)])
        return 0

    @chiron.traced
    def transform_output(self) -> int:
        """Give scores as they were if all targets were as frequent: divide by the training rows' shares.

        Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities", Neural
        Computation 2002, equation 2.4.
        """
        prior = Notes().prior
        for values in chiron.take():
            given: list[float] = []
            for first in range(0, len(values), len(prior)):
                row = [f32(v / p) for v, p in zip(values[first : first + len(prior)], prior, strict=True)]
                total = 0.0
                for score in row:
                    total = f32(total + score)
                given.extend(score / total for score in row)
            chiron.give(given)
        return 0
