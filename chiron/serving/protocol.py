"""Open Inference Protocol v2, the part a black box needs: parsing requests and writing answers (pure).

Source: Open Inference Protocol, REST API, version 2 (kserve/open-inference-protocol).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiron.serving.errors import Fault, FaultError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chiron.guest_api.dataset import Float32Array, Schema

MAX_ROWS = 16
SCORE_TOP = 255  # a score has 8 bits, the class the other 8 of an answer
PLATFORM_NAME = "chiron"


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's released answer: the most likely class and its score, rounded to 1/255."""

    target: int
    score: float


def pack_answer(probabilities: Float32Array) -> int:
    """Return top class and rounded score of one row's probabilities, shape (classes,), as 16 bits.

    A model that computes NaN answers class 0 with score 0: that it did so must not show in another way.
    """
    if not np.isfinite(probabilities).all():
        return 0
    target = int(np.argmax(probabilities))
    score = min(SCORE_TOP, max(0, round(float(probabilities[target]) * SCORE_TOP)))
    return target << 8 | score


def unpack_answer(value: int) -> Answer:
    """Return the answer that 16 released bits stand for."""
    return Answer(value >> 8, round((value & 0xFF) / SCORE_TOP, 3))


def parse_request(body: bytes, schema: Schema) -> Float32Array:
    """Return the rows to answer, float32 (n, *shape).

    Raises:
        FaultError: with a fault of the closed list.
    """
    try:
        tensor = json.loads(body)["inputs"][0]
        shape, data = tensor["shape"], tensor["data"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise FaultError(Fault.BAD_REQUEST) from error
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or shape[1:] != [*schema.shape]
    ):
        raise FaultError(Fault.WRONG_SHAPE)
    if not 1 <= shape[0] <= MAX_ROWS:
        raise FaultError(Fault.TOO_MANY_ROWS)
    return _rows(data, tuple(shape))


def _rows(data: object, shape: tuple[int, ...]) -> Float32Array:
    """Return flat or nested JSON numbers as float32 of this shape."""
    try:
        with np.errstate(over="ignore"):
            rows = np.asarray(data, dtype=np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise FaultError(Fault.NOT_FINITE) from error
    if rows.size != np.prod(shape, dtype=np.int64):
        raise FaultError(Fault.WRONG_SHAPE)
    if not np.isfinite(rows).all():
        raise FaultError(Fault.NOT_FINITE)
    return rows.reshape(shape)


def inference_body(model: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the answer's JSON value."""
    count = len(answers)
    return {
        "model_name": model,
        "outputs": [
            {"name": "class", "datatype": "INT32", "shape": [count], "data": [a.target for a in answers]},
            {"name": "score", "datatype": "FP32", "shape": [count], "data": [a.score for a in answers]},
        ],
    }


def metadata_body(model: str, schema: Schema, *, simulated: bool) -> dict[str, Any]:
    """Return the model's metadata: the shapes of input and answer, and nothing else of it."""
    return {
        "name": model,
        "platform": PLATFORM_NAME,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *schema.shape]}],  # SERVE-5
        "outputs": [
            {"name": "class", "datatype": "INT32", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
        ],
        "simulated": simulated,
    }


def padded(body: Mapping[str, Any], size: int) -> bytes:
    """Return a JSON body of exactly `size` bytes; the padding is white space behind the value (RFC 8259, 2).

    Raises:
        ValueError: the body is larger, which the policy's answer size rules out.
    """
    raw = json.dumps(body, separators=(",", ":")).encode()
    if len(raw) > size:
        raise ValueError(f"an answer of {len(raw)} bytes is over the policy's {size}: raise answer_bytes")
    return raw + b" " * (size - len(raw))  # SERVE-1
