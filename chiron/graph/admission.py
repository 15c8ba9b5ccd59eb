"""Admission: a guest's ONNX bytes are hostile; what comes out is rebuilt from checked content alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph import shapes
from chiron.graph.admitted import INPUT, LOGITS, AdmittedGraph, Node, Parameter
from chiron.graph.attributes import check_attributes
from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.model_rules import STANDARD_DOMAINS, check_model, parse
from chiron.graph.operators import OPERATORS, Operand
from chiron.graph.shapes import Tensor
from chiron.graph.tensors import Array, decode, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import NodeProto, TensorProto

    from chiron.graph.admitted import Float32Array, GraphLimits, Shape, TensorSpec
    from chiron.graph.operators import Operator

CONSTANT_PREFIX = "const."
FLOAT_BYTES = 4


def admit(graph: bytes, spec: TensorSpec, *, limits: GraphLimits) -> AdmittedGraph:
    """Check a guest's graph and rebuild it.

    Args:
        graph: the bytes of an ONNX ModelProto: input `x` [N, *input_shape], output `logits` [N, classes].
            Float32 initializers are trained, unless their names start with "const.".
        spec: the data set's row shape and targets.
        limits: what the public header allows.

    Raises:
        AdmissionError: names node, operator and rule; for the operator alone.
    """
    model = parse(graph, limits)
    builder = _Builder(spec, limits, opset=check_model(model, spec, limits=limits))
    builder.add_tensors(model.graph.initializer)
    for index, proto in enumerate(model.graph.node):
        name = proto.name if isinstance(proto.name, str) else ""
        try:
            builder.add_node(proto, index)
        except AdmissionError as error:
            raise error.at(name[:80] or f"#{index}", str(proto.op_type)[:80]) from error
    return builder.finish()  # TRAIN-5: nothing of the guest's own bytes goes on


@dataclass(slots=True)
class _Builder:
    """Collects the admitted graph; `_named` maps the guest's names to what is known of them."""

    spec: TensorSpec
    limits: GraphLimits
    opset: int
    nodes: list[Node] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    flat: list[Float32Array] = field(default_factory=list)
    constants: dict[str, Float32Array] = field(default_factory=dict)
    rows: dict[str, Shape] = field(default_factory=dict)
    _named: dict[str, Tensor] = field(default_factory=dict)
    _targets: dict[str, Array] = field(default_factory=dict)
    _unused: set[str] = field(default_factory=set)
    _values: int = 0
    _fixed_values: int = 0
    _taps: int = 0

    def __post_init__(self) -> None:
        self._declare(INPUT, Tensor(INPUT, self.spec.input_shape, is_rows=True))

    def add_tensors(self, initializers: Iterable[TensorProto]) -> None:
        """Take the initializers: parameters p0, p1, ..., constants c0, c1, ..., and target shapes."""
        count = 0
        for proto in initializers:
            if not isinstance(proto.name, str):  # protobuf hands names that are no UTF-8 on as bytes
                raise AdmissionError(Rule.NAMES, "an initializer's name is not UTF-8: rename it")
            array = decode(proto)
            if array.dtype == np.int64:
                self._declare(proto.name, Tensor("", array.shape, is_rows=False))
                self._targets[proto.name] = array
                continue
            values: Float32Array = array.astype(np.float32, copy=False)
            if proto.name.startswith(CONSTANT_PREFIX):
                own = f"c{len(self.constants)}"
                self.constants[own] = values
            else:
                own = f"p{len(self.parameters)}"
                self.parameters.append(Parameter(own, values.shape, count))
                self.flat.append(values.ravel())
                count += values.size
            self._declare(proto.name, Tensor(own, values.shape, is_rows=False))
        if not 0 < count <= self.limits.max_parameters:
            text = f"{count} parameters are not 1 to the declared {self.limits.max_parameters}"
            raise AdmissionError(
                Rule.PARAMETERS, f"{text}: declare a larger size class or shrink the network"
            )

    def add_node(self, proto: NodeProto, index: int) -> None:
        """Take one node: operator, operands, attributes, shape, output.

        Raises:
            AdmissionError: it breaks a rule; the place is added by the caller.
        """
        row = self._row(proto)
        operands = self._operands(proto, row)
        given = [tensor for tensor in operands if tensor.name]
        output = proto.output[0]
        own = LOGITS if output == LOGITS else f"v{index}"
        attributes = check_attributes(proto, row.attributes)
        node = Node(proto.op_type, tuple(tensor.name for tensor in given), own, attributes)
        if len(given) < len(operands):
            shape = shapes.reshape(given[0], [int(size) for size in self._targets[proto.input[-1]]])
        else:
            shape = row.shape(node, given)
        self._declare(output, Tensor(own, shape, is_rows=True))
        self._unused.difference_update(proto.input)
        self.nodes.append(node)
        self._count(node, row, given)

    def finish(self) -> AdmittedGraph:
        """Return the graph.

        Raises:
            AdmissionError: the logits are missing or of another shape, or something leads nowhere.
        """
        logits = self._named.get(LOGITS)
        if logits is None or logits.name != LOGITS or logits.shape != (self.spec.classes,):
            shape = "nothing" if logits is None else list(logits.shape)
            text = f"{LOGITS!r} must be written with {self.spec.classes} values a row, not {shape}"
            raise AdmissionError(Rule.INTERFACE, f"{text}: fit the last layer")
        if unused := sorted(self._unused - {LOGITS}):
            text = f"{len(unused)} tensors lead nowhere, the first is {shown(unused[0])}: remove them"
            raise AdmissionError(Rule.UNUSED, text)
        return AdmittedGraph(
            self.spec,
            tuple(self.nodes),
            tuple(self.parameters),
            np.concatenate(self.flat),
            self.constants,
            self.rows,
        )

    def _declare(self, name: str, tensor: Tensor) -> None:
        if not isinstance(name, str) or not name or name in self._named:
            text = f"tensor {shown(name)} has no name, or one that another has: rename it"
            raise AdmissionError(Rule.NAMES, text)
        self._named[name] = tensor
        self._unused.add(name)
        if tensor.is_rows:
            self.rows[tensor.name] = tensor.shape

    def _row(self, proto: NodeProto) -> Operator:
        row = OPERATORS.get(proto.op_type)
        if row is None or proto.domain not in STANDARD_DOMAINS or proto.overload:
            text = f"the operator is not on the allow-list {sorted(OPERATORS)}: use those"
            raise AdmissionError(Rule.OPERATOR, text)
        if self.opset not in row.opsets:
            text = f"it is admitted at opsets {row.opsets.start} to {row.opsets.stop - 1}: export another"
            raise AdmissionError(Rule.VERSION, text)
        most = len(row.operands)
        if not most - row.optional <= len(proto.input) <= most or len(proto.output) != 1:
            text = f"it takes {most - row.optional} to {most} inputs and has one output: remove the rest"
            raise AdmissionError(Rule.OPERANDS, text)
        return row

    def _operands(self, proto: NodeProto, row: Operator) -> list[Tensor]:
        operands = []
        for place, (name, allowed) in enumerate(zip(proto.input, row.operands, strict=False)):
            tensor = self._named.get(name)
            if tensor is None:
                text = (
                    f"input {place} ({shown(name)}) is not written before it: sort the nodes, close no cycle"
                )
                raise AdmissionError(Rule.ORDER, text)
            if not _stands(tensor, allowed):
                raise AdmissionError(Rule.OPERANDS, f"input {place} must be {allowed.value}: rewrite it so")
            operands.append(tensor)
        if not any(tensor.is_rows for tensor in operands):
            text = "it computes with initializers alone: compute that in the guest"
            raise AdmissionError(Rule.OPERANDS, text)
        return operands

    def _count(self, node: Node, row: Operator, operands: list[Tensor]) -> None:
        """Add up what the gradient graph will cost.

        Every tensor and its gradient are counted as if all were kept at once: an upper estimate. Each use of
        an initializer has a gradient of its own until all are summed.
        """
        chain = [tensor.shape for tensor in operands] + [self.rows[node.output]]
        self._values += 2 * math.prod(chain[-1]) + row.workspace(node, chain)
        self._fixed_values += sum(math.prod(tensor.shape) for tensor in operands if not tensor.is_rows)
        self._fixed_values += row.unfolded(node, chain)
        used = FLOAT_BYTES * (self._values * self.limits.max_batch + self._fixed_values)
        if used > self.limits.max_activation_bytes:
            text = f"up to here, a step of {self.limits.max_batch} rows takes {used} bytes"
            limit = self.limits.max_activation_bytes
            raise AdmissionError(Rule.MEMORY, f"{text}, over the limit of {limit}: shrink the network")
        if node.operator == "Conv":
            self._taps += math.prod(operands[1].shape[2:])
        if self._taps > self.limits.max_taps:
            text = f"convolution kernels have {self._taps} places up to here, over {self.limits.max_taps}"
            raise AdmissionError(Rule.NODES, f"{text}: use smaller kernels")


def _stands(tensor: Tensor, allowed: Operand) -> bool:
    """Tell whether a tensor may stand in such a place; an int64 one has no name of ours."""
    match allowed:
        case Operand.ROWS:
            return tensor.is_rows
        case Operand.FIXED:
            return bool(tensor.name) and not tensor.is_rows
        case Operand.EITHER:
            return bool(tensor.name)
        case Operand.TARGET:
            return not tensor.name and len(tensor.shape) == 1
