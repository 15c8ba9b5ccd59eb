"""Networks as PyTorch, Keras and spox export them: admitted as they come, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import load, names
from corpus_marks import marked
from onnx import ModelProto, TensorProto

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    Rule,
    StockEngine,
    TensorSpec,
    admit,
    inference_model,
)
from chiron.graph.runtime import open_session

LIMITS = GraphLimits(max_bytes=1 << 30, max_parameters=1 << 27, max_activation_bytes=1 << 36, max_batch=4)
BATCH = 3
REFUSED = {
    "attention.keras": Rule.OPERATOR,  # Einsum
    "attention.spox": Rule.PARAMETERS,  # its weights are Constant nodes
    "perceptron.spox": Rule.PARAMETERS,
    "convnext_tiny.dynamo.eval": Rule.ROWS,  # counts the rows of its batch
    "convnext_tiny.dynamo.train": Rule.OPERATOR,  # draws random numbers itself, for stochastic depth
    "convnext_tiny.script.train": Rule.OPERATOR,
    "efficientnet_b0.dynamo.train": Rule.OPERATOR,
    "lenet_view.dynamo.train": Rule.OPERATOR,
    "unet": Rule.INTERFACE,  # a class for each pixel, not for each row
    "unet_resize": Rule.OPERANDS,  # bilinear, and a factor that is computed
    "unet_resize.script": Rule.ATTRIBUTE,
    "vit.dynamo.train.static": Rule.SHAPE,  # its class token is there once for each row of a fixed batch
}


def refusal(name: str) -> Rule | None:
    """Return the rule by which a network is refused: that of the longest prefix."""
    found = [prefix for prefix in REFUSED if name == prefix or name.startswith(f"{prefix}.")]
    return REFUSED[max(found, key=len)] if found else None


def read(name: str) -> tuple[bytes, TensorSpec, bool]:
    """Return a network, what a data set for it would be, and whether it takes integers."""
    raw = load(name)
    graph = ModelProto.FromString(raw).graph
    rows, logits = graph.input[0].type.tensor_type, graph.output[0].type.tensor_type
    shape = tuple(dim.dim_value for dim in rows.shape.dim[1:])
    return raw, TensorSpec(shape, logits.shape.dim[1].dim_value), rows.elem_type == TensorProto.INT64


def some_rows(spec: TensorSpec, *, integers: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    random = np.random.default_rng(0)
    shape = (BATCH, *spec.input_shape)
    values = random.integers(0, 50, shape) if integers else np.abs(random.normal(size=shape))
    return values.astype(np.float32)


def near(name: str) -> float:
    """Return the difference that float32 makes: under random weights it grows from layer to layer."""
    return 1e-2 if name.startswith("mobilenet_v3") else 1e-4


def trains(graph: AdmittedGraph, spec: TensorSpec, *, integers: bool) -> None:
    engine = StockEngine(graph, batch=BATCH, threads=1)
    x, y = some_rows(spec, integers=integers), np.arange(BATCH) % spec.classes
    first = engine.run(x, y, noise=np.random.default_rng(0))
    gradient = engine.gradient.copy()
    assert np.isfinite(first)
    assert np.isfinite(gradient).all()
    assert gradient.any()
    again = engine.run(x, y, noise=np.random.default_rng(0))
    assert (again, engine.gradient.tobytes()) == (first, gradient.tobytes())


@pytest.mark.parametrize("name", marked())
def test_a_network_of_the_corpus_is_admitted_and_trains_or_is_refused_with_its_rule(name: str) -> None:
    raw, spec, integers = read(name)
    rule = refusal(name)
    if rule is not None:
        with pytest.raises(AdmissionError) as caught:
            admit(raw, spec, limits=LIMITS)
        assert caught.value.rule is rule
        return
    graph = admit(raw, spec, limits=LIMITS)
    if ".eval" in name:
        x = some_rows(spec, integers=integers)
        own = x.astype(np.int64) if integers else x
        (wanted,) = open_session(raw, threads=1).run(["logits"], {"x": own})
        for batch in (None, BATCH):
            session = open_session(inference_model(graph, graph.initial, batch=batch), threads=1)
            (found,) = session.run(None, {"x": x})
            np.testing.assert_allclose(
                found, wanted, rtol=1e-3, atol=near(name) * float(np.abs(wanted).max())
            )
    trains(graph, spec, integers=integers)


def test_twenty_architectures_and_more_are_admitted() -> None:
    admitted = {name.split(".")[0] for name in names() if refusal(name) is None}
    assert len(admitted) >= 20
