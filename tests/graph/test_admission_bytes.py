"""What admission reads: tensors and bytes that break their form, floods; nothing secret in a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from admission import LIMITS, admitted, changed, image_network, refusal, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network, perceptron
from onnx import TensorProto

from chiron.graph import AdmissionError, Predictor, Rule, StockEngine, TensorSpec, admit, inference_model

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

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


@pytest.mark.no_cover  # a quarter of a million fields one by one
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
