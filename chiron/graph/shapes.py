"""Shape rules: what each operator makes of one row. Batches stay symbolic, so rows cannot mix unnoticed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chiron.graph.errors import AdmissionError, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.graph.admitted import Node, Shape

MAX_RANK = 4  # of a tensor, its batch dimension included


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor: our name for it, and its shape, behind the batch where it `is_rows`."""

    name: str
    shape: Shape
    is_rows: bool

    @property
    def rank(self) -> int:
        """Rank, the batch dimension included."""
        return len(self.shape) + self.is_rows


def _need(*, holds: bool, text: str, rule: Rule = Rule.SHAPE) -> None:
    if not holds:
        raise AdmissionError(rule, text)


def same(_: Node, operands: Sequence[Tensor]) -> Shape:
    """Keep the shape (activations)."""
    return operands[0].shape


def broadcast(_: Node, operands: Sequence[Tensor]) -> Shape:
    """Broadcast two operands as numpy does, with the batch dimension of rows kept in front.

    Source: ONNX specification, "Broadcasting in ONNX", multidirectional.
    """
    rows = [operand for operand in operands if operand.is_rows]
    rank = rows[0].rank
    shape: Shape = rows[0].shape
    for operand in operands:
        fits = operand.rank == rank if operand.is_rows else operand.rank <= rank
        text = "it would broadcast over the batch: give both operands rows of one rank"
        _need(holds=fits, text=text, rule=Rule.ROWS)
        row = operand.shape
        if not operand.is_rows and operand.rank == rank:
            text = "an initializer's batch dimension must be 1: rows of a batch stay apart"
            _need(holds=row[0] == 1, text=text, rule=Rule.ROWS)
            row = row[1:]
        shape = _broadcast_pair(shape, row)
    return shape


def _broadcast_pair(left: Shape, right: Shape) -> Shape:
    rank = max(len(left), len(right))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (left, right)]
    pairs = list(zip(*padded, strict=True))
    fits = all(a == b or 1 in {a, b} for a, b in pairs)
    _need(holds=fits, text=f"rows {list(left)} and {list(right)} do not broadcast: make them equal or 1")
    return tuple(b if a == 1 else a for a, b in pairs)


def matmul(_: Node, operands: Sequence[Tensor]) -> Shape:
    """Multiply rows of rank 1 by a matrix."""
    return _product(operands[0], operands[1].shape)


def gemm(node: Node, operands: Sequence[Tensor]) -> Shape:
    """Multiply rows of rank 1 by a matrix, perhaps transposed, and add a bias."""
    weights = operands[1].shape
    result = _product(operands[0], weights[::-1] if node.integer("transB") else weights)
    for bias in operands[2:]:
        fits = bias.shape in {(), (1,), (1, 1), result, (1, *result)}
        _need(holds=fits, text=f"the bias must have shape {list(result)}, not {list(bias.shape)}")
    return result


def _product(rows: Tensor, weights: Shape) -> Shape:
    fits = rows.rank == len(weights) == 2 and rows.shape[0] == weights[0]  # noqa: PLR2004  matrices
    text = f"rows {list(rows.shape)} do not multiply weights {list(weights)}: flatten the rows first"
    _need(holds=fits, text=text)
    return weights[1:]


def conv(node: Node, operands: Sequence[Tensor]) -> Shape:
    """Slide a kernel (out, in / group, height, width) over an image (in, height, width)."""
    image, weights = operands[0].shape, operands[1].shape
    group = node.integer("group")
    _need(
        holds=len(image) == 3 and len(weights) == 4,  # noqa: PLR2004  planes
        text=f"rows must be (channels, height, width), not {list(image)}, and the weights of rank 4",
    )
    fits = image[0] == weights[1] * group and weights[0] % group == 0
    _need(holds=fits, text=f"{image[0]} channels in {group} groups do not fit weights {list(weights)}")
    kernel = node.attributes.get("kernel_shape", weights[2:])
    _need(holds=kernel == weights[2:], text=f"kernel_shape must be the weights' {list(weights[2:])}")
    for bias in operands[2:]:
        text = f"the bias must have shape {[weights[0]]}, not {list(bias.shape)}"
        _need(holds=bias.shape == weights[:1], text=text)
    return (weights[0], *_slide(node, image[1:], weights[2:], dilations=node.integers("dilations")))


def pool(node: Node, operands: Sequence[Tensor]) -> Shape:
    """Slide a window over an image; no window sees padding alone."""
    image = operands[0].shape
    _need(holds=len(image) == 3, text=f"rows must be (channels, height, width), not {list(image)}")  # noqa: PLR2004
    return (image[0], *_slide(node, image[1:], node.integers("kernel_shape"), dilations=(1, 1)))


def _slide(node: Node, size: Shape, kernel: Shape, *, dilations: Shape) -> Shape:
    strides, pads = node.integers("strides"), node.integers("pads")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    text = f"pads must be smaller than the window {extents}: else it sees nothing but padding"
    _need(holds=all(pads[i] < extents[i % 2] for i in range(4)), text=text)
    room = [size[i] + pads[i] + pads[i + 2] - extents[i] for i in (0, 1)]
    _need(holds=min(room) >= 0, text=f"the window {extents} is larger than the padded image")
    return tuple(room[i] // strides[i] + 1 for i in (0, 1))


def global_pool(_: Node, operands: Sequence[Tensor]) -> Shape:
    """Keep channels alone."""
    image = operands[0].shape
    _need(holds=len(image) == 3, text=f"rows must be (channels, height, width), not {list(image)}")  # noqa: PLR2004
    return (image[0], 1, 1)


def flatten(_: Node, operands: Sequence[Tensor]) -> Shape:
    """Make one dimension of a row."""
    return (math.prod(operands[0].shape),)


def reshape(operand: Tensor, target: Sequence[int]) -> Shape:
    """Give a row another shape; `target` is ONNX's: the batch as 0 or -1 in front, one -1 at most.

    Raises:
        AdmissionError: it is no row's shape, or holds another number of values.
    """
    text = f"the target shape must be -1 or 0 for the batch, then 1 to {MAX_RANK - 1} positive numbers"
    fits = 1 < len(target) <= MAX_RANK and target[0] in {-1, 0}
    _need(holds=fits, text=text, rule=Rule.ROWS)
    row = tuple(target[1:])
    if row.count(-1) == 1 and target[0] == 0:
        rest = -math.prod(row)
        size = math.prod(operand.shape)
        row = tuple(size // rest if n == -1 and rest > 0 else n for n in row)
    _need(holds=min(row) > 0, text=text)
    text = f"rows of shape {list(operand.shape)} do not reshape to the target: keep the number of values"
    _need(holds=math.prod(row) == math.prod(operand.shape), text=text)
    return row
