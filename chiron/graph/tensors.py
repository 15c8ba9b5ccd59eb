"""Decodes tensors: dense float32, integers or bool, inside the file, finite, as many values as they say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from chiron.graph.errors import AdmissionError, Rule
from chiron.graph.shapes import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DIMENSION = (1 << 31) - 1
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_KINDS: Mapping[int, tuple[np.dtype[Any], str]] = {
    TensorProto.FLOAT: (np.dtype("<f4"), "float_data"),
    TensorProto.INT64: (np.dtype("<i8"), "int64_data"),
    TensorProto.INT32: (np.dtype("<i4"), "int32_data"),
    TensorProto.BOOL: (np.dtype("?"), "int32_data"),
}
Array = np.ndarray[Any, np.dtype[Any]]


def shown(name: object) -> str:
    """Return a guest's name as a refusal shows it: short, escaped."""
    return ascii(str(name)[:80])


def decode(tensor: TensorProto, *, constant: bool = False) -> Array:
    """Return a tensor's values: float32, int64 (also of int32) or bool, its own memory.

    A constant may be infinite, as masks are, empty, as exporters' results are on the way, and float64.

    Raises:
        AdmissionError: it is of another kind, elsewhere, misshapen or not finite.
    """
    name = f"initializer {shown(tensor.name)}"
    if tensor.data_location != TensorProto.DEFAULT or len(tensor.external_data):
        raise AdmissionError(Rule.TENSORS, f"{name} is external data: put its values into the graph")
    kinds = {**_KINDS, TensorProto.DOUBLE: (np.dtype("<f8"), "double_data")} if constant else _KINDS
    if tensor.data_type not in kinds or tensor.HasField("segment"):
        raise AdmissionError(Rule.TENSORS, f"{name} is neither float32, int64, int32 nor bool: convert it")
    least = 0 if constant else 1
    if len(tensor.dims) > MAX_RANK or any(not least <= size <= MAX_DIMENSION for size in tensor.dims):
        text = f"{name} has a rank over {MAX_RANK}, or a dimension below {least} or over {MAX_DIMENSION}"
        raise AdmissionError(Rule.TENSORS, f"{text}: reshape it")
    kind, own = kinds[tensor.data_type]
    if any(len(getattr(tensor, field)) for field in _FIELDS if field != own):
        raise AdmissionError(Rule.TENSORS, f"{name} holds values of another type: keep its own")
    array = _values(tensor, kind, own=own, name=name)
    array = array.astype({"i": np.int64, "f": np.float32}.get(kind.kind, array.dtype), copy=False)
    strange = np.isnan if constant else lambda values: ~np.isfinite(values)
    if kind.kind == "f" and strange(array).any():
        raise AdmissionError(Rule.FINITE, f"{name} holds NaN or infinity: check how the guest draws it")
    return array.reshape(tuple(tensor.dims))


def _values(tensor: TensorProto, kind: np.dtype[Any], *, own: str, name: str) -> Array:
    listed, raw = getattr(tensor, own), tensor.raw_data
    wanted = math.prod(tensor.dims)
    if listed and raw:
        raise AdmissionError(Rule.TENSORS, f"{name} holds its values twice: leave raw_data or {own} out")
    given = len(listed) if listed else len(raw) / kind.itemsize
    if given != wanted:
        text = f"{name} holds {given:g} values, its shape says {wanted}: write exactly as many"
        raise AdmissionError(Rule.TENSORS, text)
    return np.array(listed, dtype=kind) if listed else np.frombuffer(raw, dtype=kind).copy()
