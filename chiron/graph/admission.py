"""Admission: a guest's ONNX bytes are hostile; what comes out is rebuilt from checked content alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from chiron.graph.admitted import (
    INPUT,
    LOGITS,
    AdmittedGraph,
    Float32Array,
    GraphLimits,
    Node,
    Parameter,
    Shape,
    TensorSpec,
    infer_shapes,
)
from chiron.graph.errors import AdmissionError
from chiron.graph.operators import OPERATORS, OPSETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chiron.graph.operators import AttributeValue, Operator

CONSTANT_PREFIX = "const."
IR_VERSIONS = range(3, 14)
TARGET_RANKS = range(2, 5)
MAX_RANK = 4
_KINDS: Mapping[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.INT64: np.dtype("<i8"),
}
_ATTRIBUTES = onnx.AttributeProto


def admit(graph: bytes, spec: TensorSpec, *, limits: GraphLimits) -> AdmittedGraph:
    """Check a guest's graph and rebuild it.

    Args:
        graph: the bytes of an ONNX ModelProto.
        spec: the data set's row shape and targets.
        limits: what the public header allows.

    Raises:
        AdmissionError: names node, operator and rule; for the operator alone.
    """
    model = _parse(graph, limits)
    _check_model(model, limits)
    arrays = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    if len(arrays) != len(model.graph.initializer):
        raise AdmissionError("two initializers have one name: rename one")
    admitted = _rebuild(model.graph, arrays, spec)
    if admitted.parameter_count > limits.max_parameters:
        text = f"{admitted.parameter_count} parameters are over the declared {limits.max_parameters}"
        raise AdmissionError(f"{text}: declare a larger one or shrink the network")
    _check_shapes(admitted, limits)
    return admitted


def _parse(graph: bytes, limits: GraphLimits) -> onnx.ModelProto:
    if not graph:
        raise AdmissionError("the graph is empty: emit it with graph()")
    if len(graph) > limits.max_bytes:
        raise AdmissionError(
            f"{len(graph)} bytes are over the limit of {limits.max_bytes}: shrink the network"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph)
    except Exception as error:  # protobuf's DecodeError has no typed home; whatever it is, it does not parse
        raise AdmissionError("the bytes are no ONNX model: check how the guest writes them") from error
    return model


def _check_model(model: onnx.ModelProto, limits: GraphLimits) -> None:
    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    rules = {
        f"the model must import one standard opset from {OPSETS.start} to {OPSETS.stop - 1}": len(opsets) == 1
        and opsets[0][0] in {"", "ai.onnx"}
        and opsets[0][1] in OPSETS,
        f"the IR version must be {IR_VERSIONS.start} to {IR_VERSIONS.stop - 1}": model.ir_version
        in IR_VERSIONS,
        "functions are not admitted: inline them": not model.functions,
        "training information is not admitted": not model.training_info,
        "sparse initializers are not admitted: make them dense": not graph.sparse_initializer,
        "quantization annotations are not admitted": not graph.quantization_annotation,
        f"the one input must be named {INPUT!r}": [value.name for value in graph.input] == [INPUT],
        f"the one output must be named {LOGITS!r}": [value.name for value in graph.output] == [LOGITS],
        f"a graph has 1 to {limits.max_nodes} nodes": 1 <= len(graph.node) <= limits.max_nodes,
    }
    for rule, holds in rules.items():
        if not holds:
            raise AdmissionError(rule)


def _array(tensor: onnx.TensorProto) -> np.ndarray[Shape, np.dtype[np.generic]]:
    """Return an initializer's values; only dense float32 and int64 inside the file."""
    name = f"initializer {tensor.name[:80]!r}"
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise AdmissionError(f"{name} is external data: put its values into the graph")
    if tensor.data_type not in _KINDS or tensor.HasField("segment"):
        raise AdmissionError(f"{name} is neither float32 nor int64: convert it")
    dims = tuple(tensor.dims)
    if len(dims) > MAX_RANK or any(not 0 < size < 1 << 31 for size in dims):
        raise AdmissionError(f"{name} has a rank over {MAX_RANK} or a dimension that is not positive")
    kind = _KINDS[tensor.data_type]
    given = len(tensor.raw_data) // kind.itemsize if tensor.raw_data else 0
    given = given or len(tensor.float_data) or len(tensor.int64_data)
    if given != math.prod(dims):
        raise AdmissionError(f"{name} holds {given} values, its shape says {math.prod(dims)}")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise AdmissionError(f"{name} does not decode") from error
    if kind.kind == "f" and not np.isfinite(array).all():
        raise AdmissionError(f"{name} holds NaN or infinity: check how the guest draws it")
    return array


def _rebuild(
    graph: onnx.GraphProto,
    arrays: Mapping[str, np.ndarray[Shape, np.dtype[np.generic]]],
    spec: TensorSpec,
) -> AdmittedGraph:
    names, parameters, flat, constants = _name_tensors(arrays)
    names[INPUT] = INPUT
    nodes: list[Node] = []
    reshapes: dict[str, Shape] = {}
    for index, proto in enumerate(graph.node):
        node = _node(proto, names, index)
        if node.operator == "Reshape":
            reshapes[node.output] = _row_shape(proto, arrays)
            node = Node(node.operator, node.inputs[:1], node.output, {})
        nodes.append(node)
        names[proto.output[0]] = node.output
    if nodes[-1].output != LOGITS:
        raise AdmissionError(f"the last node must write {LOGITS!r}")
    used = {name for node in nodes for name in node.inputs}
    if unused := [p.name for p in parameters if p.name not in used]:
        raise AdmissionError(f"{len(unused)} initializers are used by no node: remove them")
    initial = np.concatenate(flat) if flat else np.zeros(0, dtype=np.float32)
    return AdmittedGraph(spec, tuple(nodes), tuple(parameters), initial, constants, reshapes)


def _name_tensors(
    arrays: Mapping[str, np.ndarray[Shape, np.dtype[np.generic]]],
) -> tuple[dict[str, str], list[Parameter], list[Float32Array], dict[str, Float32Array]]:
    """Give float tensors names of our own: parameters p0, p1, ... and constants c0, c1, ..."""
    names: dict[str, str] = {}
    parameters: list[Parameter] = []
    flat: list[Float32Array] = []
    constants: dict[str, Float32Array] = {}
    offset = 0
    for given, array in arrays.items():
        if array.dtype != np.float32:
            continue  # int64: only the shape of a Reshape, read where it is used
        values = np.ascontiguousarray(array, dtype=np.float32)
        if given.startswith(CONSTANT_PREFIX):
            names[given] = f"c{len(constants)}"
            constants[names[given]] = values
        else:
            parameter = Parameter(f"p{len(parameters)}", values.shape, offset)
            names[given] = parameter.name
            parameters.append(parameter)
            flat.append(values.ravel())
            offset += parameter.size
    if not parameters:
        raise AdmissionError("the graph has no trainable initializer: name constants only with 'const.'")
    return names, parameters, flat, constants


def _node(proto: onnx.NodeProto, names: Mapping[str, str], index: int) -> Node:
    place = {"node": proto.name[:80] or f"#{index}", "operator": proto.op_type[:80]}
    row = OPERATORS.get(proto.op_type)
    if row is None or proto.domain not in {"", "ai.onnx"}:
        raise AdmissionError(f"the operator is not on the allow-list {sorted(OPERATORS)}", **place)
    if len(proto.input) not in row.inputs or len(proto.output) != 1:
        raise AdmissionError(
            f"it must have {row.inputs.start} to {row.inputs.stop - 1} inputs, one output", **place
        )
    wanted = proto.input[:1] if proto.op_type == "Reshape" else proto.input
    if missing := [name for name in wanted if name not in names]:
        raise AdmissionError(f"{len(missing)} inputs are not written before it: sort the nodes", **place)
    output = proto.output[0]
    if not output or output in names:
        raise AdmissionError("its output has no name or one that is taken: rename it", **place)
    attributes = _checked_attributes(proto, row, place)
    inputs = tuple(names[name] for name in wanted)
    is_layer = proto.op_type in {"Gemm", "MatMul", "Conv"}
    if is_layer and (inputs[0][0] in "pc" or any(name[0] not in "pc" for name in inputs[1:])):
        raise AdmissionError("it takes rows first and initializers behind them", **place)
    return Node(proto.op_type, inputs, LOGITS if output == LOGITS else f"v{index}", attributes)


def _checked_attributes(
    proto: onnx.NodeProto, row: Operator, place: Mapping[str, str]
) -> dict[str, AttributeValue]:
    attributes = {a.name: _attribute(a, place) for a in proto.attribute}
    if len(attributes) != len(proto.attribute):
        raise AdmissionError("an attribute is given twice", **place)
    for name, value in attributes.items():
        check, rule = row.attributes.get(name, (lambda _: False, "left out"))
        if not check(value):
            raise AdmissionError(f"attribute {name[:40]!r} must be {rule}", **place)
    if absent := [name for name in row.required if name not in attributes]:
        raise AdmissionError(f"attributes {absent} are needed", **place)
    if proto.op_type.endswith("Pool") and attributes.get("kernel_shape") != attributes.get("strides"):
        raise AdmissionError("windows may not overlap: make strides equal to kernel_shape", **place)
    return attributes


def _attribute(attribute: onnx.AttributeProto, place: Mapping[str, str]) -> AttributeValue:
    if attribute.ref_attr_name:
        raise AdmissionError("attributes may not refer to others", **place)
    match attribute.type:
        case _ATTRIBUTES.INT:
            return int(attribute.i)
        case _ATTRIBUTES.FLOAT:
            return float(attribute.f)
        case _ATTRIBUTES.STRING:
            return attribute.s[:40].decode(errors="replace")
        case _ATTRIBUTES.INTS:
            return tuple(attribute.ints)
        case _:
            raise AdmissionError(
                "an attribute is a tensor, a graph or another kind that is not admitted", **place
            )


def _row_shape(proto: onnx.NodeProto, arrays: Mapping[str, np.ndarray[Shape, np.dtype[np.generic]]]) -> Shape:
    place = {"node": proto.name[:80], "operator": proto.op_type}
    target = arrays.get(proto.input[1])
    if target is None or target.dtype != np.int64 or target.ndim != 1 or target.size not in TARGET_RANKS:
        raise AdmissionError(
            f"the target shape must be an int64 initializer of 2 to {MAX_RANK} numbers", **place
        )
    first, *rest = (int(size) for size in target)
    if first not in {-1, 0} or any(not 0 < size < 1 << 31 for size in rest):
        raise AdmissionError(
            "the target shape must be -1 or 0 for the batch, and positive behind it", **place
        )
    return tuple(rest)


def _check_shapes(admitted: AdmittedGraph, limits: GraphLimits) -> None:
    """Infer all shapes for two batch sizes: rows must stay apart, and fit the limit."""
    try:
        shapes = {batch: infer_shapes(admitted, batch) for batch in (1, 3)}
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise AdmissionError("shapes do not fit each other: try the graph in a dry run") from error
    tensors = [INPUT, *(node.output for node in admitted.nodes)]
    for name in tensors:
        one, three = shapes[1].get(name, ()), shapes[3].get(name, ())
        if not one or one[0] != 1 or three != (3, *one[1:]) or min(one) < 1:
            raise AdmissionError("a node mixes rows of a batch, or its shape cannot be told", node=name)
    values = sum(math.prod(shapes[1][name]) for name in tensors)
    if values > limits.max_activation_values:
        text = f"{values} values a row are over the limit of {limits.max_activation_values}"
        raise AdmissionError(f"{text}: shrink the network")
