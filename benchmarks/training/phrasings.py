"""`python -m benchmarks.training.phrasings`: every phrasing of a convolution, layer by layer, one thread.

What chiron/graph/phrasing.py chooses is marked, and at the end stand the costs that its table would have.
Times are of this process alone, the least of many turns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from unittest import mock

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from chiron.graph import GraphLimits, StockEngine, TensorSpec, admit, rules_conv
from chiron.graph.phrasing import Cost, Phrasing, Sizes, choose, work
from chiron.graph.planes import SWAP, swapped
from chiron.graph.runtime import open_session

LIMITS = GraphLimits(max_bytes=1 << 28, max_parameters=1 << 26, max_activation_bytes=1 << 36)
TURNS = 7


@dataclass(frozen=True, slots=True)
class Layer:
    """A square convolution over square images; a network's first layer gives its input no gradient."""

    rows: int
    ins: int
    outs: int
    size: int
    kernel: int = 3
    stride: int = 1
    first: bool = False


LAYERS = (
    Layer(64, 3, 32, 32, first=True),
    Layer(64, 32, 64, 32),
    Layer(64, 64, 128, 16),
    Layer(64, 128, 128, 16),
    Layer(64, 128, 256, 8),
    Layer(64, 256, 256, 8),
    Layer(64, 1, 20, 28, kernel=5, first=True),
    Layer(64, 20, 50, 14, kernel=5),
    Layer(128, 16, 16, 32),
    Layer(128, 32, 32, 16),
    Layer(128, 64, 64, 8),
    Layer(128, 16, 32, 32, stride=2),
    Layer(128, 16, 32, 32, kernel=1, stride=2),
    Layer(32, 64, 192, 27, kernel=5),
    Layer(32, 192, 384, 13),
    Layer(64, 8, 8, 32),
    Layer(64, 8, 16, 56),
    Layer(8, 64, 64, 56),
    Layer(8, 64, 128, 112, stride=2),
    Layer(32, 256, 64, 14, kernel=1),
)


def encoded(layer: Layer) -> bytes:
    """Return a network around the layer as ONNX: a mean for each channel behind it, a shift before it."""
    random = np.random.default_rng(0)
    shape = (layer.ins, layer.size, layer.size)
    values = {
        "w": random.normal(0.0, 0.05, (layer.outs, layer.ins, layer.kernel, layer.kernel)),
        "head": random.normal(0.0, 0.1, (layer.outs, 2)),
    }
    nodes = []
    if not layer.first:
        values["shift"] = np.zeros((1, *shape))
        nodes.append(helper.make_node("Add", ["x", "shift"], ["shifted"]))
    pads, strides = (layer.kernel // 2,) * 4, (layer.stride,) * 2
    image = "x" if layer.first else "shifted"
    nodes += [
        helper.make_node("Conv", [image, "w"], ["y"], pads=pads, strides=strides),
        helper.make_node("GlobalAveragePool", ["y"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["logits"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "layer", [x], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def engines(layer: Layer) -> dict[Phrasing, StockEngine]:
    """Return the layer's engine for each phrasing that can carry it."""
    spec = TensorSpec((layer.ins, layer.size, layer.size), 2)
    graph = admit(encoded(layer), spec, limits=LIMITS)
    made = {}
    for phrasing in Phrasing:
        if phrasing is Phrasing.PATCHES and not layer.first:
            continue
        if phrasing is Phrasing.WINOGRAD and (layer.stride > 1 or layer.kernel not in {3, 5}):
            continue
        with mock.patch.object(rules_conv, "choose", return_value=phrasing):
            made[phrasing] = StockEngine(graph, batch=layer.rows, threads=1)
    return made


def milliseconds(layer: Layer) -> dict[Phrasing, float]:
    """Return the least time of a step, forward and backward, for each phrasing; they take turns."""
    random = np.random.default_rng(0)
    x = random.normal(size=(layer.rows, layer.ins, layer.size, layer.size)).astype(np.float32)
    y = random.integers(0, 2, layer.rows)
    made = engines(layer)
    taken: dict[Phrasing, list[float]] = {phrasing: [] for phrasing in made}
    for _ in range(TURNS):
        for phrasing, engine in made.items():
            start = time.thread_time()
            engine.run(x, y)
            taken[phrasing].append((time.thread_time() - start) * 1e3)
    return {phrasing: min(times) for phrasing, times in taken.items()}


def sizes_of(layer: Layer) -> Sizes:
    """Return what the choice reads of a layer."""
    size, out = (layer.size,) * 2, (-(-layer.size // layer.stride),) * 2
    kernel, strides = (layer.kernel,) * 2, (layer.stride,) * 2
    return Sizes(layer.ins, layer.outs, size, out, kernel, strides, (1, 1), 1, not layer.first)


def fitted(phrasing: Phrasing, measured: dict[Layer, dict[Phrasing, float]]) -> Cost:
    """Return the costs, neither below zero, whose relative errors over the layers are least in squares."""
    rows = [
        (*(count * layer.rows * 1e-9 / found[phrasing] for count in work(phrasing, sizes_of(layer))), 1.0)
        for layer, found in measured.items()
        if phrasing in found
    ]
    table = np.array(rows)
    best, *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
    for place in (0, 1):
        if best[place] < 0:
            column = table[:, 1 - place]
            best = np.zeros(2)
            best[1 - place] = (column @ table[:, 2]) / (column @ column)
    return Cost(round(float(best[0]), 1), round(float(best[1]), 1))


def turning() -> float:
    """Return the picoseconds that a value's transpose takes, forward and backward."""
    shape = (64, 64, 16, 16)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, swapped(shape))
    graph = helper.make_graph([helper.make_node("Transpose", ["x"], ["y"], perm=SWAP)], "turn", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=1)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    taken = []
    for _ in range(TURNS):
        start = time.thread_time()
        session.run(None, {"x": values})
        taken.append(time.thread_time() - start)
    return 2 * min(taken) / values.size * 1e12


def main() -> None:
    """Print the table, what was chosen (*), and the costs that fit it."""
    print(f"{'layer':40}" + "".join(f"{phrasing.name:>11}" for phrasing in Phrasing))
    measured = {}
    for layer in LAYERS:
        chosen, found = choose(sizes_of(layer)), milliseconds(layer)
        measured[layer] = found
        name = f"{layer.rows}x{layer.ins}->{layer.outs}, {layer.size}x{layer.size}"
        name += f", kernel {layer.kernel}, stride {layer.stride}"
        cells = (
            f"{found[phrasing]:9.1f}{'*' if phrasing is chosen else ' '} "
            if phrasing in found
            else f"{'-':>10} "
            for phrasing in Phrasing
        )
        print(f"{name:40}" + "".join(cells), flush=True)
    print("costs that fit, for chiron/graph/phrasing.py:")
    for phrasing in Phrasing:
        print(f"    Phrasing.{phrasing.name}: {fitted(phrasing, measured)}")
    print(f"    TURN = {turning():.0f}")


if __name__ == "__main__":
    main()
