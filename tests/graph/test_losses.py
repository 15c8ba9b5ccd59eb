"""Each loss and its gradient with respect to the logits, against plain float64 arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network
from onnx import helper

from chiron.graph import AdmissionError, GraphLimits, Loss, LossKind, Rule, StockEngine, TensorSpec, admit

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES, STEP = 4, 1e-6
LIMITS = GraphLimits(max_bytes=1 << 16, max_parameters=1 << 10)


def expected(loss: Loss, logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return the loss over rows that have a class; the others count in the mean alone."""
    hot = (y[:, None] == np.arange(CLASSES)).astype(float)
    valid = hot.sum(axis=1, keepdims=True)
    match loss.kind:
        case LossKind.CROSS_ENTROPY:
            weights = np.array(loss.class_weights or (1.0,) * CLASSES)
            logs = logits - logits.max(axis=1, keepdims=True)
            logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
            target = ((1 - loss.smoothing) * hot + loss.smoothing / CLASSES * valid) * weights
            total = (hot * weights).sum() if loss.class_weights else len(y)
            return float(-(target * logs).sum() / total)
        case LossKind.SQUARED:
            each = (logits - hot) ** 2
        case LossKind.HUBER:
            gap = np.abs(logits - hot)
            bent = np.minimum(gap, loss.delta)
            each = 0.5 * bent**2 + loss.delta * (gap - bent)
        case LossKind.BINARY:
            each = np.logaddexp(0, logits) - hot * logits
    return float((each * valid).sum() / (len(y) * CLASSES))


def properties(loss: Loss) -> dict[str, str]:
    """Return what a guest writes into its model's metadata."""
    told = {"chiron.loss": loss.kind.value, "chiron.class_weights": ",".join(map(str, loss.class_weights))}
    told |= {"chiron.label_smoothing": str(loss.smoothing), "chiron.huber_delta": str(loss.delta)}
    return told | {"torch.version": "anything"}


def named(net: Network, told: dict[str, str]) -> bytes:
    model = net.model()
    helper.set_model_props(model, told)
    raw: bytes = model.SerializeToString()
    return raw


LOSSES = [
    Loss(),
    Loss(smoothing=0.1),
    Loss(class_weights=(0.5, 2.0, 1.0, 0.0)),
    Loss(class_weights=(1.0, 3.0, 0.25, 1.0), smoothing=0.3),
    Loss(LossKind.SQUARED),
    Loss(LossKind.HUBER, delta=0.75),
    Loss(LossKind.BINARY),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 6), scale=st.sampled_from([0.1, 1.0, 20.0]))
def test_a_loss_and_its_gradient_are_those_of_the_definition(
    loss: Loss, *, seed: int, batch: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    net = Network((CLASSES,), CLASSES)
    net.add("Add", net.values("shift", random.normal(size=(1, CLASSES)).astype(np.float32)))
    graph = admit(named(net, properties(loss)), TensorSpec((CLASSES,), CLASSES), limits=LIMITS)
    assert graph.loss == loss
    engine = StockEngine(graph, batch=batch, threads=1)
    x = (scale * random.normal(size=(batch, CLASSES))).astype(np.float32)
    y = random.integers(0, CLASSES + 1, batch)  # some rows have no class
    y[0] = 0
    found = engine.run(x, y)
    at = x.astype(np.float64) + graph.initial.astype(np.float64)
    assert found == pytest.approx(expected(loss, at, y), rel=1e-4, abs=1e-5)
    for place, direction in enumerate(np.eye(CLASSES)):
        ends = [expected(loss, at + sign * STEP * direction, y) for sign in (1, -1)]
        numerical = (ends[0] - ends[1]) / (2 * STEP)
        assert engine.gradient[place] == pytest.approx(numerical, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "told",
    [
        {"chiron.loss": "hinge"},
        {"chiron.label_smoothing": "1"},
        {"chiron.label_smoothing": "-0.1"},
        {"chiron.label_smoothing": "much"},
        {"chiron.loss": "huber", "chiron.huber_delta": "0"},
        {"chiron.loss": "huber", "chiron.huber_delta": "1e300"},
        {"chiron.loss": "huber", "chiron.huber_delta": "1e-60"},
        {"chiron.class_weights": "1e300,1,1,1"},
        {"chiron.class_weights": "0,0,0,0"},
        {"chiron.class_weights": "nan,1,1,1"},
        {"chiron.class_weights": "1,2"},
        {"chiron.class_weights": "1" + ",1" * (1 << 16)},
        {"chiron.loss": "mse", "chiron.label_smoothing": "0.1"},
        {"chiron.loss": "binary-cross-entropy", "chiron.class_weights": "1,1,1,1"},
        {"chiron.margin": "1"},
        {"chiron.batch_normalization": "yes"},
        {f"note {number}": "" for number in range(300)},
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(told: dict[str, str]) -> None:
    net = Network((CLASSES,), CLASSES)
    net.add("MatMul", net.tensor("w", CLASSES, CLASSES))
    with pytest.raises(AdmissionError) as refusal:
        admit(named(net, told), TensorSpec((CLASSES,), CLASSES), limits=replace(LIMITS, max_bytes=1 << 20))
    assert refusal.value.rule is Rule.LOSS
    assert len(str(refusal.value)) < 300
