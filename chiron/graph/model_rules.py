"""Rules of admission on the model as a whole: before any tensor or node is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from chiron.graph.admitted import INPUT, LOGITS
from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.loss import Loss, parse_loss, trains_statistics
from chiron.graph.operators import OPSETS
from chiron.graph.wire import scan

if TYPE_CHECKING:
    from chiron.graph.admitted import GraphLimits, Shape, TensorSpec

IR_VERSIONS = range(3, 14)
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
FIELDS_PER_NODE = 128  # its attributes, its share of the initializers, what exporters note beside it
MAX_PROPERTIES = 256
MAX_FOREIGN_OPSETS = 16  # exporters list domains that no node uses


def parse(graph: bytes, limits: GraphLimits) -> onnx.ModelProto:
    """Return the bytes as an ONNX model that nothing was checked of but its size and format.

    Raises:
        AdmissionError: too large, no ONNX model, with too many fields or unknown ones.
    """
    if not graph:
        raise AdmissionError(Rule.FORMAT, "the graph is empty: emit it with graph()")
    if len(graph) > limits.max_bytes:
        text = f"{len(graph)} bytes are over the limit of {limits.max_bytes}: shrink the network"
        raise AdmissionError(Rule.BYTES, text)
    scan(graph, max_fields=FIELDS_PER_NODE * limits.max_nodes)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph)
    except DecodeError as error:
        text = "the bytes are no ONNX model: check how the guest writes them"
        raise AdmissionError(Rule.FORMAT, text) from error
    return model


@dataclass(frozen=True, slots=True)
class Interface:
    """What a model says of itself: its opset, the batch it was exported for (0: any), and its rows' kind."""

    opset: int
    batch: int
    takes_integers: bool
    loss: Loss
    trains_statistics: bool


def check_model(model: onnx.ModelProto, spec: TensorSpec, *, limits: GraphLimits) -> Interface:
    """Check versions, features, interface and counts; return what the model says of itself.

    Raises:
        AdmissionError: names the rule that is broken.
    """
    graph = model.graph
    opset = _opset(model)
    absent = (
        (model.functions, "functions are not admitted: inline them"),
        (model.training_info, "training information is not admitted: remove it"),
        (graph.sparse_initializer, "sparse initializers are not admitted: make them dense"),
        (graph.quantization_annotation, "quantization annotations are not admitted: remove them"),
    )
    for given, text in absent:
        if len(given):
            raise AdmissionError(Rule.FEATURE, text)
    if not 1 <= len(graph.node) <= limits.max_nodes:
        text = f"{len(graph.node)} nodes are not 1 to {limits.max_nodes}: shrink the network"
        raise AdmissionError(Rule.NODES, text)
    if len(graph.initializer) > 4 * limits.max_nodes:
        text = f"{len(graph.initializer)} initializers are over {4 * limits.max_nodes}: remove unused ones"
        raise AdmissionError(Rule.TENSORS, text)
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    rows = _check_port(graph.input, INPUT, shape=spec.input_shape, kinds=(floats, integers))
    _check_port(graph.output, LOGITS, shape=(spec.classes,), kinds=(floats,))
    batch = max(int(rows.shape.dim[0].dim_value), 0)
    properties = _properties(model)
    loss = parse_loss(properties)
    if loss.class_weights and len(loss.class_weights) != spec.classes:
        text = f"{len(loss.class_weights)} class weights do not fit {spec.classes} classes: give one each"
        raise AdmissionError(Rule.LOSS, text)
    return Interface(opset, batch, rows.elem_type == integers, loss, trains_statistics(properties))


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's metadata; exporters write there, too."""
    named = [(str(each.key), str(each.value)) for each in model.metadata_props[:MAX_PROPERTIES]]
    if len(model.metadata_props) > MAX_PROPERTIES or len(dict(named)) != len(named):
        text = f"there are over {MAX_PROPERTIES} metadata properties, or one twice: remove some"
        raise AdmissionError(Rule.LOSS, text)
    return dict(named)


def _opset(model: onnx.ModelProto) -> int:
    if model.ir_version not in IR_VERSIONS:
        text = f"the IR version must be {IR_VERSIONS.start} to {IR_VERSIONS.stop - 1}: export another"
        raise AdmissionError(Rule.VERSION, text)
    imports = model.opset_import
    few = len(imports) <= MAX_FOREIGN_OPSETS
    versions = [o.version for o in imports if o.domain in STANDARD_DOMAINS] if few else []
    if len(versions) != 1 or versions[0] not in OPSETS:
        text = f"the model must import one standard opset from {OPSETS.start} to {OPSETS.stop - 1}"
        raise AdmissionError(Rule.VERSION, f"{text}: export another")
    return int(versions[0])


def _check_port(values: Any, name: str, *, shape: Shape, kinds: tuple[int, ...]) -> Any:  # noqa: ANN401  protobuf's
    if len(values) != 1 or values[0].name != name:
        text = f"there must be one tensor named {name!r}: rename it, and leave initializers out"
        raise AdmissionError(Rule.INTERFACE, f"of {len(values)} graph {_side(name)}, {text}")
    kind = values[0].type
    tensor = kind.tensor_type
    dims = tensor.shape.dim
    fits = kind.WhichOneof("value") == "tensor_type" and tensor.elem_type in kinds
    given = tuple(dim.dim_value for dim in dims[1:]) if len(dims) == len(shape) + 1 else None
    if not fits or given != shape:
        wanted, kind_words = ["N", *shape], "float32 or int64" if len(kinds) > 1 else "float32"
        raise AdmissionError(Rule.INTERFACE, f"{name!r} must be declared {kind_words} of shape {wanted}")
    return tensor


def _side(name: str) -> str:
    return "inputs" if name == INPUT else "outputs"
