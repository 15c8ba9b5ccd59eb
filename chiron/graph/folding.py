"""Folds BatchNormalization with fixed statistics into the convolution before it.

Source: Jacob et al., "Quantization and Training of Neural Networks", 2018, arXiv 1712.05877, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.admitted import LOGITS, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.admitted import AdmittedGraph, Float32Array


def fold_normalization(
    graph: AdmittedGraph, values: Mapping[str, Float32Array]
) -> tuple[tuple[Node, ...], dict[str, Float32Array]]:
    """Return the network's nodes as they are served, and the values that these nodes read.

    Args:
        graph: the admitted network.
        values: float32, each parameter in its shape.
    """
    reads = Counter(name for node in graph.nodes for name in node.inputs)
    made = {node.output: node for node in graph.nodes}
    known = dict(values)
    folded: dict[str, Node] = {}
    for node in graph.nodes:
        conv = made.get(node.inputs[0])
        if node.operator != "BatchNormalization" or conv is None or conv.operator != "Conv":
            continue
        alone = reads[conv.output] == 1 and conv.output != LOGITS
        if alone and all(name in values for name in (*conv.inputs[1:], *node.inputs[1:])):
            folded[conv.output] = _fold(conv, node, known)
    ends = {node.output for node in folded.values()}
    nodes = tuple(folded.get(node.output, node) for node in graph.nodes if node.output not in ends)
    used = {name for node in nodes for name in node.inputs}
    return nodes, {name: array for name, array in known.items() if name in used}


def _fold(conv: Node, norm: Node, values: dict[str, Float32Array]) -> Node:
    """Return the convolution that does both; its weights and bias are added to `values`."""
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in norm.inputs[1:])
    slope = scale / np.sqrt(variance + norm.number("epsilon"))
    weights = values[conv.inputs[1]].astype(np.float64)
    bias = sum((values[name].astype(np.float64) for name in conv.inputs[2:]), start=np.zeros(len(slope)))
    names = f"{norm.output}.weights", f"{norm.output}.bias"
    folded = slope[:, None, None, None] * weights, shift + (bias - mean) * slope
    values |= {name: array.astype(np.float32) for name, array in zip(names, folded, strict=True)}
    return Node("Conv", (conv.inputs[0], *names), norm.output, conv.attributes)
