"""The allow-list: every operator a guest's graph may use, with the attributes and inputs it may have.

What is not here is refused. Each row's meaning is that of the ONNX operator at opset 17, which the rows'
attribute rules keep equal over the opsets that are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

AttributeValue = int | float | str | tuple[int, ...]
Check = Callable[[AttributeValue], bool]
MAX_WINDOW = 64  # kernel sizes, strides, pads
OPSETS = range(13, 22)
OUTPUT_OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True, slots=True)
class Operator:
    """One row: how many inputs, and for each attribute a check of its value and the rule in words."""

    inputs: range
    attributes: Mapping[str, tuple[Check, str]] = field(default_factory=dict)
    required: tuple[str, ...] = ()


def _one_of(*values: AttributeValue) -> tuple[Check, str]:
    return (
        lambda value: type(value) in {type(v) for v in values} and value in values
    ), f"one of {list(values)}"


def _numbers(count: int, low: int, high: int = MAX_WINDOW) -> tuple[Check, str]:
    def check(value: AttributeValue) -> bool:
        return isinstance(value, tuple) and len(value) == count and all(low <= v <= high for v in value)

    return check, f"{count} numbers from {low} to {high}"


def _share(value: AttributeValue) -> bool:
    return isinstance(value, float) and 0.0 <= value <= 1.0


_WINDOW = {
    "kernel_shape": _numbers(2, 1),
    "strides": _numbers(2, 1),
    "auto_pad": _one_of("NOTSET"),
}
_POOL = {**_WINDOW, "pads": _numbers(4, 0, 0), "ceil_mode": _one_of(0), "dilations": _numbers(2, 1, 1)}
_ELEMENTWISE = Operator(range(2, 3))

OPERATORS: Mapping[str, Operator] = {
    "Add": _ELEMENTWISE,
    "Sub": _ELEMENTWISE,
    "Mul": _ELEMENTWISE,
    "Div": _ELEMENTWISE,
    "Relu": Operator(range(1, 2)),
    "LeakyRelu": Operator(range(1, 2), {"alpha": (_share, "a number from 0 to 1")}),
    "Sigmoid": Operator(range(1, 2)),
    "Tanh": Operator(range(1, 2)),
    "MatMul": Operator(range(2, 3)),
    "Gemm": Operator(
        range(2, 4),
        {"alpha": _one_of(1.0), "beta": _one_of(1.0), "transA": _one_of(0), "transB": _one_of(0, 1)},
    ),
    "Conv": Operator(
        range(2, 4),
        {**_WINDOW, "pads": _numbers(4, 0), "dilations": _numbers(2, 1), "group": _one_of(1)},
    ),
    "MaxPool": Operator(range(1, 2), {**_POOL, "storage_order": _one_of(0)}, ("kernel_shape", "strides")),
    "AveragePool": Operator(
        range(1, 2), {**_POOL, "count_include_pad": _one_of(0, 1)}, ("kernel_shape", "strides")
    ),
    "GlobalAveragePool": Operator(range(1, 2)),
    "Flatten": Operator(range(1, 2), {"axis": _one_of(1)}),
    "Reshape": Operator(range(2, 3), {"allowzero": _one_of(0)}),
}
