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
