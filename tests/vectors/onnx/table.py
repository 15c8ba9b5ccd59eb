"""The corpus as a table."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from corpus import load
from onnx import ModelProto, TensorProto, ValueInfoProto

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = """# The corpus of networks

Written by `export.py`, which says what each is; [the origin](../README.md) names exporters and licence.
Names are ARCHITECTURE.EXPORTER.MODE: `dynamo` is PyTorch's exporter over torch.export, `script` its older one
over TorchScript, `train` and `eval` the model's mode, `plain` without the exporter's optimisation, `static`
with a batch of a fixed size. Parameters are the values of all float initializers. Each file is
NAME`.onnx.gz`, its input `x`, its output `logits`.

| file | opset | input | logits | nodes | parameters | operators |
|---|---|---|---|---|---|---|
"""


def table(names: Iterable[str]) -> str:
    """Return the folder's README."""
    everything: Counter[str] = Counter()
    rows = []
    for name in names:
        model = ModelProto.FromString(load(name))
        used = Counter(node.op_type for node in model.graph.node)
        everything.update(used.keys())
        rows.append(row(name, model, used))
    total = ", ".join(f"{operator} {count}" for operator, count in sorted(everything.items()))
    return f"{HEAD}{''.join(rows)}\nHow many files use an operator: {total}.\n"


def row(name: str, model: ModelProto, used: Counter[str]) -> str:
    """Return one line."""
    (x,), (logits,) = model.graph.input, model.graph.output
    dtype = TensorProto.DataType.Name(x.type.tensor_type.elem_type).lower()
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE)
    count = sum(math.prod(each.dims) for each in model.graph.initializer if each.data_type in floats)
    cells = (
        f"`{name}`", opset(model), f"{dtype} {dims(x)}", dims(logits), len(model.graph.node), count,
        ", ".join(sorted(used)),
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def opset(model: ModelProto) -> str:
    """Return the opset, with domains that are not the standard one."""
    return ", ".join(f"{each.domain} {each.version}".strip() for each in model.opset_import)


def dims(value: ValueInfoProto) -> str:
    """Return a tensor's shape."""
    return " x ".join(each.dim_param or str(each.dim_value) for each in value.type.tensor_type.shape.dim)
