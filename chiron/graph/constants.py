"""Constant and ConstantOfShape: nodes whose attribute is a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto

from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.lower_shape import constant_of_shape
from chiron.graph.net import Tensor, known
from chiron.graph.shapes import need
from chiron.graph.tensors import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from chiron.graph.known import Array

NAMES = frozenset({"Constant", "ConstantOfShape"})
MAX_LISTED = 4096


def constant(proto: NodeProto, operands: Sequence[Tensor | None]) -> Tensor:
    """Return the known value of such a node.

    Raises:
        AdmissionError: it has no value, or one of another kind.
    """
    attributes = list(proto.attribute)
    need(holds=len(attributes) <= 1, text="it has more than one value", rule=Rule.ATTRIBUTE)
    if proto.op_type == "ConstantOfShape":
        value = _value(attributes[0]) if attributes else np.zeros(1, np.float32)
        need(holds=value.size == 1, text="its value must be one number", rule=Rule.ATTRIBUTE)
        shape = operands[0] if operands else None
        if shape is None:
            raise AdmissionError(Rule.OPERANDS, "the shape is needed: give it")
        return constant_of_shape(value, shape)
    need(holds=len(attributes) == 1, text="it has no value", rule=Rule.ATTRIBUTE)
    return known(_value(attributes[0]))


def _value(attribute: AttributeProto) -> Array:
    match attribute.name, attribute.type:
        case "value", AttributeProto.TENSOR:
            return decode(attribute.t, constant=True)
        case "value_float", AttributeProto.FLOAT:
            value = np.array(attribute.f, np.float32)
        case "value_int", AttributeProto.INT:
            value = np.array(attribute.i, np.int64)
        case "value_floats", AttributeProto.FLOATS if len(attribute.floats) <= MAX_LISTED:
            value = np.array(attribute.floats, np.float32)
        case "value_ints", AttributeProto.INTS if len(attribute.ints) <= MAX_LISTED:
            value = np.array(attribute.ints, np.int64)
        case _:
            text = "its value must be a tensor, a number or a short list of numbers"
            raise AdmissionError(Rule.ATTRIBUTE, text)
    need(holds=not np.isnan(value).any(), text="its value is not a number", rule=Rule.FINITE)
    return value
