"""Admission: a guest's ONNX bytes are hostile; what comes out is rebuilt from checked content alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.admitted import INPUT, LOGITS, AdmittedGraph
from chiron.graph.attributes import check_attributes
from chiron.graph.constants import NAMES as CONSTANTS
from chiron.graph.constants import constant
from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.known import MAX_ALL_KNOWN_VALUES
from chiron.graph.model_rules import STANDARD_DOMAINS, Interface, check_model, parse
from chiron.graph.net import Call, Net, Source, Tensor, known
from chiron.graph.operators import OPERATORS, Operand
from chiron.graph.primitives import Kind
from chiron.graph.shapes import BATCH, need
from chiron.graph.tensors import decode, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import NodeProto, TensorProto

    from chiron.graph.admitted import Float32Array, GraphLimits, Node, TensorSpec
    from chiron.graph.operators import Operator

CONSTANT_PREFIX = "const."


def admit(graph: bytes, spec: TensorSpec, *, limits: GraphLimits) -> AdmittedGraph:
    """Check a guest's graph and rebuild it.

    Args:
        graph: the bytes of an ONNX ModelProto: input `x` [N, *input_shape], output `logits` [N, classes].
            Float32 initializers are trained, unless they are scalars, are named "const." and more, or hold
            the statistics of a BatchNormalization.
        spec: the data set's row shape and targets.
        limits: what the public header allows.

    Raises:
        AdmissionError: names node, operator and rule; for the operator alone.
    """
    model = parse(graph, limits)
    builder = _Builder(spec, limits, check_model(model, spec, limits=limits))
    builder.add_tensors(model.graph.initializer)
    for index, proto in enumerate(model.graph.node):
        name = proto.name if isinstance(proto.name, str) else ""
        try:
            builder.add_node(proto)
        except AdmissionError as error:
            raise error.at(name[:80] or f"#{index}", str(proto.op_type)[:80]) from error
    return builder.finish()  # TRAIN-5: nothing of the guest's own bytes goes on


class _Builder:
    """Reads the guest's graph into a net; `_named` maps the guest's names to what is known of them."""

    def __init__(self, spec: TensorSpec, limits: GraphLimits, interface: Interface) -> None:
        self._spec, self._limits, self._interface = spec, limits, interface
        self._net = Net(limits)
        self._named: dict[str, Tensor] = {}
        self._unused: dict[str, None] = {}
        self._known_values = 0
        rows = self._net.declare(INPUT, (BATCH, *spec.input_shape))
        if interface.takes_integers:
            rows = self._net.emit("ToInt", rows)
        self._declare(INPUT, rows)

    def add_tensors(self, initializers: Iterable[TensorProto]) -> None:
        """Take the initializers: parameters p0, p1, ..., and constants."""
        for proto in initializers:
            if not isinstance(proto.name, str):  # protobuf hands names that are no UTF-8 on as bytes
                raise AdmissionError(Rule.NAMES, "an initializer's name is not UTF-8: rename it")
            is_constant = proto.name.startswith(CONSTANT_PREFIX) or not len(proto.dims)
            array = decode(proto, constant=is_constant)
            if array.dtype != np.float32 or is_constant:
                self._declare(proto.name, known(array))
                continue
            values: Float32Array = array.astype(np.float32, copy=False)
            self._declare(proto.name, self._net.parameter(values))
            self._bound_parameters()
        need(
            holds=self._net.parameter_count > 0,
            text="it has no parameters: initializers are trained, Constant nodes and scalars are not",
            rule=Rule.PARAMETERS,
        )

    def _bound_parameters(self) -> None:
        count, limit = self._net.parameter_count, self._limits.max_parameters
        text = f"{count} parameters are not 1 to the declared {limit}"
        text = f"{text}: declare a larger size class or shrink the network"
        need(holds=count <= limit, text=text, rule=Rule.PARAMETERS)

    def add_node(self, proto: NodeProto) -> None:
        """Take one node: operator, operands, attributes, outputs.

        Raises:
            AdmissionError: it breaks a rule; the place is added by the caller.
        """
        row = self._row(proto)
        operands = self._operands(proto, row)
        if proto.op_type in CONSTANTS:
            results: tuple[Tensor, ...] = (constant(proto, operands),)
        else:
            attributes = check_attributes(proto, row.attributes)
            told = self._interface
            outputs = len(proto.output)
            call = Call(
                proto.op_type, operands, attributes, outputs, told.opset, told.batch, told.trains_statistics
            )
            made = row.make(self._net, call)
            results = made if isinstance(made, tuple) else (made,)
        self._bound_parameters()
        for name in proto.input:
            self._unused.pop(name, None)
        names = list(proto.output)  # one that is not made here can be read by no node
        for name, tensor in zip(names, results, strict=False):
            if name or len(names) == 1:
                self._declare(name, tensor, needed=len(names) == 1)

    def finish(self) -> AdmittedGraph:
        """Return the graph.

        Raises:
            AdmissionError: the logits are missing or of another shape, or something leads nowhere.
        """
        logits, classes = self._named.get(LOGITS), self._spec.classes
        wanted = (BATCH, classes)
        if logits is None or logits.source is not Source.NODE or logits.shape != wanted:
            shape = "nothing" if logits is None else list(logits.shape)
            text = f"{LOGITS!r} must be written with {classes} values a row, not {shape}: fit the last layer"
            raise AdmissionError(Rule.INTERFACE, text)
        self._unused.pop(LOGITS, None)
        if self._unused:
            first = min(self._unused)
            text = f"{len(self._unused)} tensors lead nowhere, the first is {shown(first)}: remove them"
            raise AdmissionError(Rule.UNUSED, text)
        return self._rebuilt(logits)

    def _rebuilt(self, logits: Tensor) -> AdmittedGraph:
        """Return what the logits need, the tensor that holds them under their name."""
        net, needed = self._net, {logits.name}
        kept: list[Node] = []
        for node in reversed(net.nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        if not any(parameter.name in needed for parameter in net.parameters if parameter.trained):
            raise AdmissionError(Rule.UNUSED, "no trained tensor leads to the logits: train something")
        renamed = {logits.name: LOGITS}
        nodes = [
            replace(
                node,
                inputs=tuple(renamed.get(name, name) for name in node.inputs),
                output=renamed.get(node.output, node.output),
            )
            for node in reversed(kept)
        ]
        outputs = {node.output for node in nodes} | {INPUT}
        tensors = {renamed.get(name, name): shape for name, shape in net.tensors.items()}
        return AdmittedGraph(
            self._spec,
            tuple(nodes),
            tuple(net.parameters),
            np.concatenate(net.flat),
            {name: array for name, array in net.constants.items() if name in needed},
            {name: shape for name, shape in tensors.items() if name in outputs},
            self._interface.loss,
        )

    def _declare(self, name: str, tensor: Tensor, *, needed: bool = True) -> None:
        if not isinstance(name, str) or not name or name in self._named:
            text = f"tensor {shown(name)} has no name, or one that another has: rename it"
            raise AdmissionError(Rule.NAMES, text)
        self._named[name] = tensor
        if tensor.value is not None:
            self._known_values += tensor.value.size
            text = f"constants have over {MAX_ALL_KNOWN_VALUES} values together: make them smaller"
            need(holds=self._known_values <= MAX_ALL_KNOWN_VALUES, text=text, rule=Rule.MEMORY)
        if needed and tensor.value is None:
            self._unused[name] = None

    def _row(self, proto: NodeProto) -> Operator:
        row = OPERATORS.get(proto.op_type)
        if row is None or proto.domain not in STANDARD_DOMAINS or proto.overload:
            text = (
                f"the operator is none of the {len(OPERATORS)} on the allow-list, docs/graphs.md: use those"
            )
            raise AdmissionError(Rule.OPERATOR, text)
        if self._interface.opset not in row.opsets:
            text = f"it is admitted at opsets {row.opsets.start} to {row.opsets.stop - 1}: export another"
            raise AdmissionError(Rule.VERSION, text)
        least, most = len(row.operands) - row.optional, len(row.operands)
        count = len(proto.input)
        fits = count >= least if row.many else least <= count <= most
        if not fits or not 1 <= len(proto.output) <= row.outputs:
            bounds = f"{least} to {'many' if row.many else most}"
            text = f"it takes {bounds} inputs and has 1 to {row.outputs} outputs"
            raise AdmissionError(Rule.OPERANDS, f"{text}: remove the rest")
        return row

    def _operands(self, proto: NodeProto, row: Operator) -> tuple[Tensor | None, ...]:
        operands: list[Tensor | None] = []
        least = len(row.operands) - row.optional
        for place, name in enumerate(proto.input):
            allowed = row.operands[min(place, len(row.operands) - 1)]
            if not name and place >= least:
                operands.append(None)
                continue
            tensor = self._named.get(name)
            if tensor is None:
                text = (
                    f"input {place} ({shown(name)}) is not written before it: sort the nodes, close no cycle"
                )
                raise AdmissionError(Rule.ORDER, text)
            if not _stands(tensor, allowed):
                raise AdmissionError(Rule.OPERANDS, f"input {place} must be {allowed.value}: rewrite it so")
            operands.append(tensor)
        return tuple(operands)


def _stands(tensor: Tensor, allowed: Operand) -> bool:
    """Tell whether a tensor may stand in such a place."""
    kinds = {
        Operand.FLOAT: Kind.FLOAT,
        Operand.FIXED: Kind.FLOAT,
        Operand.INT: Kind.INT,
        Operand.BOOL: Kind.BOOL,
    }
    if allowed is Operand.NUMBER:
        return tensor.kind is not Kind.BOOL
    if allowed is Operand.KNOWN:
        return tensor.value is not None
    fits = tensor.kind is kinds.get(allowed, tensor.kind)
    return fits and not (allowed is Operand.FIXED and tensor.has_batch)
