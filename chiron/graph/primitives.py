"""The primitives, of which an admitted graph consists: each with a shape rule, a gradient, a way to write it.

The guest's operators (chiron.graph.operators) are taken apart into these, so that a few rules of
differentiation carry all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph import (
    conv_patches,
    conv_winograd,
    rules_conv,
    rules_dense,
    rules_elementwise,
    rules_move,
    rules_norm,
    rules_pool,
    rules_reduce,
    shapes,
    write,
)
from chiron.graph.errors import Rule
from chiron.graph.phrasing import FEW_CHANNELS, Phrasing, Sizes, choose
from chiron.graph.shapes import has_batch, need, volume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chiron.graph.admitted import Node, Shape
    from chiron.graph.tape import Tape


class Kind(Enum):
    """What a tensor's values are."""

    FLOAT = "float32"
    INT = "int64"
    BOOL = "bool"


def _nothing(_: Node, __: Sequence[Shape]) -> int:
    return 0


def _no_gradient(_: Tape, __: Node, ___: str) -> None:
    """Pass nothing on: the result is no smooth function of the operands."""


@dataclass(frozen=True, slots=True)
class Primitive:
    """One row.

    Args:
        shape: the output's shape from the operands'; raises AdmissionError where they do not fit.
        gradient: writes to the tape what the output's gradient (a tensor's name) gives to each operand.
        write: writes the node itself, as ONNX nodes at the one opset of chiron.graph.writer.
        kind: of the output; None where it is that of operand number `like`.
        workspace: values a row that the gradient takes at once, besides tensors and their gradients.
        passing: how many of them are free before the next node; the rest is kept from forward to backward.
        unfolded: values that a transposed convolution of the gradient unfolds one image to.
    """

    shape: Callable[[Node, Sequence[Shape]], Shape]
    gradient: Callable[[Tape, Node, str], None] = _no_gradient
    write: Callable[[Tape, Node], None] = write.plainly
    kind: Kind | None = None
    like: int = 0
    workspace: Callable[[Node, Sequence[Shape]], int] = _nothing
    passing: Callable[[Node, Sequence[Shape]], int] = _nothing
    unfolded: Callable[[Node, Sequence[Shape]], int] = _nothing

    @property
    def differentiable(self) -> bool:
        """Whether anything is passed on."""
        return self.gradient is not _no_gradient


def _same(_: Node, operands: Sequence[Shape]) -> Shape:
    return operands[0]


def _broadcast(_: Node, operands: Sequence[Shape]) -> Shape:
    return shapes.broadcast(*operands)


def _matmul(_: Node, operands: Sequence[Shape]) -> Shape:
    return shapes.matmul(*operands)


def _gemm(node: Node, operands: Sequence[Shape]) -> Shape:
    left, right = operands[:2]
    result = shapes.matmul(left, right[::-1] if node.integer("transB") else right)
    for bias in operands[2:]:
        holds = len(bias) <= 2 and shapes.broadcast(result, bias) == result  # noqa: PLR2004
        need(holds=holds, text=f"the bias must broadcast to {shapes.shown(result)}, not {shapes.shown(bias)}")
    return result


def _target(node: Node, operands: Sequence[Shape]) -> Shape:
    return shapes.reshape(operands[0], node.integers("shape"))


def _expanded(node: Node, operands: Sequence[Shape]) -> Shape:
    target = node.integers("shape")
    holds = shapes.broadcast(operands[0], target) == target
    need(holds=holds, text=f"{shapes.shown(operands[0])} does not expand to {shapes.shown(target)}")
    return target


def _transposed(node: Node, operands: Sequence[Shape]) -> Shape:
    return tuple(operands[0][axis] for axis in node.integers("perm"))


def _concatenated(node: Node, operands: Sequence[Shape]) -> Shape:
    return shapes.concat(operands, node.integer("axis"))


def _cut(node: Node, operands: Sequence[Shape]) -> Shape:
    result = list(operands[0])
    bounds = (node.integers(name) for name in ("starts", "ends", "axes", "steps"))
    for start, end, axis, step in zip(*bounds, strict=True):
        result[axis] = len(range(start, end, step))
    return tuple(result)


def _padded(node: Node, operands: Sequence[Shape]) -> Shape:
    pads, rank = node.integers("pads"), len(operands[0])
    return tuple(size + pads[i] + pads[i + rank] for i, size in enumerate(operands[0]))


def _gathered(node: Node, operands: Sequence[Shape]) -> Shape:
    data, places = operands
    axis = node.integer("axis")
    (axis,) = shapes.inner_axes([axis], data)
    result = (*data[:axis], *places, *data[axis + 1 :])
    text = "it would look one row up in another: take from an initializer"
    need(holds=sum(size < 0 for size in result) <= 1, text=text, rule=Rule.ROWS)
    return result


def _reduced(node: Node, operands: Sequence[Shape]) -> Shape:
    axes = node.integers("axes")
    if node.integer("keepdims"):
        return tuple(1 if axis in axes else size for axis, size in enumerate(operands[0]))
    return tuple(size for axis, size in enumerate(operands[0]) if axis not in axes)


def _conv(node: Node, operands: Sequence[Shape]) -> Shape:
    image, weights = operands[:2]
    group = node.integer("group")
    fits = image[1] == weights[1] * group and weights[0] % group == 0
    need(holds=fits, text=f"{image[1]} channels in {group} groups do not fit weights {list(weights)}")
    return (image[0], weights[0], *_slid(node, image, weights[2:]))


def _slid(node: Node, image: Shape, window: Shape) -> Shape:
    names = {name: node.integers(name) for name in ("strides", "pads", "dilations")}
    return shapes.slide(image[2:], window, ceil=node.attributes.get("ceil_mode") == 1, **names)


def _conv_transpose(node: Node, operands: Sequence[Shape]) -> Shape:
    image, weights = operands[:2]
    group, extra = node.integer("group"), node.integers("output_padding")
    fits = image[1] == weights[0] and weights[0] % group == 0
    need(holds=fits, text=f"{image[1]} channels in {group} groups do not fit weights {list(weights)}")
    strides, pads, dilations = (node.integers(name) for name in ("strides", "pads", "dilations"))
    sizes = tuple(
        (image[2 + i] - 1) * strides[i]
        + (weights[2 + i] - 1) * dilations[i]
        + 1
        + extra[i]
        - pads[i]
        - pads[i + 2]
        for i in (0, 1)
    )
    need(holds=min(sizes) > 0, text="pads leave nothing of the image: make them smaller")
    return (image[0], weights[1] * group, *sizes)


def _pool(node: Node, operands: Sequence[Shape]) -> Shape:
    return (*operands[0][:2], *_slid(node, operands[0], node.integers("kernel_shape")))


def _conv_workspace(node: Node, chain: Sequence[Shape]) -> int:
    """Count the padded image and its transpose, what several taps see of it, and the gradient's transpose."""
    _, channels, height, width = chain[0]
    pads = node.integers("pads")
    padded = channels * (height + pads[0] + pads[2]) * (width + pads[1] + pads[3])
    return 5 * padded + volume(chain[-1])


def _conv_unfolded(node: Node, chain: Sequence[Shape]) -> int:
    """Count, for each place of the output, what its window saw of a group's channels."""
    stepped = node.integers("strides") != (1, 1)  # else no transposed convolution
    return math.prod(chain[1][1:]) * math.prod(chain[-1][2:]) if stepped else 0


def _columns(chain: Sequence[Shape]) -> int:
    """Count what a first layer's windows hold at once; other layers have none."""
    few = chain[1][1] <= FEW_CHANNELS
    return conv_patches.at_once(chain[1]) * math.prod(chain[-1][2:]) if few else 0


def _shares(node: Node, chain: Sequence[Shape]) -> int:
    """Count what each place of the kernel gives back to the image, and the same moved, where that is done."""
    shapes = {**dict(zip(node.inputs, chain, strict=False)), node.output: chain[-1]}
    if choose(Sizes.of(node, shapes, wants=True)) is not Phrasing.TAPS:
        return 0
    return 2 * math.prod(chain[1][1:]) * math.prod(chain[-1][2:])


def _phrased_workspace(node: Node, chain: Sequence[Shape]) -> int:
    """Count what the most expensive phrasing keeps of a row: see chiron.graph.phrasing."""
    columns = _columns(chain)
    by_windows = 2 * columns + volume(chain[-1]) if columns else 0
    by_places = _conv_workspace(node, chain) + _shares(node, chain) + by_windows
    return max(by_places, conv_winograd.workspace(chain[0][1:], chain[1], chain[-1][1:]))


def _phrased_passing(node: Node, chain: Sequence[Shape]) -> int:
    """Count what of that is no tile and no column: those of the forward pass serve the weights' gradient."""
    kept = max(_columns(chain), conv_winograd.tiles(chain[0][1:], chain[1], chain[-1][1:]))
    return max(0, _phrased_workspace(node, chain) - kept)


def _phrased_unfolded(node: Node, chain: Sequence[Shape]) -> int:
    """Count what does not grow with the batch: transformed weights, or what one image unfolds to."""
    return max(_conv_unfolded(node, chain), conv_winograd.transformed(chain[1]))


def _transposed_unfolded(_: Node, chain: Sequence[Shape]) -> int:
    """Count, for each place of the input, what it spreads to."""
    return math.prod(chain[1][1:]) * math.prod(chain[0][2:])


def _average_unfolded(node: Node, chain: Sequence[Shape]) -> int:
    """Count, for each place of the output, its window; channels go one by one."""
    return math.prod(node.integers("kernel_shape")) * math.prod(chain[-1][2:])


def _pool_workspace(_: Node, chain: Sequence[Shape]) -> int:
    return volume(chain[0]) + 2 * volume(chain[-1])


def _max_workspace(node: Node, chain: Sequence[Shape]) -> int:
    """Count what each place of the window sees and gets, and the padded image."""
    return 3 * math.prod(node.integers("kernel_shape")) * volume(chain[-1]) + 4 * volume(chain[0])


def _product_workspace(_: Node, chain: Sequence[Shape]) -> int:
    """Count a transpose of what the rows hold, and gradients of stacked factors before they are summed."""
    left, right, result = chain[0], chain[1], chain[-1]
    turned = max(
        volume(shape) for shape in (left, right, result) if has_batch(shape) or not has_batch(result)
    )
    if len(right) == 2:  # noqa: PLR2004  a matrix
        return turned
    return turned + sum(volume(result[:-2]) * volume(factor[-2:]) for factor in (left, right))


def _fixed_factor(_: Node, chain: Sequence[Shape]) -> int:
    """Count the transpose of a factor that does not grow with the batch."""
    return max((volume(shape) for shape in chain[:2] if not has_batch(shape)), default=0)


def _triple(_: Node, chain: Sequence[Shape]) -> int:
    return 3 * volume(chain[0])


def _unary(gradient: Callable[[Tape, Node, str], None]) -> Primitive:
    return Primitive(_same, gradient)


def _binary(gradient: Callable[[Tape, Node, str], None]) -> Primitive:
    return Primitive(_broadcast, gradient)


_COMPARED = Primitive(_broadcast, kind=Kind.BOOL)

PRIMITIVES: Mapping[str, Primitive] = {
    "Add": _binary(rules_elementwise.add),
    "Sub": _binary(rules_elementwise.sub),
    "Mul": _binary(rules_elementwise.mul),
    "Div": _binary(rules_elementwise.div),
    "Where": Primitive(_broadcast, rules_elementwise.where, like=1),
    "Equal": _COMPARED,
    "Greater": _COMPARED,
    "Less": _COMPARED,
    "GreaterOrEqual": _COMPARED,
    "LessOrEqual": _COMPARED,
    "And": _COMPARED,
    "Or": _COMPARED,
    "Not": Primitive(_same, kind=Kind.BOOL),
    "ToFloat": Primitive(_same, write=write.to_float, kind=Kind.FLOAT),
    "ToInt": Primitive(_same, write=write.to_int, kind=Kind.INT),
    "Mod": Primitive(_broadcast),
    "Neg": _unary(rules_elementwise.neg),
    "Abs": _unary(rules_elementwise.absolute),
    "Exp": _unary(rules_elementwise.exp),
    "Log": _unary(rules_elementwise.log),
    "Sqrt": _unary(rules_elementwise.sqrt),
    "Erf": _unary(rules_elementwise.erf),
    "Power": Primitive(_same, rules_elementwise.power, write.power),
    "Relu": _unary(rules_elementwise.relu),
    "LeakyRelu": _unary(rules_elementwise.leaky_relu),
    "Sigmoid": _unary(rules_elementwise.sigmoid),
    "Tanh": _unary(rules_elementwise.tanh),
    "Clip": Primitive(_same, rules_elementwise.clip, write.clip),
    "Softmax": _unary(rules_reduce.softmax),
    "LogSoftmax": _unary(rules_reduce.log_softmax),
    "ReduceSum": Primitive(_reduced, rules_reduce.reduce_sum, write.reduce_sum),
    "ReduceMean": Primitive(_reduced, rules_reduce.reduce_mean),
    "ReduceMax": Primitive(_reduced, rules_reduce.reduce_max),
    "MatMul": Primitive(
        _matmul,
        rules_dense.matmul,
        workspace=_product_workspace,
        passing=_product_workspace,
        unfolded=_fixed_factor,
    ),
    "Gemm": Primitive(
        _gemm,
        rules_dense.gemm,
        rules_dense.write_gemm,
        workspace=_product_workspace,
        passing=_product_workspace,
    ),
    "Conv": Primitive(
        _conv,
        rules_conv.conv,
        rules_conv.write_conv,
        workspace=_phrased_workspace,
        passing=_phrased_passing,
        unfolded=_phrased_unfolded,
    ),
    "ConvTranspose": Primitive(
        _conv_transpose,
        rules_conv.conv_transpose,
        workspace=lambda node, chain: _conv_workspace(node, [chain[-1], *chain[1:-1], chain[0]]),
        unfolded=_transposed_unfolded,
    ),
    "MaxPool": Primitive(_pool, rules_pool.max_pool, rules_pool.write_max_pool, workspace=_max_workspace),
    "AveragePool": Primitive(
        _pool,
        rules_pool.average_pool,
        write.average_pool,
        workspace=_pool_workspace,
        unfolded=_average_unfolded,
    ),
    "BatchNormalization": Primitive(
        _same, rules_norm.batch_normalization, rules_norm.write_batch_normalization, workspace=_triple
    ),
    "Normalize": Primitive(_same, rules_norm.normalize, rules_norm.write_normalize, workspace=_triple),
    "Dropout": Primitive(_same, rules_elementwise.dropout, write.dropout),
    "Reshape": Primitive(_target, rules_move.reshape, write.reshape),
    "Transpose": Primitive(_transposed, rules_move.transpose),
    "Expand": Primitive(_expanded, rules_move.expand, write.expand),
    "Concat": Primitive(_concatenated, rules_move.concat),
    "Slice": Primitive(_cut, rules_move.cut, write.cut),
    "Pad": Primitive(_padded, rules_move.pad, write.pad),
    "Gather": Primitive(_gathered, rules_move.gather),
}
