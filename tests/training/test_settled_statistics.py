"""A network that normalises by batch is measured and served with the statistics of its training rows."""

from __future__ import annotations

import numpy as np
from deployments import CLASSES, VALUES, small_dataset
from networks import Network as Draft

from chiron.graph import Predictor
from chiron.guest_api.dataset import as_float
from chiron.guest_api.plan import Plan
from chiron.policy.header import Header
from chiron.training.create import Network, admit_graph
from chiron.training.exchange import Trained
from chiron.training.results import evaluate

DATASET, HEADER = small_dataset(), Header(1, 16, 1, 4096, 5, 1000)


def test_the_model_holds_the_statistics_of_its_training_rows() -> None:
    draft = Draft((VALUES,), CLASSES)
    names = [draft.values(name, np.full(VALUES, value, np.float32)) for name, value in
             (("scale", 1), ("bias", 0), ("mean", 5), ("variance", 9))]  # fmt: skip
    draft.add("BatchNormalization", *names, training_mode=1)
    draft.add("MatMul", draft.tensor("w", VALUES, CLASSES))
    graph = draft.encoded()
    admitted = admit_graph(graph, HEADER, DATASET.schema)
    network = Network(graph, admitted, Plan("sgd", 0.1, 0.0, 0.0, "constant", 0))
    parameters = np.zeros(HEADER.parameters, np.float32)
    parameters[: admitted.parameter_count] = admitted.initial
    result = evaluate(network, Trained(parameters, (0.5,), complete=True), DATASET)
    assert result.model is not None
    mean, variance = (p for p in admitted.parameters if not p.trained)
    rows = as_float(DATASET.rows)
    np.testing.assert_allclose(result.model.parameters[mean.span], rows.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.model.parameters[variance.span], rows.var(axis=0), rtol=1e-3, atol=1e-6)
    scores = Predictor(admitted, result.model.parameters, threads=1).predict(as_float(DATASET.held_out_rows))
    assert result.accuracy == np.mean(scores.argmax(axis=1) == DATASET.held_out_targets)
