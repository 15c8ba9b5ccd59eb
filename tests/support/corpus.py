"""Real networks as their exporters wrote them: tests/vectors/onnx, with weights drawn anew."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "onnx"
SUFFIX = ".onnx.gz"
DRAWN = "uniform"
"""A tensor without values says in its doc_string between which two they lay: "uniform LOW HIGH"."""


def names() -> list[str]:
    """Return the networks' names, sorted: ARCHITECTURE.EXPORTER.MODE."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def load(name: str) -> bytes:
    """Return a network as the bytes of an ONNX ModelProto.

    Weights are float32, drawn evenly between the lowest and the highest that the exporter wrote; for one name
    they are always the same. Structure, names, and tensors of up to 300 values are the exporter's.

    Raises:
        FileNotFoundError: no network has this name.
    """
    model = ModelProto.FromString(gzip.decompress((FOLDER / f"{name}{SUFFIX}").read_bytes()))
    for tensor in tensors(model):
        if tensor.doc_string.startswith(DRAWN):
            _fill(tensor, seed=zlib.crc32(f"{name}/{tensor.name}".encode()))
    return bytes(model.SerializeToString())


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield each initializer, and each tensor that an attribute holds."""
    yield from model.graph.initializer
    nodes: list[NodeProto] = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    yield from (attribute.t for node in nodes for attribute in node.attribute if attribute.HasField("t"))


def _fill(tensor: TensorProto, *, seed: int) -> None:
    low, high = (float(word) for word in tensor.doc_string.split()[1:])
    values = np.random.default_rng(seed).random(tuple(tensor.dims), dtype=np.float32)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.raw_data = (values * np.float32(high - low) + np.float32(low)).astype(dtype).tobytes()
    tensor.ClearField("doc_string")
