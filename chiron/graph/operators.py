"""The allow-list: every operator a guest's graph may use. What is not here is refused.

A row is all that is known of an operator: its operands, its attributes, the opsets at which it means what is
made of it, and how it is taken apart into primitives, which carry the shape rules and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from chiron.graph import lower_elementwise as elementwise
from chiron.graph import lower_layers as layers
from chiron.graph import lower_recurrent as recurrent
from chiron.graph import lower_shape as moves
from chiron.graph.attributes import (
    MAX_GROUPS,
    Attribute,
    any_integer,
    choice,
    fixed,
    ignored,
    integer,
    integers,
    number,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chiron.graph.net import Call, Net, Tensor

OPSETS = range(13, 26)


class Operand(Enum):
    """What may stand in an operand's place."""

    FLOAT = "float32"
    NUMBER = "float32 or int64"
    FIXED = "an initializer, or computed from initializers: the same for all rows"
    INT = "int64"
    BOOL = "bool"
    ANY = "any tensor"
    KNOWN = "a constant"


@dataclass(frozen=True, slots=True)
class Operator:
    """One row.

    Args:
        operands: what may stand where; with `many`, the last one may be repeated.
        make: emits primitives and returns the outputs; raises AdmissionError where operands do not fit.
        attributes: the admitted ones.
        optional: how many operands at the end may be left out.
        opsets: where it means what `make` makes of it, given the attributes' rules.
        outputs: the most it may have.
    """

    operands: tuple[Operand, ...]
    make: Callable[[Net, Call], Tensor | tuple[Tensor, ...]]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    optional: int = 0
    opsets: range = OPSETS
    outputs: int = 1
    many: bool = False


def _since(opset: int) -> range:
    return range(opset, OPSETS.stop)


_FLOAT, _NUMBER, _FIXED, _INT, _BOOL, _ANY, _KNOWN = (
    Operand.FLOAT, Operand.NUMBER, Operand.FIXED, Operand.INT, Operand.BOOL, Operand.ANY, Operand.KNOWN,
)  # fmt: skip
_SMALL = number(0.0, 1.0, default=1e-5)
_AXIS = any_integer(default=-1)
_AUTO_PAD = word("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_WINDOW = {
    "strides": integers(1),
    "pads": integers(0),
    "dilations": integers(1),
    "auto_pad": _AUTO_PAD,
}
_KERNEL = {**_WINDOW, "kernel_shape": integers(1), "group": integer(1, MAX_GROUPS)}
_POOL = {**_WINDOW, "kernel_shape": integers(1, required=True)}
_REDUCED = {
    "axes": integers(-8, high=7),
    "keepdims": choice(1, 0),
    "noop_with_empty_axes": choice(0, 1),
}
_RECURRENT = {
    "hidden_size": Attribute(
        lambda given: type(given) is int and 1 <= given <= 1 << 16,
        "an integer from 1 to 65536",
        required=True,
    ),
    "direction": word("forward", "reverse", "bidirectional"),
    "layout": fixed(0),
}  # activations, clip and input_forget are not admitted

_UNARY = Operator((_FLOAT,), elementwise.plain)
_ARITHMETIC = Operator((_NUMBER, _NUMBER), elementwise.arithmetic)
_COMPARE = Operator((_NUMBER, _NUMBER), elementwise.arithmetic)
_LOGIC = Operator((_BOOL, _BOOL), elementwise.plain)
_REDUCE = Operator((_FLOAT, _KNOWN), layers.reduce, _REDUCED, optional=1)
_SOFTMAX = Operator((_FLOAT,), layers.softmax, {"axis": _AXIS})

OPERATORS: Mapping[str, Operator] = {
    # arithmetic
    "Add": _ARITHMETIC,
    "Sub": _ARITHMETIC,
    "Mul": _ARITHMETIC,
    "Div": _ARITHMETIC,
    "Sum": Operator((_FLOAT,), elementwise.added, many=True),
    "Mod": Operator((_INT, _INT), elementwise.modulo, {"fmod": fixed(0)}),
    "Min": Operator((_FLOAT, _FLOAT), elementwise.least),
    "Max": Operator((_FLOAT, _FLOAT), elementwise.most),
    "Pow": Operator((_NUMBER, _KNOWN), elementwise.power),
    "Neg": Operator((_NUMBER,), elementwise.plain),
    "Abs": Operator((_NUMBER,), elementwise.plain),
    "Reciprocal": Operator((_FLOAT,), elementwise.reciprocal),
    "Sqrt": _UNARY,
    "Exp": _UNARY,
    "Log": _UNARY,
    "Erf": _UNARY,
    # comparison and choice
    "Equal": _COMPARE,
    "Greater": _COMPARE,
    "Less": _COMPARE,
    "GreaterOrEqual": _COMPARE,
    "LessOrEqual": _COMPARE,
    "And": _LOGIC,
    "Or": _LOGIC,
    "Not": Operator((_BOOL,), elementwise.plain),
    "Where": Operator((_BOOL, _NUMBER, _NUMBER), elementwise.where),
    # activations
    "Relu": _UNARY,
    "LeakyRelu": Operator((_FLOAT,), elementwise.plain, {"alpha": number(0.0, 1.0, default=0.01)}),
    "PRelu": Operator((_FLOAT, _FIXED), elementwise.prelu),
    "Elu": Operator((_FLOAT,), elementwise.elu, {"alpha": number(0.0, 16.0, default=1.0)}),
    "Selu": Operator(
        (_FLOAT,),
        elementwise.selu,
        {
            "alpha": number(0.0, 16.0, default=1.67326319217681884765625),
            "gamma": number(0.0, 16.0, default=1.05070102214813232421875),
        },
    ),
    "Sigmoid": _UNARY,
    "Tanh": _UNARY,
    "HardSigmoid": Operator(
        (_FLOAT,),
        elementwise.hard_sigmoid,
        {"alpha": number(0.0, 16.0, default=0.2), "beta": number(-16.0, 16.0, default=0.5)},
    ),
    "HardSwish": Operator((_FLOAT,), elementwise.hard_swish, opsets=_since(14)),
    "Softplus": Operator((_FLOAT,), elementwise.softplus),
    "Gelu": Operator((_FLOAT,), elementwise.gelu, {"approximate": word("none", "tanh")}, opsets=_since(20)),
    "Mish": Operator((_FLOAT,), elementwise.mish, opsets=_since(18)),
    "Swish": Operator(
        (_FLOAT,), elementwise.swish, {"alpha": number(-16.0, 16.0, default=1.0)}, opsets=_since(24)
    ),
    "Clip": Operator((_NUMBER, _KNOWN, _KNOWN), elementwise.clip, optional=2),
    "Softmax": _SOFTMAX,
    "LogSoftmax": _SOFTMAX,
    "Dropout": Operator(
        (_FLOAT, _KNOWN, _KNOWN), elementwise.dropout, {"seed": ignored()}, optional=2, outputs=2
    ),
    # products
    "MatMul": Operator((_FLOAT, _FLOAT), layers.matmul),
    "Gemm": Operator(
        (_FLOAT, _FLOAT, _FLOAT),
        layers.gemm,
        {
            "alpha": number(-1024.0, 1024.0, default=1.0),
            "beta": number(-1024.0, 1024.0, default=1.0),
            "transA": choice(0, 1),
            "transB": choice(0, 1),
        },
        optional=1,
    ),
    # windows over images (2D) and sequences (1D)
    "Conv": Operator((_FLOAT, _FIXED, _FIXED), layers.conv, _KERNEL, optional=1),
    "ConvTranspose": Operator(
        (_FLOAT, _FIXED, _FIXED),
        layers.conv_transpose,
        {
            **_KERNEL,
            "auto_pad": word("NOTSET", "VALID"),
            "output_padding": integers(0),
            "output_shape": Attribute(lambda _: False, "left out", written=False),
        },
        optional=1,
    ),
    "MaxPool": Operator(
        (_FLOAT,), layers.pool, {**_POOL, "ceil_mode": choice(0, 1), "storage_order": fixed(0)}, outputs=2
    ),
    "AveragePool": Operator(
        (_FLOAT,), layers.pool, {**_POOL, "ceil_mode": fixed(0), "count_include_pad": choice(0, 1)}
    ),
    "GlobalAveragePool": Operator((_FLOAT,), layers.global_pool),
    "GlobalMaxPool": Operator((_FLOAT,), layers.global_pool),
    # normalisations
    "BatchNormalization": Operator(
        (_FLOAT, _FIXED, _FIXED, _FIXED, _FIXED),
        layers.batch_normalization,
        {"epsilon": _SMALL, "momentum": ignored(), "training_mode": choice(0, 1)},
        opsets=_since(14),
        outputs=3,
    ),
    "LayerNormalization": Operator(
        (_FLOAT, _FLOAT, _FLOAT),
        layers.layer_normalization,
        {"axis": _AXIS, "epsilon": _SMALL, "stash_type": fixed(1)},
        optional=1,
        opsets=_since(17),
        outputs=3,
    ),
    "RMSNormalization": Operator(
        (_FLOAT, _FLOAT),
        layers.rms_normalization,
        {"axis": _AXIS, "epsilon": _SMALL, "stash_type": fixed(1)},
        opsets=_since(23),
    ),
    "InstanceNormalization": Operator(
        (_FLOAT, _FIXED, _FIXED), layers.instance_normalization, {"epsilon": _SMALL}
    ),
    "GroupNormalization": Operator(
        (_FLOAT, _FIXED, _FIXED),
        layers.group_normalization,
        {
            "epsilon": _SMALL,
            "num_groups": Attribute(
                lambda given: type(given) is int and 1 <= given <= MAX_GROUPS,
                f"an integer from 1 to {MAX_GROUPS}",
                required=True,
            ),
            "stash_type": fixed(1),
        },
        opsets=_since(21),
    ),
    # reductions
    "ReduceSum": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceL2": Operator((_FLOAT, _KNOWN), layers.reduce_l2, _REDUCED, optional=1),
    # sequences
    "LSTM": Operator(
        (_FLOAT, _FIXED, _FIXED, _FIXED, _INT, _FLOAT, _FLOAT, _FIXED),
        recurrent.lstm,
        {**_RECURRENT, "input_forget": fixed(0)},
        optional=5,
        opsets=_since(14),
        outputs=3,
    ),
    "GRU": Operator(
        (_FLOAT, _FIXED, _FIXED, _FIXED, _INT, _FLOAT),
        recurrent.gru,
        {**_RECURRENT, "linear_before_reset": choice(0, 1)},
        optional=3,
        opsets=_since(14),
        outputs=2,
    ),
    # shapes
    "Identity": Operator((_ANY,), moves.identity),
    "Cast": Operator(
        (_ANY,),
        elementwise.cast,
        {
            "to": Attribute(
                lambda given: type(given) is int and given in {1, 6, 7, 9},
                "float32, int32, int64 or bool",
                required=True,
            ),
            "saturate": ignored(),
            "round_mode": ignored(),
        },
    ),
    "CastLike": Operator(
        (_ANY, _ANY),
        elementwise.cast_like,
        {"saturate": ignored(), "round_mode": ignored()},
        opsets=_since(15),
    ),
    "Flatten": Operator((_FLOAT,), moves.flatten, {"axis": any_integer(default=1)}),
    "Reshape": Operator((_ANY, _KNOWN), moves.reshape, {"allowzero": choice(0, 1)}),
    "Squeeze": Operator((_ANY, _KNOWN), moves.squeeze, optional=1),
    "Unsqueeze": Operator((_ANY, _KNOWN), moves.unsqueeze),
    "Transpose": Operator((_ANY,), moves.transpose, {"perm": integers(0, high=7)}),
    "Expand": Operator((_ANY, _KNOWN), moves.expand),
    "Tile": Operator((_ANY, _KNOWN), moves.tile),
    "Concat": Operator((_ANY,), moves.concat, {"axis": any_integer(required=True)}, many=True),
    "Split": Operator(
        (_FLOAT, _KNOWN),
        moves.split,
        {"axis": any_integer(default=0), "num_outputs": integer(1, 256)},
        optional=1,
        outputs=256,
    ),
    "Slice": Operator((_ANY, _KNOWN, _KNOWN, _KNOWN, _KNOWN), moves.slices, optional=2),
    "Gather": Operator((_ANY, _INT), moves.gather, {"axis": any_integer(default=0)}),
    "Pad": Operator((_FLOAT, _KNOWN, _KNOWN, _KNOWN), moves.pad, {"mode": word("constant")}, optional=2),
    "Resize": Operator(
        (_FLOAT, _KNOWN, _KNOWN, _KNOWN),
        moves.resize,
        {
            "mode": word("nearest"),
            "nearest_mode": word("round_prefer_floor", "floor"),
            "coordinate_transformation_mode": word("half_pixel", "asymmetric"),
            "antialias": fixed(0),
            "axes": Attribute(lambda _: False, "left out", written=False),
            "cubic_coeff_a": ignored(),
            "exclude_outside": ignored(),
            "extrapolation_value": ignored(),
            "keep_aspect_ratio_policy": word("stretch"),
        },
        optional=3,
    ),
    "Shape": Operator((_ANY,), moves.shape_of, {"start": any_integer(default=0), "end": any_integer()}),
    "Size": Operator((_ANY,), moves.size_of),
    "Range": Operator((_KNOWN, _KNOWN, _KNOWN), moves.counted),
    # constants: their values are attributes, which chiron.graph.constants reads
    "Constant": Operator((), moves.identity),
    "ConstantOfShape": Operator((_KNOWN,), moves.identity),
}
