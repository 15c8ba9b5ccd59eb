"""Small networks around an operator or two, as exporters write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from networks import Network
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 3


class Case(Network):
    """A network around operators; a parameter before them shows the gradient of their input."""

    def __init__(self, *shape: int, seed: int = 0, opset: int = 17) -> None:
        super().__init__(shape, CLASSES, seed)
        self.opset = opset
        self.add("Add", self.tensor("shift", 1, *shape, scale=1.0))

    def ints(self, *values: int) -> str:
        return self.values(f"i{len(self.tensors)}", np.array(values, np.int64))

    def floats(self, *values: float) -> str:
        return self.values(f"const.f{len(self.tensors)}", np.array(values, np.float32))

    def scalar(self, value: float) -> str:
        return self.values(f"const.s{len(self.tensors)}", np.array(value, np.float32))

    def weights(self, *shape: int) -> str:
        return self.tensor(f"w{len(self.tensors)}", *shape)

    def positive(self) -> str:
        """Make the head positive."""
        return self.add("Add", self.scalar(0.5), first=self.add("Mul", self.head))

    def several(self, operator: str, *others: str, count: int, **attributes: Any) -> list[str]:  # noqa: ANN401
        """Add a node with several outputs; the first becomes the head."""
        self.add(operator, *others, **attributes)
        node = self.nodes[-1]
        node.output.extend(f"{self.head}.{i}" for i in range(1, count))
        return list(node.output)

    def finished(self, width: int) -> bytes:
        self.add("Flatten")
        self.add("MatMul", self.tensor("head", width, CLASSES))
        model = self.model()
        model.opset_import[0].version = self.opset
        raw: bytes = model.SerializeToString()
        return raw


def simple(operator: str, **attributes: Any) -> Callable[[], tuple[Case, int]]:  # noqa: ANN401
    opset = attributes.pop("opset", 17)

    def build() -> tuple[Case, int]:
        case = Case(2, 3, opset=opset)
        case.add(operator, **attributes)
        return case, 6

    return build


def positive(operator: str) -> Callable[[], tuple[Case, int]]:
    def build() -> tuple[Case, int]:
        case = Case(2, 3)
        case.positive()
        case.add(operator)
        return case, 6

    return build


def binary(operator: str) -> tuple[Case, int]:
    case = Case(2, 3)
    left = case.positive()
    case.add(operator, case.add("Mul", case.weights(2, 1)), first=left)
    return case, 6


def choice(operator: str) -> tuple[Case, int]:
    """Choose between two branches by a comparison."""
    case = Case(2, 3)
    head = case.head
    case.add(operator, case.scalar(0.1))
    if operator == "Equal":
        case.add("Not")
    left = case.head
    other = case.add("Less", case.scalar(1.0), first=head)
    case.add("And", other, first=left)
    case.add("Or", left, first=case.head)
    condition = case.head
    case.add(
        "Where", case.add("Tanh", first=head), case.add("Mul", case.weights(3), first=head), first=condition
    )
    return case, 6


def moved() -> tuple[Case, int]:
    case = Case(2, 3, 4)
    case.add("Transpose", perm=[0, 3, 1, 2])
    case.add("Transpose", perm=[1, 2, 0, 3])  # the batch at the third place
    case.add("MatMul", case.weights(3, 2))
    case.add("Transpose", perm=[2, 0, 1, 3])
    return case, 16


def merged() -> tuple[Case, int]:
    """Merge the batch with steps, multiply, and part them again, as exporters write linear layers."""
    case = Case(2, 3)
    case.add("Reshape", case.ints(-1, 3))
    case.add("Gemm", case.weights(4, 3), case.weights(4), transB=1, alpha=0.5, beta=2.0)
    case.add("Reshape", case.ints(-1, 2, 4))
    return case, 8


def sizes_from_shapes() -> tuple[Case, int]:
    """Compute a target from the batch, as exporters do."""
    case = Case(2, 3, 2)
    head = case.head
    rows = case.add("Gather", case.values("zero", np.array(0, np.int64)), first=case.add("Shape"))
    one = case.add("Unsqueeze", case.ints(0), first=rows)
    case.add("Concat", case.ints(-1, 4), first=one, axis=0)
    case.add("Reshape", case.head, first=head)
    return case, 12


def attention() -> tuple[Case, int]:
    case = Case(4, 6)
    head = case.head
    parts = []
    for _ in range(3):
        case.add("MatMul", case.weights(6, 6), first=head)
        case.add("Reshape", case.ints(0, 4, 2, 3))
        parts.append(case.add("Transpose", perm=[0, 2, 1, 3]))
    scores = case.add("MatMul", case.add("Transpose", first=parts[1], perm=[0, 1, 3, 2]), first=parts[0])
    case.add("Softmax", first=case.add("Mul", case.scalar(0.5), first=scores), axis=-1)
    case.add("MatMul", parts[2])
    case.add("Reshape", case.ints(0, 4, 6), first=case.add("Transpose", perm=[0, 2, 1, 3]))
    return case, 24


def embedding() -> tuple[Case, int]:
    case = Case(5)
    case.add("Cast", first=case.add("Mul", case.scalar(2.0), first="x"), to=TensorProto.INT64)
    places = case.add("Clip", case.values("low", np.array(0)), case.values("high", np.array(6)))
    case.add("Gather", places, first=case.weights(7, 4))
    embedded = case.add("ReduceMean", axes=[1], keepdims=0)
    case.add("Add", case.add("MatMul", case.weights(5, 4), first="t0"), first=embedded)
    return case, 4


def token() -> tuple[Case, int]:
    """Put a trained token before a sequence, and take it out again."""
    case = Case(3, 4)
    head = case.head
    rows = case.add("Slice", case.ints(0), case.ints(1), first=case.add("Shape"))
    shape = case.add("Concat", case.ints(1, 4), first=rows, axis=0)
    lead = case.add("Expand", shape, first=case.weights(1, 1, 4))
    case.add("Concat", head, first=lead, axis=1)
    case.add("Mul", case.weights(1, 4, 4))
    case.add("Gather", case.values("first", np.array(0)), axis=1)
    return case, 4


def picked() -> tuple[Case, int]:
    case = Case(4, 3)
    case.add("Gather", case.ints(3, 0, -1, 0), axis=1)
    return case, 12


def cut() -> tuple[Case, int]:
    case = Case(7, 5)
    case.add("Slice", case.ints(5, 1), case.ints(-100, 5), case.ints(1, 2), case.ints(-2, 3))
    return case, 3 * 2


def parted() -> tuple[Case, int]:
    case = Case(7, 2)
    first, _, last = case.several("Split", case.ints(2, 3, 2), count=3, axis=1)
    case.add("Sub", last, first=first)
    case.nodes[-2].output[1] = "spare"
    return case, 4


def evenly_parted() -> tuple[Case, int]:
    case = Case(6, opset=18)
    first, second = case.several("Split", count=2, axis=1, num_outputs=2)
    case.add("Mul", second, first=first)
    return case, 3


def recurrent(operator: str, direction: str, *, states: bool = False, **attributes: Any) -> tuple[Case, int]:  # noqa: ANN401
    case = Case(4, 3)
    gates, ways, size = (4 if operator == "LSTM" else 3), (2 if direction == "bidirectional" else 1), 2
    case.add("Transpose", perm=[1, 0, 2])
    others = [case.weights(ways, gates * size, 3), case.weights(ways, gates * size, size)]
    others.append(case.weights(ways, 2 * gates * size))
    if states:
        rows = case.add("Gather", case.ints(1), first=case.add("Shape"))
        first = case.nodes[-3].output[0]
        shape = case.add("Concat", rows, case.ints(size), first=case.ints(ways), axis=0)
        zeros = case.add("Expand", shape, first=case.scalar(0.0))
        others += ["", zeros] + ([zeros] if operator == "LSTM" else [])
        case.head = first
    outputs = case.several(operator, *others, count=2, direction=direction, hidden_size=size, **attributes)
    last = case.add("Transpose", first=outputs[1], perm=[1, 0, 2])
    case.add("Reshape", case.ints(-1, ways * size), first=last)
    ends = case.head
    case.add("Transpose", first=outputs[0], perm=[2, 0, 1, 3])
    case.add("Reshape", case.ints(0, 4 * ways * size))
    case.add("Concat", ends, axis=1)
    return case, 5 * ways * size


def padded() -> tuple[Case, int]:
    case = Case(2, 3)
    case.add("Pad", case.ints(0, 1, 0, 0, 0, 2), case.scalar(0.5))
    case.add("Mul", case.weights(3, 5))
    return case, 15


def enlarged(*, sizes: bool) -> Callable[[], tuple[Case, int]]:
    def build() -> tuple[Case, int]:
        case = Case(2, 2, 3)
        mode = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        if sizes:
            head = case.head
            rows = case.add("Slice", case.ints(0), case.ints(1), first=case.add("Shape"))
            target = case.add("Concat", case.ints(2, 4, 9), first=rows, axis=0)
            case.add("Resize", "", "", target, first=head, **mode)
        else:
            case.add("Resize", "", case.floats(1, 1, 2, 3), **mode)
        case.add("Mul", case.weights(2, 4, 9))
        return case, 72

    return build


def tiled() -> tuple[Case, int]:
    case = Case(2, 3)
    case.add("Tile", case.ints(1, 2, 3))
    case.add("Mul", case.weights(4, 9))
    return case, 36


def constants() -> tuple[Case, int]:
    case = Case(2, 3)
    case.nodes.append(
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", 1, [3], [1.0, 2.0, 3.0]))
    )
    case.nodes.append(
        helper.make_node(
            "ConstantOfShape", [case.ints(2, 1)], ["d"], value=helper.make_tensor("v", 1, [1], [2.0])
        )
    )
    case.add("Mul", "c")
    case.add("Add", "d")
    head = case.head
    counted = case.add(
        "Range",
        case.values("to", np.array(3)),
        case.values("by", np.array(1)),
        first=case.values("from", np.array(0)),
    )
    case.add("Mul", case.add("Cast", first=counted, to=TensorProto.FLOAT), first=head)
    size = case.add("Size", first=head)
    case.add(
        "Reshape",
        case.add(
            "Concat",
            case.ints(6),
            first=case.add(
                "Unsqueeze", case.ints(0), first=case.add("Div", case.values("six", np.array(6)), first=size)
            ),
            axis=0,
        ),
        first=case.nodes[-5].output[0],
    )
    return case, 6


def images(operator: str, *shape: int, kernel: tuple[int, ...] = (), **attributes: Any) -> tuple[Case, int]:  # noqa: ANN401
    """Add a layer over images or sequences, and average what comes of it."""
    case = Case(*shape)
    others = [case.weights(*kernel)] if kernel else []
    if kernel and operator != "ConvTranspose":
        others.append(case.weights(kernel[0]))
    case.add(operator, *others, **attributes)
    case.add("Tanh")
    outs = kernel[0] if operator == "Conv" else kernel[1] * attributes.get("group", 1) if kernel else shape[0]
    case.add("GlobalAveragePool")
    return case, outs


def normalized(operator: str, *shape: int, opset: int = 17, **attributes: Any) -> tuple[Case, int]:  # noqa: ANN401
    case = Case(*shape, opset=opset)
    size = shape[-1:] if operator in {"LayerNormalization", "RMSNormalization"} else shape[:1]
    others = [case.weights(*size)]
    if operator != "RMSNormalization":
        others.append(case.weights(*size))
    case.add(operator, *others, **attributes)
    case.add("Tanh")
    return case, int(np.prod(shape))


def batch_normalized(mode: int, *shape: int) -> tuple[Case, int]:
    case = Case(*shape)
    channels = shape[0]
    others = [case.weights(channels), case.weights(channels), case.weights(channels)]
    others.append(case.values("variance", np.linspace(0.5, 2, channels).astype(np.float32)))
    case.add("BatchNormalization", *others, training_mode=mode)
    if mode:
        case.nodes[-1].output.extend(["mean", "var"])
    case.add("Tanh")
    return case, int(np.prod(shape))


def reduced(operator: str, axes: list[int], keepdims: int, opset: int) -> tuple[Case, int]:
    case = Case(2, 3, 4, opset=opset)
    by_operand = opset >= 18 or operator == "ReduceSum"
    others = [case.ints(*axes)] if by_operand else []
    given: dict[str, Any] = {} if by_operand else {"axes": axes}
    case.add(operator, *others, keepdims=keepdims, **given)
    return case, 24 // int(np.prod([(0, 2, 3, 4)[axis] for axis in axes]))


def reduced_by_no_axes() -> tuple[Case, int]:
    case = Case(2, 3, opset=18)
    case.positive()
    head = case.head
    case.add("ReduceL2", noop_with_empty_axes=1)
    case.add("Mul", head)
    return case, 6


def spread_constants() -> tuple[Case, int]:
    """Compute with one value that stands for many beside a vector; the result is a matrix."""
    case = Case(6)
    head = case.head
    twos = case.add("ConstantOfShape", first=case.ints(2, 1), value=helper.make_tensor("v", 1, [1], [2.0]))
    case.add("Mul", case.floats(1, 2, 3), first=twos)
    case.add("Reshape", case.ints(1, 6))
    case.add("Mul", head)
    return case, 6


def power(exponent: float) -> tuple[Case, int]:
    case = Case(2, 3)
    case.positive()
    case.add("Pow", case.scalar(exponent))
    return case, 6


def clipped(*bounds: float | None) -> tuple[Case, int]:
    case = Case(2, 3)
    case.add("Clip", *["" if bound is None else case.scalar(bound) for bound in bounds])
    return case, 6


def shaped() -> tuple[Case, int]:
    case = Case(1, 2, 3)
    case.add("Squeeze", case.ints(1))
    case.add("PRelu", case.weights(2, 1))
    case.add("Unsqueeze", case.ints(1, -1))
    case.add("Flatten", axis=2)
    return case, 6


def places() -> tuple[Case, int]:
    """Compute places in an embedding from the rows, in integers."""
    case = Case(4)
    shifted = case.head
    case.add("Cast", first="x", to=TensorProto.INT64)
    wide = case.add("Add", case.values("many", np.array(21)))
    case.add("Mod", case.values("seven", np.array(7)), first=wide)
    negative = case.add("Less", case.values("none", np.array(0)))
    case.add("Where", case.nodes[-2].output[0], case.nodes[-2].output[0], first=negative)
    case.add("Gather", case.head, first=case.weights(7, 3))
    taken = case.head
    twice = case.add("CastLike", taken, first=case.values("two", np.array([2])))
    case.add(
        "Add", case.add("Mul", twice, first=taken), first=case.add("Unsqueeze", case.ints(2), first=shifted)
    )
    return case, 12
