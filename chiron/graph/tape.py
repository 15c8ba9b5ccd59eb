"""Writes ONNX nodes in order: the network's own, then its backward pass with each tensor's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from chiron.graph.admitted import AttributeValue, Float32Array, Shape


def make_node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, AttributeValue]
) -> onnx.NodeProto:
    """Return a node named after its first output."""
    options: dict[str, Any] = dict(attributes)
    return helper.make_node(operator, list(inputs), list(outputs), name=outputs[0], **options)


def mask_name(output: str) -> str:
    """Return the name of the training graph's input that holds a dropout's mask."""
    return f"mask.{output}"


class Tape:
    """Nodes in order, shared constants, and gradients by the tensor they belong to."""

    def __init__(
        self, shapes: Mapping[str, Shape], *, wanted: frozenset[str], batch: int | None, training: bool
    ) -> None:
        """Begin a model.

        Args:
            shapes: of every tensor; where the batch is open, of a batch of one.
            wanted: tensors whose gradient is needed.
            batch: rows, or None for any number of them.
            training: whether layers act as in training: statistics of the batch, dropout.
        """
        self.shapes = dict(shapes)
        self.batch, self.training = batch, training
        self.drops = training
        self.phrased = False  # whether layers are written as is fastest for many rows
        self.masks: dict[str, float] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._wanted = wanted
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self._gradients: dict[str, list[str]] = {}

    def wants(self, tensor: str) -> bool:
        """Tell whether a tensor's gradient is needed."""
        return tensor in self._wanted

    def op(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        name: str = "",
        outputs: int = 1,
        **attributes: AttributeValue,
    ) -> str:
        """Append a node; return the name of its first output (further ones end in .1, .2, ...)."""
        return self.node(operator, inputs, attributes, name=name, outputs=outputs)

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        attributes: Mapping[str, AttributeValue],
        *,
        name: str = "",
        outputs: int = 1,
    ) -> str:
        """Append a node as `op` does, its attributes in a mapping."""
        name = name or f"g{len(self.nodes)}"
        names = [name, *(f"{name}.{index}" for index in range(1, outputs))]
        self.nodes.append(make_node(operator, inputs, names, attributes))
        return name

    def scalar(self, value: float) -> str:
        """Return a float32 scalar."""
        return self.floats(np.array(value, dtype=np.float32))

    def floats(self, values: Float32Array) -> str:
        """Return a float32 tensor."""
        return self._constant(values)

    def integer(self, value: int) -> str:
        """Return an int64 scalar."""
        return self._constant(np.array(value, dtype=np.int64))

    def mask(self, output: str, ratio: float) -> str:
        """Return the name of an input that holds the mask of a dropout, of the shape of its output."""
        self.masks[output] = ratio
        return mask_name(output)

    def ints(self, *values: int) -> str:
        """Return an int64 vector."""
        return self._constant(np.array(values, dtype=np.int64))

    def indices(self, values: np.ndarray[Any, np.dtype[np.int64]]) -> str:
        """Return an int64 tensor."""
        return self._constant(values)

    def _constant(self, array: np.ndarray[Shape, np.dtype[np.generic]]) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"k{len(self._constants)}"
            self.tensors.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Append a reshape to a fixed shape."""
        return self.op("Reshape", [name, self.ints(*shape)])

    def give(self, tensor: str, contribution: str) -> None:
        """Note one contribution to a tensor's gradient."""
        self._gradients.setdefault(tensor, []).append(contribution)

    def gradient(self, tensor: str) -> str | None:
        """Return the sum of a tensor's contributions, or None where there is none."""
        parts = self._gradients.get(tensor, [])
        if len(parts) > 1:
            self._gradients[tensor] = parts = [self.op("Sum", parts)]
        return parts[0] if parts else None

    def publish(self, results: Mapping[str, str]) -> None:
        """Give results (value) the names of outputs (key): written in place where one output has them."""
        renamed: dict[str, str] = {}
        produced = {name for node in self.nodes for name in node.output}
        for output, name in results.items():
            if name in produced and name not in renamed:
                renamed[name] = output
            else:
                self.nodes.append(make_node("Identity", [name], [output], {}))
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
