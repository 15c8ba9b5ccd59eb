"""Every operator of the allow-list: its forward pass is the guest's, its gradient that of differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from differences import check_gradient
from engines import HAS_ORT_TRAINING, NEWEST_OPSET
from onnx import TensorProto, helper
from operator_cases import CASES
from operator_networks import CLASSES, Case, batch_normalized

from chiron.graph import GraphLimits, Predictor, StockEngine, TensorSpec, admit, inference_model, settled
from chiron.graph.operators import OPERATORS
from chiron.graph.runtime import open_session

LIMITS = GraphLimits(max_bytes=1 << 20, max_parameters=1 << 16)
BATCH = 3
NOISE = np.random.default_rng(0)
NOT_RUN = {"BatchNormalization", "BatchNormalization of vectors"}  # the file's own: it trains there
if HAS_ORT_TRAINING:  # ONNX Runtime 1.19 fails on a reduction over no axes
    NOT_RUN |= {"ReduceL2 by no axes"}


def check(case: Case, width: int, *, forward_alone: bool = False) -> None:
    raw = case.finished(width)
    random = np.random.default_rng(case.seed)
    x = random.normal(size=(BATCH, *case.shape)).astype(np.float32)
    graph = admit(raw, TensorSpec(case.shape, CLASSES), limits=LIMITS)
    if not forward_alone and case.opset <= NEWEST_OPSET:
        (wanted,) = open_session(raw, threads=1).run(["logits"], {"x": x})
        for batch in (BATCH, None):
            model = inference_model(graph, graph.initial, batch=batch)
            (logits,) = open_session(model, threads=1).run(None, {"x": x})
            np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
        assert Predictor(graph, graph.initial, threads=1).predict(x).shape == (BATCH, CLASSES)
    model = case.model()
    model.opset_import[0].version = case.opset
    check_gradient(graph, model, x, random)


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operator_means_what_the_guest_wrote_and_its_gradient_is_that_of_differences(name: str) -> None:
    case, width = CASES[name]()
    check(case, width, forward_alone=name in NOT_RUN)


def test_a_division_by_a_computed_0_does_not_end_the_step() -> None:
    case = Case(3)
    shifted = case.head
    whole = case.add("Cast", first="x", to=TensorProto.INT64)
    rest = case.add("Cast", first=case.add("Mod", whole, first=whole), to=TensorProto.FLOAT)
    case.add("Add", rest, first=shifted)
    graph = admit(case.finished(3), TensorSpec(case.shape, CLASSES), limits=LIMITS)
    x = np.array([[0, 3, -2], [-1, 0, 0.5]], np.float32)
    assert np.isfinite(StockEngine(graph, batch=2, threads=1).run(x, np.zeros(2, np.int64), noise=NOISE))


@pytest.mark.parametrize(("operator", "bound"), [("Min", np.inf), ("Max", -np.inf)])
def test_an_infinite_bound_in_front_leaves_rows_as_they_are(operator: str, bound: float) -> None:
    case = Case(3)
    case.add(operator, case.head, first=case.scalar(bound))
    check(case, 3)


def test_every_operator_of_the_allow_list_is_checked() -> None:
    used = {node.op_type for build in CASES.values() for node in build()[0].nodes}
    assert set(OPERATORS) - used - {"Dropout", "Flatten", "MatMul"} == set()


def test_dropout_passes_what_it_keeps_scaled_and_its_gradient_with_it() -> None:
    case = Case(40)
    case.add("Dropout", case.scalar(0.25), case.values("train", np.ones((), bool)))
    raw = case.finished(40)
    graph = admit(raw, TensorSpec(case.shape, CLASSES), limits=LIMITS)
    engine = StockEngine(graph, batch=50, threads=1)
    x, y = np.ones((50, 40), np.float32), np.zeros(50, np.int64)
    losses = {engine.run(x, y, noise=np.random.default_rng(seed)) for seed in (1, 1, 2)}
    assert len(losses) == 2
    mask = engine._masks[0].values
    assert set(np.unique(mask).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert 0.7 < np.count_nonzero(mask) / mask.size < 0.8
    kept = Case(40)
    kept.add("Mul", kept.values("const.mask", mask[0]))
    alone = admit(kept.finished(40), TensorSpec(case.shape, CLASSES), limits=LIMITS)
    reference = StockEngine(alone, batch=1, threads=1)
    reference.parameters[:] = graph.initial
    one = StockEngine(graph, batch=1, threads=1)

    class Same(np.random.Generator):
        """Draws so that the first mask comes again."""

        def random(self, *_: object, dtype: object = None, out: Any = None) -> Any:  # noqa: ANN401, ARG002
            out[:] = np.where(mask[:1] > 0, 0.9, 0.1)

    loss = one.run(x[:1], y[:1], noise=Same(np.random.PCG64()))
    assert loss == pytest.approx(reference.run(x[:1], y[:1]))
    np.testing.assert_allclose(one.gradient, reference.gradient, rtol=1e-6)
    with pytest.raises(ValueError, match="noise"):
        engine.run(x, y)
    assert np.isfinite(Predictor(graph, graph.initial, threads=1).predict(x)).all()


def test_statistics_settle_to_those_of_the_rows() -> None:
    case, width = batch_normalized(1, 3, 4, 2)
    graph = admit(case.finished(width), TensorSpec(case.shape, CLASSES), limits=LIMITS)
    random = np.random.default_rng(0)
    rows = random.normal(2.0, 3.0, size=(64, *case.shape)).astype(np.float32)
    parts = [rows[at : at + 16] for at in range(0, 64, 16)]
    found = settled(graph, graph.initial, parts, batch=16, threads=1)
    mean, variance = ([p for p in graph.parameters if not p.trained][i].span for i in (0, 1))
    shift = graph.initial[: 3 * 4 * 2].reshape(3, 4, 2)
    np.testing.assert_allclose(found[mean], (rows + shift).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found[variance], (rows + shift).var(axis=(0, 2, 3)), rtol=1e-4)
    unchanged = np.ones(graph.parameter_count, bool)
    unchanged[mean] = unchanged[variance] = False
    np.testing.assert_array_equal(found[unchanged], graph.initial[unchanged])


@pytest.mark.parametrize(("told", "mode"), [({}, 0), ({"chiron.batch_normalization": "batch"}, 1)])
def test_the_metadata_may_have_each_normalisation_use_the_batchs_statistics(
    told: dict[str, str], mode: int
) -> None:
    case, width = batch_normalized(0, 3, 4, 2)
    case.finished(width)
    model = case.model()
    helper.set_model_props(model, told)
    graph = admit(model.SerializeToString(), TensorSpec(case.shape, CLASSES), limits=LIMITS)
    (node,) = (node for node in graph.nodes if node.operator == "BatchNormalization")
    assert node.integer("training_mode") == mode
