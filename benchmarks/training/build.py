"""`python -m benchmarks.training.build [NETWORK ...]`: seconds from an exported file to its gradient graph.

NETWORK is a file of tests/vectors/onnx or the start of its name. Admission reads and checks the bytes that an
exporter wrote; the gradient graph is for a batch of 32, weights and serialisation included. Medians of three.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

from onnx import ModelProto

from chiron.graph import AdmittedGraph, GraphLimits, TensorSpec, admit, training_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
from corpus import load, names

BATCH, TURNS, REACH_S = 32, 3, 5.0
LIMITS = GraphLimits(max_bytes=1 << 30, max_parameters=1 << 28, max_activation_bytes=1 << 38)
KNOWN = (
    "alexnet.dynamo.train",
    "vgg16.dynamo.train",
    "resnet20.dynamo.train",
    "resnet50.",
    "densenet121.",
    "mobilenet_v2.dynamo.train",
    "vit.dynamo.train.plain",
)


def row_of(name: str) -> str:
    """Build a network's gradient graph three times and return its row of the table."""
    raw = load(name)
    graph = ModelProto.FromString(raw).graph
    shape = tuple(dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:])
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    turns = [_turn(raw, TensorSpec(shape, classes)) for _ in range(TURNS)]
    admission, gradient, both = (median(column) for column in zip(*(turn[:3] for turn in turns), strict=True))
    admitted, model = turns[-1][3:]
    nodes = len(ModelProto.FromString(model).graph.node)
    return (
        f"| {name} | {'x'.join(map(str, shape))} | {admitted.parameter_count:,} |"
        f" {len(graph.node)} / {len(admitted.nodes)} / {nodes} | {admission:.2f} | {gradient:.2f} |"
        f" {both:.2f} | {'reached' if both < REACH_S else 'not reached'} |"
    )


def _turn(raw: bytes, spec: TensorSpec) -> tuple[float, float, float, AdmittedGraph, bytes]:
    began = time.perf_counter()
    admitted = admit(raw, spec, limits=LIMITS)
    between = time.perf_counter()
    model = training_model(admitted, batch=BATCH)
    ended = time.perf_counter()
    return between - began, ended - between, ended - began, admitted, model


def main() -> None:
    """Print the table."""
    wanted = tuple(sys.argv[1:]) or KNOWN
    print(f"batch {BATCH}, medians of {TURNS}, load {os.getloadavg()[0]:.1f}; reach: under {REACH_S:.0f} s")
    print(
        "| network | rows | parameters | nodes: file / admitted / gradient graph | admission, s |"
        " gradient graph, s | both, s | |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in names():
        if name.startswith(wanted):
            print(row_of(name), flush=True)


if __name__ == "__main__":
    main()
