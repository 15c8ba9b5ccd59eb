"""Rules of admission at their edges: layers, shapes, costs, opsets, inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from admission import MIB, admitted, changed, image_network, refused
from networks import Network, perceptron
from onnx import TensorProto, helper, shape_inference

from chiron.graph import GraphLimits, Rule, inference_model
from chiron.graph.constants import NAMES as CONSTANTS
from chiron.graph.operators import OPERATORS, OPSETS
from chiron.graph.shapes import bind

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = {"kernel_shape": [2, 2]}
LAYERS: list[tuple[str, dict[str, Any], Rule]] = [
    ("MaxPool", {}, Rule.ATTRIBUTE),
    ("MaxPool", {"kernel_shape": [2]}, Rule.ATTRIBUTE),
    ("MaxPool", {"kernel_shape": [0, 2]}, Rule.ATTRIBUTE),
    ("MaxPool", {"kernel_shape": [65, 1]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "strides": [0, 1]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "pads": [0, 0, 0, -1]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "pads": [0, 0]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "pads": [2, 0, 0, 0]}, Rule.SHAPE),
    ("MaxPool", {"kernel_shape": [2, 2, 2]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "ceil_mode": 2}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "dilations": [0, 1]}, Rule.ATTRIBUTE),
    ("AveragePool", {**WINDOW, "ceil_mode": 1}, Rule.ATTRIBUTE),
    ("AveragePool", {**WINDOW, "dilations": [2, 1]}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "storage_order": 1}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "auto_pad": "SAME"}, Rule.ATTRIBUTE),
    ("MaxPool", {**WINDOW, "auto_pad": "SAME_UPPER", "pads": [1, 1, 1, 1]}, Rule.ATTRIBUTE),
    ("AveragePool", {**WINDOW, "count_include_pad": 2}, Rule.ATTRIBUTE),
    ("AveragePool", {"kernel_shape": [9, 9]}, Rule.SHAPE),
    ("LeakyRelu", {"alpha": 1.5}, Rule.ATTRIBUTE),
    ("LeakyRelu", {"alpha": float("nan")}, Rule.ATTRIBUTE),
    ("LeakyRelu", {"alpha": 1}, Rule.ATTRIBUTE),
    ("Flatten", {"axis": 5}, Rule.ATTRIBUTE),
    ("Flatten", {"axis": -5}, Rule.ATTRIBUTE),
    ("Softmax", {"axis": 0}, Rule.ROWS),
    ("Softmax", {"axis": 4}, Rule.ATTRIBUTE),
    ("Transpose", {"perm": [0, 1, 1, 3]}, Rule.ATTRIBUTE),
    ("ReduceMax", {"axes": [0, 1]}, Rule.ROWS),
    ("ReduceMean", {"axes": [1, 1]}, Rule.SHAPE),
    ("Einsum", {}, Rule.OPERATOR),
    ("If", {}, Rule.OPERATOR),
    ("MatMulNBits", {"domain": "com.microsoft"}, Rule.OPERATOR),
    ("Relu", {"domain": "evil"}, Rule.OPERATOR),
]


@pytest.mark.parametrize(("operator", "attributes", "rule"), LAYERS)
def test_a_layer_outside_its_rules_is_refused_by_name(
    operator: str, attributes: dict[str, Any], rule: Rule
) -> None:
    net = Network((1, 6, 6), 4)
    net.add("Conv", net.tensor("k", 1, 1, 1, 1))
    net.add(operator, **attributes)
    net.add("Relu")
    error = refused(net)
    assert (error.rule, error.node, error.operator) == (rule, "t1", operator)
    assert f"rule '{rule}': node 't1' ({operator}): " in str(error)


CONVOLUTIONS: list[tuple[tuple[int, ...], dict[str, Any], Rule]] = [
    ((4, 2, 3, 3), {"group": 2}, Rule.SHAPE),
    ((3, 1, 3, 3), {"group": 2}, Rule.SHAPE),
    ((4, 2, 3, 3), {"group": 0}, Rule.ATTRIBUTE),
    ((4, 2, 3, 3), {"kernel_shape": [3, 2]}, Rule.SHAPE),
    ((4, 2, 3, 3), {"pads": [3, 0, 0, 0]}, Rule.SHAPE),
    ((4, 2, 7, 7), {}, Rule.SHAPE),
    ((4, 2, 3), {}, Rule.SHAPE),
    ((4, 2, 3, 3), {"dilations": [0, 1]}, Rule.ATTRIBUTE),
]


@pytest.mark.parametrize(("weights", "attributes", "rule"), CONVOLUTIONS)
def test_a_convolution_that_does_not_fit_is_refused(
    weights: tuple[int, ...], attributes: dict[str, Any], rule: Rule
) -> None:
    net = Network((2, 6, 6), 4)
    net.add("Conv", net.tensor("k", *weights), **attributes)
    assert refused(net).rule is rule


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ([2, 3], Rule.ROWS),
        ([6, -1], Rule.ROWS),
        ([-1], Rule.SHAPE),
        ([-1, -1], Rule.SHAPE),
        ([0, -1, -1], Rule.SHAPE),
        ([-1, 0, 1], Rule.SHAPE),
        ([2, 3, -1, 1], Rule.ROWS),
        ([-1, 1, 1, 1, 1, 1, 6], Rule.SHAPE),
        ([-1, 1 << 40], Rule.SHAPE),
        ([-1, 4], Rule.SHAPE),
        ([0, 4, -1], Rule.SHAPE),
        ([-1, 3], Rule.SHAPE),
    ],
)
def test_a_reshape_that_could_mix_rows_is_refused(target: list[int], rule: Rule) -> None:
    net = Network((6,), 3)
    net.add("Reshape", net.values("to", np.array(target, np.int64)))
    net.add("Gemm", net.tensor("w", 6, 3))
    assert refused(net).rule is rule


@pytest.mark.parametrize("place", ["x", "w", "t0"])
def test_a_reshape_to_a_computed_or_float_shape_is_refused(place: str) -> None:
    net = Network((6,), 3)
    net.add("Gemm", net.tensor("w", 6, 6))
    net.add("Reshape", place)
    net.add("Gemm", "w")
    assert refused(net).rule is Rule.OPERANDS


def test_rows_of_two_ranks_do_not_broadcast_even_where_a_batch_would_fit() -> None:
    net = Network((12,), 3)
    net.add("Gemm", net.tensor("w", 12, 4))
    flat = net.head
    net.add("Reshape", net.values("to", np.array([0, 3, 4], np.int64)), first="x")
    net.add("Add", flat)  # (3, 4) + (3, 3, 4) fits for a batch of 3 alone
    net.add("Flatten")
    net.add("Gemm", net.tensor("v", 12, 3))
    assert refused(net).rule is Rule.ROWS


@pytest.mark.parametrize(
    ("shape", "rule"), [((3, 6), Rule.ROWS), ((1, 1, 6), Rule.INTERFACE), ((2, 1, 6), Rule.INTERFACE)]
)
def test_an_initializer_with_a_batch_of_its_own_is_refused(shape: tuple[int, ...], rule: Rule) -> None:
    net = Network((6,), 6)
    net.add("Add", net.tensor("w", *shape))
    assert refused(net).rule is rule


def test_arithmetic_of_initializers_alone_is_trained_through() -> None:
    net = Network((6,), 6)
    net.add("Mul", net.tensor("a", 1, 6), first=net.tensor("b", 6))
    net.add("Add", "x")
    assert admitted(net).parameter_count == 12


def test_a_node_that_leads_nowhere_is_refused() -> None:
    net = Network((6,), 3)
    net.add("Tanh")
    net.add("Gemm", net.tensor("w", 6, 3), first="x")
    assert refused(net).rule is Rule.UNUSED


@pytest.mark.parametrize(("weights", "rule"), [((2, 3), Rule.SHAPE), ((4,), Rule.SHAPE)])
def test_a_matmul_that_does_not_fit_is_refused(weights: tuple[int, ...], rule: Rule) -> None:
    net = Network((2, 3), 3)
    net.add("MatMul", net.tensor("w", *weights))
    assert refused(net).rule is rule


def test_a_product_of_rows_with_rows_of_the_batch_is_refused() -> None:
    net = Network((3,), 3)
    net.add("Transpose", perm=[1, 0])
    net.add("MatMul", net.head, first="x")  # every row with every other
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 3, 3))
    assert refused(net).rule is Rule.ROWS


def test_a_product_summed_over_the_batch_is_refused() -> None:
    net = Network((3,), 3)
    net.add("Transpose", perm=[1, 0])
    net.add("MatMul", "x")
    net.add("MatMul", net.head, first="x")
    net.add("Gemm", net.tensor("w", 3, 3))
    assert refused(net).rule in {Rule.ROWS, Rule.SHAPE}


def test_logits_that_the_guest_takes_from_a_weight_are_refused() -> None:
    net = Network((6,), 3)
    net.add("Gemm", net.tensor("logits", 6, 3))
    assert refused(net).rule is Rule.NAMES


@pytest.mark.parametrize("name", ["x", "logits", "t0", "w"])
def test_a_target_shape_shares_its_name_with_nothing(name: str) -> None:
    net = Network((6,), 3)
    net.values(name, np.array([0, 6], np.int64))
    net.add("Gemm", net.tensor("w", 6, 6))
    net.add("Reshape", name)
    net.add("Gemm", net.tensor("v", 6, 3))
    assert refused(net).rule is Rule.NAMES


def test_memory_is_bounded_before_anything_is_allocated() -> None:
    net = Network((1, 1), 1 << 16)
    net.tensor("w", 1)
    for _ in range(3):
        net.add("Add", "w")
    net.add("Conv", "w")
    tall, wide = net.tensor("tall", 1, 20000, 1), net.tensor("wide", 1, 1, 20000)
    blown = Network((1, 1), 1, tensors=net.tensors)
    blown.add("Add", tall)
    blown.add("Add", wide)
    error = refused(blown)
    assert error.rule is Rule.MEMORY
    assert error.node == "t1"


def test_the_memory_of_a_step_grows_with_the_batch_that_the_header_allows() -> None:
    net = image_network()
    assert admitted(net, GraphLimits(MIB, 1 << 16, max_activation_bytes=MIB, max_batch=4))
    limits = GraphLimits(MIB, 1 << 16, max_activation_bytes=MIB, max_batch=256)
    assert refused(net, limits).rule is Rule.MEMORY


def test_the_places_of_all_convolution_kernels_are_bounded() -> None:
    net = Network((1, 4, 4), 16)
    for index in range(2):
        net.add("Conv", net.tensor(f"k{index}", 1, 1, 40, 40), pads=[19, 19, 20, 20])
    assert refused(net).rule is Rule.NODES


@pytest.mark.parametrize(("spare", "admits"), [(0, True), (-1, False)])
def test_as_many_parameters_as_declared_are_admitted_and_not_one_more(spare: int, *, admits: bool) -> None:
    net = perceptron()
    count = admitted(net).parameter_count
    limits = GraphLimits(MIB, count + spare)
    if admits:
        assert admitted(net, limits).parameter_count == count
        return
    assert refused(net, limits).rule is Rule.PARAMETERS


@pytest.mark.parametrize(("spare", "admits"), [(0, True), (-1, False)])
def test_as_many_bytes_as_allowed_are_admitted_and_not_one_more(spare: int, *, admits: bool) -> None:
    net = perceptron()
    limits = GraphLimits(len(net.encoded()) + spare, 1000)
    if admits:
        assert admitted(net, limits).nodes
        return
    assert refused(net, limits).rule is Rule.BYTES


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_opsets_beside_the_range_are_refused(opset: int) -> None:
    assert changed(lambda m: setattr(m.opset_import[0], "version", opset)).rule is Rule.VERSION


CELL = {"activations", "activation_alpha", "activation_beta", "clip"}
REFUSED = {"LSTM": CELL, "GRU": CELL}  # others than the defaults have no rule here


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - CONSTANTS))
def test_an_operators_attributes_are_known_at_every_admitted_opset(operator: str) -> None:
    row = OPERATORS[operator]
    for opset in row.opsets:
        schema = onnx.defs.get_schema(operator, opset)
        assert set(schema.attributes) - REFUSED.get(operator, set()) <= set(row.attributes)
        for name in set(schema.attributes) - REFUSED.get(operator, set()):
            attribute = schema.attributes[name]
            rule = row.attributes[name]
            if rule.default is not None and attribute.default_value.name:
                default = helper.get_attribute_value(attribute.default_value)
                default = default.decode() if isinstance(default, bytes) else default
                assert rule.default == pytest.approx(default)


def test_what_is_written_has_the_shapes_that_onnx_itself_infers() -> None:
    graph = admitted(image_network())
    model = onnx.load_from_string(inference_model(graph, graph.initial, batch=5))
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    assert {node.output: shapes[node.output] for node in graph.nodes} == {
        node.output: bind(graph.tensors[node.output], 5) for node in graph.nodes
    }


PORTS: list[Callable[[onnx.ModelProto], object]] = [
    lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
    lambda m: m.graph.input[0].type.ClearField("tensor_type"),
    lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 7),
    lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "D"),
    lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
    lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 4),
    lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT64),
    lambda m: m.graph.input.extend([helper.make_tensor_value_info("w1", TensorProto.FLOAT, [6, 5])]),
]


@pytest.mark.parametrize("change", PORTS)
def test_an_input_or_output_of_another_type_or_shape_is_refused(
    change: Callable[[onnx.ModelProto], object],
) -> None:
    assert changed(change).rule is Rule.INTERFACE
