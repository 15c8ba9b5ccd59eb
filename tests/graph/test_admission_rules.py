"""Rules of admission at their edges: layers, shapes, costs, bytes; nothing secret in a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network, perceptron
from onnx import TensorProto, helper, shape_inference

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    Predictor,
    Rule,
    StockEngine,
    TensorSpec,
    admit,
    inference_model,
)
from chiron.graph.constants import NAMES as CONSTANTS
from chiron.graph.operators import OPERATORS, OPSETS
from chiron.graph.shapes import bind

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
LIMITS = GraphLimits(max_bytes=32 * MIB, max_parameters=1 << 16, max_activation_bytes=64 * MIB)


def admitted(net: Network, limits: GraphLimits = LIMITS) -> AdmittedGraph:
    return admit(net.encoded(), TensorSpec(net.shape, net.classes), limits=limits)


def refusal(raw: bytes, spec: TensorSpec, limits: GraphLimits = LIMITS) -> AdmissionError:
    with pytest.raises(AdmissionError) as caught:
        admit(raw, spec, limits=limits)
    return caught.value


def refused(net: Network, limits: GraphLimits = LIMITS) -> AdmissionError:
    return refusal(net.encoded(), TensorSpec(net.shape, net.classes), limits)


def changed(change: Callable[[onnx.ModelProto], object]) -> AdmissionError:
    model = perceptron().model()
    change(model)
    return refusal(model.SerializeToString(), TensorSpec((6,), 3))


def image_network() -> Network:
    """Return a network with most operators in it."""
    net = Network((2, 8, 8), 3)
    net.add(
        "Conv", net.tensor("k1", 4, 1, 3, 3), net.tensor("b1", 4), pads=[1] * 4, group=2, dilations=[1, 1]
    )
    side = net.add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("AveragePool", kernel_shape=[2, 2], pads=[1] * 4)
    net.add("LeakyRelu", alpha=0.125)
    net.add("GlobalAveragePool")
    net.add("Mul", side)
    net.add("Reshape", net.values("to", np.array([0, 16, -1], np.int64)))
    net.add("Flatten")
    net.add("Gemm", net.tensor("w", 3, 256), net.tensor("b", 3), transB=1)
    return net


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


TENSORS: list[Callable[[Any], object]] = [
    lambda t: t.float_data.extend([1.0] * 30),
    lambda t: t.int32_data.append(1),
    lambda t: t.string_data.append(b"a"),
    lambda t: setattr(t, "raw_data", t.raw_data + b"\0"),
    lambda t: setattr(t, "raw_data", t.raw_data[:-4]),
    lambda t: setattr(t, "data_type", TensorProto.FLOAT16),
    lambda t: setattr(t, "data_type", 999),
    lambda t: t.segment.SetInParent(),
    lambda t: t.dims.__setitem__(0, 0),
    lambda t: t.dims.__setitem__(0, 1 << 62),
    lambda t: t.ClearField("raw_data"),
]


@pytest.mark.parametrize("change", TENSORS)
def test_an_initializer_that_is_not_what_it_says_is_refused(change: Callable[[Any], object]) -> None:
    assert changed(lambda m: change(m.graph.initializer[0])).rule is Rule.TENSORS


def test_values_listed_as_floats_are_read_as_raw_ones_are() -> None:
    net = perceptron()
    wanted = admitted(net).initial
    for tensor in net.tensors:
        tensor.float_data.extend(np.frombuffer(tensor.raw_data, np.float32).tolist())
        tensor.ClearField("raw_data")
    assert admitted(net).initial.tobytes() == wanted.tobytes()


def test_fields_that_onnx_does_not_have_are_refused() -> None:
    raw = perceptron().encoded() + b"\xba\x3e\x03abc"  # field 999
    assert refusal(raw, TensorSpec((6,), 3)).rule is Rule.FORMAT


def test_a_name_that_is_no_text_is_refused() -> None:
    raw = perceptron().encoded().replace(b"w1", b"\xff\xfe")
    assert refusal(raw, TensorSpec((6,), 3)).rule in {Rule.FORMAT, Rule.NAMES}


def delimited(field: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([field << 3 | 2, *length, size]) + content


MANY = 4_000_000
MESSAGES = {  # empty sub-messages, two bytes each, behind a good model (protobuf joins what is given twice)
    "nodes": delimited(7, b"\x0a\x00" * MANY),
    "initializers": delimited(7, b"\x2a\x00" * MANY),
    "inputs": delimited(7, b"\x5a\x00" * MANY),
    "attributes": delimited(7, delimited(1, b"\x2a\x00" * MANY)),
    "names of inputs": delimited(7, delimited(1, b"\x0a\x00" * MANY)),
    "opsets": b"\x42\x00" * MANY,
    "dimensions": delimited(7, delimited(5, b"\x08\x01" * MANY)),
}


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_a_flood_of_fields_is_refused_before_it_is_parsed(kind: str) -> None:
    error = refusal(perceptron().encoded() + MESSAGES[kind], TensorSpec((6,), 3))
    assert error.rule is Rule.FORMAT
    assert "fields" in str(error)


VALUES: dict[str, tuple[Callable[[onnx.ModelProto], object], Rule]] = {
    "ints": (lambda m: m.graph.node[0].attribute.add(name="transA", type=7, ints=[1] * 9000), Rule.ATTRIBUTE),
    "operator": (lambda m: setattr(m.graph.node[0], "op_type", "A" * 16_000_000), Rule.OPERATOR),
    "floats": (lambda m: m.graph.initializer[0].float_data.extend([1.0] * 1_000_000), Rule.TENSORS),
    "string": (lambda m: m.graph.node[1].attribute.add(name="a" * 9_000_000, type=3, s=b"b"), Rule.ATTRIBUTE),
}


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_a_flood_of_values_is_refused_with_a_short_text(kind: str) -> None:
    change, rule = VALUES[kind]
    error = changed(change)
    assert error.rule is rule
    assert len(str(error)) < 600


BROKEN = {
    "a group": b"\x3b\x3c",
    "a graph that is a number": b"\x38\x01",
    "a length beyond the end": b"\x3a\x7f",
    "a number without an end": b"\x08" + b"\xff" * 11,
    "a number cut off": b"\x08\xff",
    "field 0": b"\x00\x00",
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_bytes_that_break_the_encoding_are_refused(kind: str) -> None:
    assert refusal(perceptron().encoded() + BROKEN[kind], TensorSpec((6,), 3)).rule is Rule.FORMAT


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_refused(raw: bytes) -> None:
    refusal(raw, TensorSpec((6,), 3))


def test_a_refusal_holds_no_value_of_a_tensor() -> None:
    net = perceptron()
    secret = 7.2519375
    net.tensors[0].raw_data = np.full(30, secret, np.float32).tobytes()
    net.tensors[1].raw_data = np.array([secret] * 4 + [np.inf], np.float32).tobytes()
    error = refused(net)
    assert error.rule is Rule.FINITE
    assert "7.25" not in str(error)
    assert "'b1'" in str(error)


def test_a_refusal_escapes_and_cuts_the_guests_names() -> None:
    net = Network((6,), 3)
    net.add("Gemm", net.tensor("w", 6, 3))
    net.nodes[0].op_type = "Bad\x1b[31m\n" + "A" * 10_000
    net.nodes[0].name = "\r\n" + "B" * 10_000
    text = str(refused(net))
    assert len(text) < 600
    assert text.isprintable()


def test_no_name_of_the_guests_is_in_what_leaves_admission() -> None:
    net = image_network()
    for node in net.nodes:
        node.doc_string = "guest"
        node.input[:] = [name if name == "x" else f"guest-{name}" for name in node.input]
        node.output[0] = f"guest-{node.output[0]}"
        node.name = f"guest-{node.name}"
    for tensor in net.tensors:
        tensor.name, tensor.doc_string = f"guest-{tensor.name}", "guest"
    graph = admitted(net)
    engine_bytes = inference_model(graph, graph.initial, batch=None)
    assert b"guest" not in engine_bytes
    assert "guest" not in repr((graph.nodes, graph.parameters, sorted(graph.constants), graph.tensors))


GOOD_IMAGE = image_network().encoded()


@settings(max_examples=250, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD_IMAGE) - 1), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, len(GOOD_IMAGE)),
    tail=st.binary(max_size=8),
)
def test_a_mutated_image_network_is_refused_or_trains(
    changes: list[tuple[int, int]], cut: int | None, tail: bytes
) -> None:
    raw = bytearray(GOOD_IMAGE)
    for place, value in changes:
        raw[place] = value
    try:
        graph = admit(bytes(raw[:cut]) + tail, TensorSpec((2, 8, 8), 3), limits=LIMITS)
    except AdmissionError:
        return
    x = np.ones((2, 2, 8, 8), np.float32)
    engine = StockEngine(graph, batch=2, threads=1)
    engine.run(x, np.array([0, 1]))
    assert Predictor(graph, graph.initial, threads=1).predict(x).shape == (2, 3)
