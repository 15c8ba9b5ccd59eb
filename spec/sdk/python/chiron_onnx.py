# ruff: noqa: INP001 - copied into a guest, which is no package
"""Writes an ONNX model as chiron_onnx.h does: just what a training graph needs of onnx.proto3.

    graph = Graph()
    graph.input("x", shape)  # the batch dimension "N" comes by itself
    graph.output("logits", (classes,))
    graph.floats("weight", (inputs, outputs), raw)
    graph.node("Gemm", "logits", "x", "weight", "bias")
    chiron_guest.graph(graph.model())

Message numbers are those of onnx.proto3 (IR version 8); the encoding is protobuf's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

IR_VERSION, OPSET = 8, 17
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7  # AttributeProto.AttributeType


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - the continuation bit
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _body(field: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _body(field, text.encode())


def _value(field: int, name: str, shape: Sequence[int]) -> bytes:
    """ValueInfoProto: 1 name, 2 type; TypeProto: 1 tensor_type (1 elem_type, 2 shape: 1 dim)."""
    sizes = [_body(1, _text(2, "N"))] + [_body(1, _number(1, size)) for size in shape]
    return _body(field, _text(1, name), _body(2, _body(1, _number(1, _FLOAT), _body(2, *sizes))))


def _tensor(name: str, dims: Sequence[int], kind: int, raw: bytes) -> bytes:
    """TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data."""
    return _body(5, *(_number(1, size) for size in dims), _number(2, kind), _text(8, name), _body(9, raw))


def _attribute(name: str, value: float | Sequence[int]) -> bytes:
    """AttributeProto: 1 name, 2 f, 3 i, 8 ints, 20 type."""
    if isinstance(value, int):
        return _body(5, _text(1, name), _number(3, value), _number(20, _ATTRIBUTE_INT))
    if isinstance(value, float):
        number = _varint(2 << 3 | 5) + struct.pack("<f", value)
        return _body(5, _text(1, name), number, _number(20, _ATTRIBUTE_FLOAT))
    numbers = [_number(8, each) for each in value]
    return _body(5, _text(1, name), *numbers, _number(20, _ATTRIBUTE_INTS))


class Graph:
    """A model with one graph, written in the order of the calls."""

    def __init__(self) -> None:
        # GraphProto: 1 node, 2 name, 5 initializer, 11 input, 12 output
        self._parts = [_text(2, "guest")]

    def input(self, name: str, shape: Sequence[int]) -> None:
        """Declare an input of float32 rows of this shape."""
        self._parts.append(_value(11, name, shape))

    def output(self, name: str, shape: Sequence[int]) -> None:
        """Declare an output of float32 rows of this shape."""
        self._parts.append(_value(12, name, shape))

    def floats(self, name: str, dims: Sequence[int], raw: bytes) -> None:
        """Add a float32 initializer from its packed values.

        Raises:
            ValueError: there are more or fewer values than `dims` says.
        """
        count = 1
        for size in dims:
            count *= size
        if len(raw) != 4 * count:
            raise ValueError(f"initializer {name}: {len(raw)} bytes for {count} values")
        self._parts.append(_tensor(name, dims, _FLOAT, raw))

    def int64s(self, name: str, values: Sequence[int]) -> None:
        """Add an int64 initializer of rank 1, such as the shape that Reshape takes."""
        raw = struct.pack(f"<{len(values)}q", *values)
        self._parts.append(_tensor(name, [len(values)], _INT64, raw))

    def node(self, operator: str, output: str, *inputs: str, **attributes: float | Sequence[int]) -> None:
        """Add a node with one output. NodeProto: 1 input, 2 output, 3 name, 4 op_type, 5 attribute."""
        named = [_text(1, name) for name in inputs]
        named += [_text(2, output), _text(3, output), _text(4, operator)]
        self._parts.append(_body(1, *named, *(_attribute(*each) for each in attributes.items())))

    def model(self) -> bytes:
        """Return the whole model. ModelProto: 1 ir_version, 2 producer_name, 7 graph, 8 opset_import."""
        head = _number(1, IR_VERSION) + _text(2, "chiron") + _body(8, _number(2, OPSET))
        return head + _body(7, *self._parts)
