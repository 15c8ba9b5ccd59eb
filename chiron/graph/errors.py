"""The one error root of chiron.graph, and the closed list of admission's rules."""

from __future__ import annotations

from enum import StrEnum


class GraphError(Exception):
    """A graph cannot be admitted, differentiated or run."""


class Rule(StrEnum):
    """What an admitted graph keeps to. Every refusal names one."""

    BYTES = "bytes"  # at most so many bytes
    FORMAT = "format"  # an ONNX model and nothing else
    VERSION = "version"  # one standard opset and an IR version that are known here
    FEATURE = "feature"  # no functions, subgraphs, sparse or quantised tensors, training information
    INTERFACE = "interface"  # one input `x` and one output `logits`, float32, of the data set's shape
    NODES = "nodes"  # at most so many nodes, and convolution taps
    TENSORS = "tensors"  # initializers are dense float32 (int64 for a target shape), inside the file
    FINITE = "finite"  # initializers hold no NaN and no infinity
    NAMES = "names"  # every tensor has a name, no two the same
    ORDER = "order"  # a node reads only what stands before it: so there are no cycles
    OPERATOR = "operator"  # only operators on the allow-list, of the standard domain
    ATTRIBUTE = "attribute"  # only known attributes, of the right type, in range
    OPERANDS = "operands"  # as many as the operator takes, each rows or initializer as its place demands
    SHAPE = "shape"  # operands fit each other
    ROWS = "rows"  # rows of a batch stay apart
    LOSS = "loss"  # the metadata names a loss that is known, with options in range
    UNUSED = "unused"  # everything leads to the logits
    PARAMETERS = "parameters"  # at least one, at most the declared size class
    MEMORY = "memory"  # a training step's activations fit


class AdmissionError(GraphError):
    """A graph breaks a rule of admission.

    For the operator alone: the text names parts of the operator's graph (never a tensor's values), the
    rule and the remedy.
    """

    def __init__(self, rule: Rule, text: str, *, node: str = "", operator: str = "") -> None:
        shown = operator if operator.isidentifier() else ascii(operator)
        place = f"node {node!a} ({shown}): " if operator else ""
        super().__init__(f"graph not admitted, rule {rule.value!r}: {place}{text}")
        self.rule, self.text, self.node, self.operator = rule, text, node, operator

    def at(self, node: str, operator: str) -> AdmissionError:
        """Return the same refusal with its place."""
        return AdmissionError(self.rule, self.text, node=node, operator=operator)
