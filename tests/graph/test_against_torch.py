"""Gradients of layers with random shapes and attributes, against PyTorch's autograd in float64."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network
from torch_cases import BATCH, CLASSES, LAYERS, draw, head

from chiron.graph import GraphLimits, StockEngine, TensorSpec, admit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Peer = Callable[[str, int], dict[str, NDArray[np.float64]]]

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = CHECKOUT / ".torchenv" / "bin" / "python"
LIMITS = GraphLimits(max_bytes=1 << 20, max_parameters=1 << 16)


@pytest.fixture(scope="module")
def torch_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Start PyTorch in its own environment; yield what asks it."""
    if not PYTHON.exists():
        pytest.skip("PyTorch is in an environment of its own: make test-torch makes it")
    place = tmp_path_factory.mktemp("peer") / "gradients.npz"
    command = [str(PYTHON), str(CHECKOUT / "tests" / "support" / "torch_peer.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(name: str, seed: int) -> dict[str, NDArray[np.float64]]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name} {seed} {place}\n")
            process.stdin.flush()
            assert process.stdout.readline().split()[:2] == [name, str(seed)]
            with np.load(place) as found:
                return dict(found)

        yield ask


def network(name: str, seed: int, width: int) -> Network:
    """Return the layer behind a shift of its rows, and before a last layer that is not trained."""
    layer, _, _ = draw(name, seed)
    net = Network(layer.shape, CLASSES)
    net.add("Add", net.values("rows", np.zeros((1, *layer.shape), np.float32)))
    others = [net.values(key, value) for key, value in layer.parameters.items()]
    attributes = dict(layer.attributes)
    if name == "batch_norm":
        size = layer.shape[0]
        others += [
            net.values("mean", np.zeros(size, np.float32)),
            net.values("var", np.ones(size, np.float32)),
        ]
    if name == "interpolate":
        others = ["", net.values("const.scales", np.array([1, 1, 2, 2], np.float32))]
        mode = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        attributes |= mode
    net.add(layer.operator, *others, **attributes)
    net.add("Flatten")
    net.add("MatMul", net.values("const.head", head(width, seed)))
    return net


@pytest.mark.parametrize("name", sorted(LAYERS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_layers_gradients_are_those_of_autograd(torch_peer: Peer, name: str, *, seed: int) -> None:
    wanted = torch_peer(name, seed)
    layer, rows, targets = draw(name, seed)
    net = network(name, seed, int(wanted["width"]))
    model = net.model()
    model.opset_import[0].version = layer.opset
    graph = admit(model.SerializeToString(), TensorSpec(layer.shape, CLASSES), limits=LIMITS)
    engine = StockEngine(graph, batch=BATCH, threads=1)
    assert engine.run(rows, targets) == pytest.approx(float(wanted["loss"]), rel=1e-4, abs=1e-5)
    largest = max(float(np.abs(wanted[key]).max()) for key in ("rows", *layer.parameters))
    for key, parameter in zip(("rows", *layer.parameters), graph.trained, strict=True):
        found = engine.gradient[parameter.span].reshape(parameter.shape)
        expected = wanted[key].reshape(parameter.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-4 * max(largest, 1e-2), err_msg=key)
