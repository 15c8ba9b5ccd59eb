"""Chooses how a convolution is phrased: a pure function of its sizes.

`python -m benchmarks.training.phrasings` measures every phrasing anew; spec/adr/0014 has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph.winograd import POINTS, STEP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.admitted import AdmittedGraph, Node, Shape

FEW_CHANNELS = 4  # products over one place of the kernel would be too narrow
MANY_CHANNELS = 8  # from here on products over channels are worth their transforms
WORTH = 2  # a layer alone breaks even at 1; between others that lie places first, it saves transposes
NARROW = 16  # channels over which constant weights gain nothing by filtering
MOST = 0.75
FEW_PLACES = 9  # of a kernel: each costs a product and a pass over the image


class Phrasing(Enum):
    """How a convolution is written."""

    DIRECT = "ONNX's Conv; the weight gradient by places of the kernel"
    PATCHES = "products over whole windows"
    TAPS = "a product for each place of the kernel"
    WINOGRAD = "minimal filtering"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the choice reads of a convolution; `ins` are a group's, `image` and `result` height and width."""

    ins: int
    outs: int
    image: Shape
    result: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    group: int
    wants_image: bool

    @classmethod
    def of(cls, node: Node, shapes: Mapping[str, Shape], *, wants: bool) -> Sizes:
        """Read them from a node and its tensors' shapes; `wants` says whether its image wants a gradient."""
        image, weights = (shapes[name] for name in node.inputs[:2])
        strides, dilations = node.integers("strides"), node.integers("dilations")
        return cls(
            weights[1],
            weights[0],
            image[2:],
            shapes[node.output][2:],
            weights[2:],
            strides,
            dilations,
            node.integer("group"),
            wants,
        )


def choose(sizes: Sizes) -> Phrasing:
    """Return the fastest phrasing."""
    if sizes.group != 1:
        return Phrasing.DIRECT
    if not sizes.wants_image and sizes.ins <= FEW_CHANNELS:
        return Phrasing.PATCHES
    if min(sizes.ins, sizes.outs) < MANY_CHANNELS:
        return Phrasing.DIRECT
    even = sizes.strides == sizes.dilations == (1, 1)
    if even and all(size in POINTS for size in sizes.kernel):
        return Phrasing.WINOGRAD if _filtered(sizes) < WORTH * _direct(sizes) else Phrasing.DIRECT
    return Phrasing.TAPS if math.prod(sizes.kernel) <= FEW_PLACES else Phrasing.DIRECT


def mostly_filtered(graph: AdmittedGraph) -> bool:
    """Tell whether most of a network's convolution is minimal filtering of many channels.

    Only then is a network served faster so: its weights are constant, and with those Conv is fast as it is.
    """
    shapes = graph.shapes(1)
    convolutions = [Sizes.of(node, shapes, wants=True) for node in graph.nodes if node.operator == "Conv"]
    filtered = [s for s in convolutions if choose(s) is Phrasing.WINOGRAD and min(s.ins, s.outs) > NARROW]
    return sum(map(_direct, filtered)) > MOST * sum(map(_direct, convolutions))


def _direct(sizes: Sizes) -> int:
    """Count the multiplications of one row, forward."""
    return math.prod(sizes.kernel) * sizes.ins * sizes.outs * math.prod(sizes.result)


def _filtered(sizes: Sizes) -> int:
    """Count those of minimal filtering: products over channels, and both axes' transforms of each channel."""
    high, wide = ((len(POINTS[sizes.kernel[i]]) + 1) * -(-sizes.result[i] // STEP) for i in (0, 1))
    transforms = sum(
        channels * high * width * (height + wide)
        for channels, (height, width) in ((sizes.ins, sizes.image), (sizes.outs, sizes.result))
    )
    return high * wide * sizes.ins * sizes.outs + transforms
