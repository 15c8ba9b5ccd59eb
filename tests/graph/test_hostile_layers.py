"""Hostile layers: each is refused by its rule, in under a second and under 200 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import Network
from onnx import TensorProto, helper
from refusals import refused

from chiron.graph import GraphLimits, Rule, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = GraphLimits(max_bytes=1 << 22, max_parameters=1 << 16, max_nodes=200, max_primitives=2000)
SMALL = (2, 3)


class Hostile(Network):
    """A network that has begun well."""

    def __init__(self, *shape: int) -> None:
        super().__init__(shape or SMALL, 3)
        self.add("Add", self.tensor("shift", 1, *self.shape))

    def ints(self, *values: int) -> str:
        return self.values(f"i{len(self.tensors)}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.values(f"const.n{len(self.tensors)}", np.array(value, np.float32))

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401
        """Add a node that does not read the head."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def layer(operator: str, *values: list[int], **attributes: Any) -> Callable[[], Hostile]:  # noqa: ANN401
    """Return a network with one layer more, its operands after the first constant integers."""

    def build() -> Hostile:
        net = Hostile()
        net.add(operator, *[net.ints(*each) for each in values], **attributes)
        return net

    return build


def constant_bomb() -> Hostile:
    net = Hostile()
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    bomb = net.node("ConstantOfShape", [net.ints(1 << 20, 1 << 20)], value=value)
    net.add("Mul", bomb)
    return net


def negative_constant() -> Hostile:
    """Claim a batch where there is none."""
    net = Hostile()
    net.add("Mul", net.node("ConstantOfShape", [net.ints(-1, 2, 3)]))
    return net


def chain_of_constants() -> Hostile:
    """Grow a constant by a factor at each step, none of them large."""
    net = Hostile()
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    bomb = net.node("ConstantOfShape", [net.ints(64, 1)], value=value)
    for _ in range(20):
        bomb = net.node("Concat", [bomb] * 16, axis=0)
    net.add("Add", bomb)
    return net


def doubling() -> Hostile:
    net = Hostile()
    for _ in range(60):
        net.add("Concat", net.head, axis=1)
    return net


def powers_by_broadcast() -> Hostile:
    net = Hostile(1, 1)
    net.add("Add", net.tensor("tall", 1, 30000, 1))
    net.add("Add", net.tensor("wide", 1, 1, 30000))
    return net


def long_range() -> Hostile:
    net = Hostile()
    net.add("Mul", net.node("Range", [net.ints(0), net.ints(1 << 40), net.ints(1)]))
    return net


def endless_range() -> Hostile:
    net = Hostile()
    zero = net.values("zero", np.array(0, np.int64))
    net.add("Mul", net.node("Range", [zero, net.values("far", np.array(9, np.int64)), zero]))
    return net


def steps(operator: str, count: int) -> Callable[[], Hostile]:
    def build() -> Hostile:
        net = Hostile(count, 2)
        gates = 4 if operator == "LSTM" else 3
        net.add("Transpose", perm=[1, 0, 2])
        net.add(operator, net.tensor("w", 1, gates, 2), net.tensor("r", 1, gates, 1), hidden_size=1)
        return net

    return build


def subgraph(operator: str, name: str) -> Callable[[], Hostile]:
    def build() -> Hostile:
        net = Hostile()
        net.add(operator, **{name: helper.make_graph([], "inner", [], [])})
        return net

    return build


def nested() -> Hostile:
    """Hide a graph in an attribute of an operator that is admitted."""
    net = Hostile()
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("Relu", [], [], body=inner)], "inner", [], [])
    net.add("Relu", body=inner)
    return net


def strings() -> Hostile:
    net = Hostile()
    net.add("Mul", net.node("Constant", [], value_string="text"))
    return net


def sparse() -> Hostile:
    net = Hostile()
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    held = helper.make_sparse_tensor(values, places, [1 << 40])
    net.add("Mul", net.node("Constant", [], sparse_value=held))
    return net


def unknown_constant() -> Hostile:
    net = Hostile()
    net.add("Add", net.number(float("nan")))
    return net


def batch_as_number() -> Hostile:
    """Multiply rows by how many there are."""
    net = Hostile()
    rows = net.add("Cast", first=net.add("Shape"), to=TensorProto.FLOAT)
    net.add("Mul", rows, first="t0")
    return net


def row_of_another() -> Hostile:
    """Take rows of the batch by a constant place."""
    net = Hostile()
    net.add("Gather", net.ints(0), axis=0)
    return net


def looked_up_in_rows() -> Hostile:
    net = Hostile(4, 4)
    places = net.add("Cast", to=TensorProto.INT64)
    net.add("Gather", places, first="t0", axis=1)
    return net


def reversed_batch() -> Hostile:
    net = Hostile()
    net.add("Slice", net.ints(-1), net.ints(-(1 << 40)), net.ints(0), net.ints(-1))
    return net


def merged_and_added() -> Hostile:
    """Merge steps with rows both ways, and add what then belongs to different rows."""
    net = Hostile(4, 2)
    head = net.head
    plain = net.add("Reshape", net.ints(-1, 2))
    net.add("Transpose", first=head, perm=[1, 0, 2])
    net.add("Reshape", net.ints(-1, 2))
    net.add("Add", plain)
    return net


def statistics_that_are_computed() -> Hostile:
    net = Hostile()
    scale = net.tensor("scale", 2)
    computed = net.node("Exp", [scale])
    net.add("BatchNormalization", scale, scale, scale, computed)
    return net


def negative_variance() -> Hostile:
    net = Hostile()
    below = net.values("below", np.array([-1, 1], np.float32))
    net.add("BatchNormalization", net.tensor("s", 2), net.tensor("b", 2), net.tensor("m", 2), below)
    return net


def negative_power_of_integers() -> Hostile:
    net = Hostile()
    power = net.node("Pow", [net.ints(2), net.ints(-1)])
    net.add("Reshape", power)
    return net


def huge_exponent() -> Hostile:
    net = Hostile()
    net.add("Pow", net.number(1e30))
    return net


def enlarged(shape: tuple[int, ...], *factors: float) -> Callable[[], Hostile]:
    """Return a network that enlarges a constant."""

    def build() -> Hostile:
        net = Hostile()
        image = net.values("const.image", np.ones(shape, np.float32))
        by = net.values("const.by", np.array(factors, np.float32))
        net.add("Mul", net.node("Resize", [image, "", by], mode="nearest"))
        return net

    return build


def on_constants(operator: str, *operands: object, **attributes: Any) -> Callable[[], Hostile]:  # noqa: ANN401
    """Return a network that adds a node on constants alone; a word stands for a value of TOLD."""

    def build() -> Hostile:
        net = Hostile()
        names = [
            TOLD[each](net) if isinstance(each, str) else net.values(f"const.o{i}", array(each))
            for i, each in enumerate(operands)
        ]
        net.node(operator, names, **attributes)
        net.add("Identity")
        return net

    return build


def array(value: object) -> np.ndarray[Any, Any]:
    """Return integers, bool or float32."""
    made = np.array(value)
    return made.astype(np.float32) if made.dtype.kind == "f" else made


def shape_of(net: Hostile, operator: str, *operands: tuple[int, ...]) -> str:
    """Add a node on the rows' shape and integers."""
    return net.node(operator, [net.node("Shape", ["x"]), *(net.ints(*each) for each in operands)])


def sizes_before_rows(net: Hostile) -> str:
    sizes, rows = shape_of(net, "Slice", (1,), (9,)), shape_of(net, "Slice", (0,), (1,))
    return net.node("Concat", [sizes, rows], axis=0)


def far_sizes(net: Hostile) -> str:
    return net.node("Slice", [shape_of(net, "Mul", (1, 1 << 62, 1 << 62)), net.ints(1), net.ints(3)])


def no_rows(net: Hostile) -> str:
    shape = net.node("Concat", [net.ints(0), net.node("Shape", ["x"])], axis=0)
    return net.node("ConstantOfShape", [shape])


def many(net: Hostile) -> str:
    return net.node("Range", [net.values(f"i{each}", np.array(each)) for each in (0, 1 << 19, 1)])


TOLD: dict[str, Callable[[Hostile], str]] = {
    "": lambda _: "",
    "x": lambda _: "x",
    "integer rows": lambda net: net.node("Cast", ["x"], to=TensorProto.INT64),
    "shape": lambda net: net.node("Shape", ["x"]),
    "far shape": lambda net: shape_of(net, "Mul", (1 << 31,)),
    "far sizes": far_sizes,
    "sizes before rows": sizes_before_rows,
    "no rows": no_rows,
    "not a number": lambda net: net.node("Div", [net.number(0.0), net.number(0.0)]),
    "far": lambda net: net.node("Expand", [net.number(1.0), net.ints(1 << 30, 1, 1)]),
}


def infinite_statistics() -> Hostile:
    net = Hostile()
    mean = net.values("const.mean", np.array([np.inf, 0], np.float32))
    one = net.values("v", np.ones(2, np.float32))
    net.add("BatchNormalization", net.tensor("s", 2), net.tensor("b", 2), mean, one)
    return net


def gathered_by_many() -> Hostile:
    """Take a row of half a million values half a million times."""
    net = Hostile()
    places = many(net)
    rows = net.node("Reshape", [places, net.ints(1, -1)])
    net.node("Gather", [rows, net.node("Mul", [places, net.ints(0)])], axis=0)
    return net


def single_row_of_a_gemm() -> Hostile:
    net = Hostile()
    net.add("ReduceSum", net.ints(1, 2), keepdims=0)
    net.add("Gemm", net.tensor("w", 3, 3), transA=1)
    return net


KINDS: dict[str, tuple[Callable[[], Hostile], Rule]] = {
    "a constant of terabytes": (constant_bomb, Rule.MEMORY),
    "a constant of negative size": (negative_constant, Rule.SHAPE),
    "expanded to a negative size": (layer("Expand", [-1, 2, 3]), Rule.SHAPE),
    "tiled a negative number of times": (layer("Tile", [-1, 1, 1]), Rule.SHAPE),
    "a constant that grows": (chain_of_constants, Rule.MEMORY),
    "rows that double": (doubling, Rule.MEMORY),
    "rows that broadcast": (powers_by_broadcast, Rule.MEMORY),
    "a range without an end": (endless_range, Rule.SHAPE),
    "a range of terabytes": (long_range, Rule.MEMORY),
    "expanded": (layer("Expand", [1, 1 << 40, 3]), Rule.SHAPE),
    "expanded in front": (layer("Expand", [1 << 30, 1, 2, 3]), Rule.MEMORY),
    "tiled": (layer("Tile", [1, 1 << 20, 1 << 20]), Rule.MEMORY),
    "tiled over the batch": (layer("Tile", [2, 1, 1]), Rule.INTERFACE),
    "tiled nought times": (layer("Tile", [1, 0, 1]), Rule.SHAPE),
    "padded": (layer("Pad", [0, 0, 0, 0, 1 << 40, 0]), Rule.SHAPE),
    "padded below": (layer("Pad", [0, -1, 0, 0, 0, 0]), Rule.SHAPE),
    "padded over the batch": (layer("Pad", [1, 0, 0, 0, 0, 0]), Rule.ROWS),
    "reshaped to overflow": (layer("Reshape", [1 << 62, 1 << 62, -1]), Rule.SHAPE),
    "reshaped to rank 9": (layer("Reshape", [-1, *[1] * 7, 6]), Rule.SHAPE),
    "squeezed where there is more": (layer("Squeeze", [1]), Rule.SHAPE),
    "unsqueezed twice": (layer("Unsqueeze", [1, 1]), Rule.SHAPE),
    "one value enlarged": (enlarged(()), Rule.SHAPE),
    "nothing enlarged": (enlarged((1, 0, 3), 1, 2, 2), Rule.SHAPE),
    "enlarged without an end": (enlarged((1, 2, 3), 1, 1, float("inf")), Rule.SHAPE),
    "enlarged too much": (enlarged((1, 2, 3), 1, 1, 1e9), Rule.SHAPE),
    "cut to nothing": (layer("Slice", [2], [1], [1]), Rule.SHAPE),
    "cut by a step of 0": (layer("Slice", [0], [1], [1], [0]), Rule.SHAPE),
    "taken out of range": (layer("Gather", [1 << 40], axis=1), Rule.SHAPE),
    "parted into thousands": (layer("Split", [1] * 5000, axis=1), Rule.SHAPE),
    "joined on no axis": (layer("Concat", axis=99), Rule.ATTRIBUTE),
    "summed over the batch": (layer("ReduceSum", [0]), Rule.ROWS),
    "a softmax over the batch": (layer("Softmax", axis=0), Rule.ROWS),
    "the batch as a number": (batch_as_number, Rule.ROWS),
    "one row for all": (row_of_another, Rule.ROWS),
    "a row looked up in another": (looked_up_in_rows, Rule.ROWS),
    "the batch reversed": (reversed_batch, Rule.ROWS),
    "steps added to rows": (merged_and_added, Rule.ROWS),
    "many steps": (steps("LSTM", 513), Rule.SHAPE),
    "many primitives": (steps("GRU", 512), Rule.NODES),
    "a branch": (subgraph("If", "then_branch"), Rule.OPERATOR),
    "a loop": (subgraph("Loop", "body"), Rule.OPERATOR),
    "a scan": (subgraph("Scan", "body"), Rule.OPERATOR),
    "a graph in an attribute": (nested, Rule.ATTRIBUTE),
    "a sequence": (layer("SequenceConstruct"), Rule.OPERATOR),
    "noise": (layer("RandomNormalLike"), Rule.OPERATOR),
    "a quantised product": (layer("MatMulInteger", [1]), Rule.OPERATOR),
    "a string": (strings, Rule.ATTRIBUTE),
    "a sparse constant": (sparse, Rule.ATTRIBUTE),
    "a constant that is not a number": (unknown_constant, Rule.FINITE),
    "statistics that are computed": (statistics_that_are_computed, Rule.OPERANDS),
    "a negative variance": (negative_variance, Rule.FINITE),
    "a negative power of integers": (negative_power_of_integers, Rule.OPERANDS),
    "a huge exponent": (huge_exponent, Rule.OPERANDS),
    "a size to a far power": (on_constants("Pow", "sizes before rows", 1 << 40), Rule.ROWS),
    "a size by 0": (on_constants("Div", "shape", [1, 0, 1]), Rule.SHAPE),
    "a size over 64 bits": (on_constants("Identity", "far sizes"), Rule.SHAPE),
    "a far number of batches": (on_constants("Identity", "far shape"), Rule.ROWS),
    "less than no batch": (on_constants("Mul", "shape", -1), Rule.ROWS),
    "many sizes": (on_constants("Mul", "shape", [[1]] * 1000), Rule.MEMORY),
    "sizes that are truths": (on_constants("Reshape", [1.0, 2.0], [True]), Rule.SHAPE),
    "a constant of rank 7": (on_constants("Reshape", [1.0], [1] * 7), Rule.MEMORY),
    "nothing spread far": (on_constants("Expand", [[]], [1, 1 << 62, 1]), Rule.MEMORY),
    "one value spread too far": (on_constants("Expand", 1.0, [1 << 40, 1 << 40]), Rule.MEMORY),
    "no values for a row": (on_constants("Identity", "no rows"), Rule.SHAPE),
    "no values": (on_constants("Exp", []), Rule.SHAPE),
    "taken by many": (gathered_by_many, Rule.MEMORY),
    "a range of no number": (on_constants("Range", 0.0, 1.0, "not a number"), Rule.SHAPE),
    "a range from a truth": (on_constants("Range", [False], 9, 1), Rule.SHAPE),
    "infinity as an integer": (on_constants("Cast", float("inf"), to=TensorProto.INT64), Rule.FINITE),
    "no number as an integer": (on_constants("Cast", "not a number", to=TensorProto.INT64), Rule.FINITE),
    "padded with nothing": (on_constants("Pad", [1.0], [1, 1], []), Rule.OPERANDS),
    "padded with the batch": (on_constants("Pad", [1.0], [1, 1], "shape"), Rule.OPERANDS),
    "enlarged by the batch": (on_constants("Resize", [[[1.0]]], "", "shape", mode="nearest"), Rule.SHAPE),
    "bounded by another kind": (on_constants("Clip", "x", 1), Rule.OPERANDS),
    "integers divided by 0": (on_constants("Mod", "integer rows", [0]), Rule.SHAPE),
    "a transposed vector": (single_row_of_a_gemm, Rule.SHAPE),
    "steps of one value": (on_constants("LSTM", 1.0, [1.0], [1.0], hidden_size=1), Rule.SHAPE),
    "steps of terabytes": (on_constants("GRU", "far", [1.0], [1.0], hidden_size=1), Rule.SHAPE),
    "infinite statistics": (infinite_statistics, Rule.FINITE),
    "cast to text": (layer("Cast", to=TensorProto.STRING), Rule.ATTRIBUTE),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_hostile_layer_is_refused_by_its_rule_in_little_time_and_memory(kind: str) -> None:
    build, rule = KINDS[kind]
    net = build()
    raw = net.encoded()
    refusal = refused(lambda: admit(raw, TensorSpec(net.shape, net.classes), limits=LIMITS))
    assert refusal.rule is rule
    assert len(str(refusal)) < 400


def test_forty_kinds_of_layers_and_more_are_tried() -> None:
    assert len(KINDS) > 40
