"""Chooses how a convolution is phrased: a pure function of its sizes.

`make bench-phrasings` measures every phrasing anew and prints the costs that fit; spec/adr/0014 has figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph.winograd import POINTS, covered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.admitted import AdmittedGraph, Node, Shape

FEW_CHANNELS = 4  # products over one place of the kernel would be too narrow
MANY_CHANNELS = 8  # from here on products over channels are worth their transforms
FEW_PLACES = 9  # of a kernel, up to which a product for each was measured
NARROW = 16  # channels up to which a layer does not count as filtered for `mostly_filtered`
MOST = 0.75  # of a network's multiplications: the share from which blocks of rows are filtered


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


@dataclass(frozen=True, slots=True)
class Cost:
    """Picoseconds of a step, forward and backward: for each multiplication of the forward pass, and value."""

    product: float
    value: float


COSTS: dict[Phrasing, Cost] = {
    Phrasing.DIRECT: Cost(product=81.7, value=2401.7),
    Phrasing.PATCHES: Cost(product=192.3, value=0.0),
    Phrasing.TAPS: Cost(product=97.5, value=801.8),
    Phrasing.WINOGRAD: Cost(product=102.9, value=3212.0),
}
TURN = (
    1015.0  # picoseconds for each value of image and result: DIRECT has them rows first, other layers do not
)


def choose(sizes: Sizes) -> Phrasing:
    """Return the fastest phrasing."""
    return min(possible(sizes), key=lambda phrasing: cost(phrasing, sizes))


def possible(sizes: Sizes) -> list[Phrasing]:
    """Return the phrasings that can carry a convolution and are worth weighing."""
    if sizes.group != 1:
        return [Phrasing.DIRECT]
    if not sizes.wants_image and sizes.ins <= FEW_CHANNELS:
        return [Phrasing.PATCHES]
    if min(sizes.ins, sizes.outs) < MANY_CHANNELS:
        return [Phrasing.DIRECT]
    even = sizes.strides == sizes.dilations == (1, 1) and all(size in POINTS for size in sizes.kernel)
    others = [Phrasing.TAPS] if math.prod(sizes.kernel) <= FEW_PLACES else []
    return [Phrasing.DIRECT, *others, *([Phrasing.WINOGRAD] if even else [])]


def cost(phrasing: Phrasing, sizes: Sizes) -> float:
    """Return the estimated picoseconds of one row, forward and backward, in a network of such layers."""
    products, values = work(phrasing, sizes)
    rate = COSTS[phrasing]
    turned = TURN * (_image(sizes) + _result(sizes)) if phrasing is Phrasing.DIRECT else 0.0
    return rate.product * products + rate.value * values + turned


def work(phrasing: Phrasing, sizes: Sizes) -> tuple[int, int]:
    """Return the multiplications of one row's forward pass, and the values it moves beside them."""
    taps = math.prod(sizes.kernel)
    if phrasing is Phrasing.WINOGRAD:
        tiles = math.prod(covered(sizes.kernel[i], sizes.result[i]) for i in (0, 1))
        return tiles * sizes.ins * sizes.outs, tiles * (sizes.ins + sizes.outs)
    seen = taps * sizes.ins * math.prod(sizes.result)
    return _direct(sizes), seen + (taps * _result(sizes) if phrasing is Phrasing.TAPS else 0)


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


def _image(sizes: Sizes) -> int:
    return sizes.ins * math.prod(sizes.image)


def _result(sizes: Sizes) -> int:
    return sizes.outs * math.prod(sizes.result)
