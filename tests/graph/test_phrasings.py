"""Every phrasing of a convolution, forced on shapes of all kinds, and the pass that takes out transposes."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network

from chiron.graph import GraphLimits, StockEngine, TensorSpec, admit, rules_conv, training_model
from chiron.graph import phrasing as phrasing_module
from chiron.graph.gradient import gradient_name
from chiron.graph.layout import settle
from chiron.graph.phrasing import COSTS, Cost, Phrasing, Sizes, choose, cost, possible
from chiron.graph.planes import SWAP
from chiron.graph.runtime import open_session
from chiron.graph.winograd import POINTS, STEP, filtering, turned, windows

if TYPE_CHECKING:
    from chiron.graph import AdmittedGraph

Shape = tuple[int, ...]
LIMITS = GraphLimits(max_bytes=1 << 22, max_parameters=1 << 20)
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)


def forced(phrasing: Phrasing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_conv, "choose", lambda _: phrasing)


def gradients(graph: AdmittedGraph, batch: int) -> np.ndarray[Shape, np.dtype[np.float32]]:
    random = np.random.default_rng(1)
    engine = StockEngine(graph, batch=batch, threads=1)
    x = random.normal(size=(batch, *graph.spec.input_shape)).astype(np.float32)
    loss = engine.run(x, random.integers(0, graph.spec.classes, batch))
    return np.append(engine.gradient, np.float32(loss))


def one_layer(seed: int, shape: Shape, weights: Shape, *, bias: bool, **attributes: Any) -> AdmittedGraph:  # noqa: ANN401
    """Return a network around one convolution; a parameter before it shows the gradient of its input."""
    net = Network(shape, 3, seed)
    net.add("Add", net.tensor("shift", 1, *shape, scale=1.0))
    inputs = [net.tensor("weights", *weights), *([net.tensor("bias", weights[0])] if bias else [])]
    net.add("Conv", *inputs, **attributes)
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    pads = attributes["pads"]
    extents = [(weights[2 + i] - 1) * dilations[i] + 1 for i in (0, 1)]
    out = [(shape[1 + i] + pads[i] + pads[i + 2] - extents[i]) // strides[i] + 1 for i in (0, 1)]
    net.add("Flatten")
    net.add("MatMul", net.tensor("head", weights[0] * out[0] * out[1], 3))
    return admit(net.encoded(), TensorSpec(shape, 3), limits=LIMITS)


def agrees_with_conv(graph: AdmittedGraph, phrasing: Phrasing) -> None:
    """Compare with DIRECT, which test_gradients.py holds to float64."""
    with pytest.MonkeyPatch.context() as patch:
        forced(Phrasing.DIRECT, patch)
        wanted = gradients(graph, 2)
        forced(phrasing, patch)
        np.testing.assert_allclose(gradients(graph, 2), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@EXAMPLES
@given(
    seed=SEEDS, size=st.tuples(st.integers(5, 11), st.integers(5, 11)), bias=st.booleans(),
    kernel=st.tuples(st.sampled_from([3, 5]), st.sampled_from([3, 5])),
    pads=st.tuples(*[st.integers(0, 2)] * 4), channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip
def test_minimal_filtering_agrees_with_conv(
    *, seed: int, size: Shape, bias: bool, kernel: Shape, pads: Shape, channels: Shape
) -> None:
    ins, outs = channels
    graph = one_layer(seed, (ins, *size), (outs, ins, *kernel), bias=bias, pads=pads)
    agrees_with_conv(graph, Phrasing.WINOGRAD)


@EXAMPLES
@given(
    seed=SEEDS, size=st.tuples(st.integers(5, 9), st.integers(5, 9)), bias=st.booleans(),
    kernel=st.tuples(*[st.integers(1, 3)] * 2), strides=st.tuples(*[st.integers(1, 3)] * 2),
    dilations=st.tuples(*[st.integers(1, 2)] * 2), pads=st.tuples(*[st.integers(0, 2)] * 4),
)  # fmt: skip
def test_a_product_for_each_place_agrees_with_conv(
    *, seed: int, size: Shape, bias: bool, kernel: Shape, strides: Shape, dilations: Shape, pads: Shape
) -> None:
    extents = [(kernel[i] - 1) * dilations[i] + 1 for i in (0, 1)]
    pads = tuple(min(pads[i], extents[i % 2] - 1) for i in range(4))
    window = {"strides": strides, "dilations": dilations, "pads": pads}
    graph = one_layer(seed, (2, *size), (3, 2, *kernel), bias=bias, **window)
    agrees_with_conv(graph, Phrasing.TAPS)


def first_layer(kernel: int, stride: int, channels: int) -> AdmittedGraph:
    """Return a network whose first layer reads few channels."""
    net = Network((channels, 13, 13), 3, 0)
    net.add(
        "Conv", net.tensor("w", 4, channels, kernel, kernel), net.tensor("b", 4), strides=(stride, stride)
    )
    net.add("Tanh")
    net.add("Flatten")
    side = (13 - kernel) // stride + 1
    net.add("MatMul", net.tensor("head", 4 * side * side, 3))
    return admit(net.encoded(), TensorSpec(net.shape, 3), limits=LIMITS)


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 1, 1), (5, 2, 3), (11, 1, 3), (7, 3, 2)])
def test_products_over_windows_agree_with_conv(kernel: int, stride: int, channels: int) -> None:
    graph = first_layer(kernel, stride, channels)
    nodes = onnx.ModelProto.FromString(training_model(graph, batch=3)).graph.node
    assert "Conv" not in {node.op_type for node in nodes}
    agrees_with_conv(graph, Phrasing.PATCHES)


def image_net(channels: int) -> AdmittedGraph:
    """Return convolutions, activations and pooling that all can stay places first."""
    net = Network((3, 12, 12), 4, 0)
    ins = 3
    for index in range(3):
        net.add(
            "Conv",
            net.tensor(f"w{index}", channels, ins, 3, 3),
            net.tensor(f"b{index}", channels),
            pads=(1,) * 4,
        )
        net.add("Relu")
        ins = channels
    net.add("MaxPool", kernel_shape=(2, 2), strides=(2, 2))
    net.add("Flatten")
    net.add("MatMul", net.tensor("head", channels * 36, 4))
    return admit(net.encoded(), TensorSpec(net.shape, 4), limits=LIMITS)


def test_all_phrasings_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = image_net(16)
    wanted = gradients(graph, 4)
    for phrasing in (Phrasing.DIRECT, Phrasing.TAPS, Phrasing.WINOGRAD):
        forced(phrasing, monkeypatch)
        np.testing.assert_allclose(gradients(graph, 4), wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_a_step_is_the_same_bit_for_bit() -> None:
    graph = image_net(16)
    assert gradients(graph, 4).tobytes() == gradients(graph, 4).tobytes()


def test_nothing_is_transposed_between_layers() -> None:
    """One transpose to rows for Flatten, one back for its gradient; the network's input is none of SWAP's."""
    nodes = onnx.ModelProto.FromString(training_model(image_net(16), batch=4)).graph.node
    swaps = [node for node in nodes if node.op_type == "Transpose" and tuple(node.attribute[0].ints) == SWAP]
    assert len(swaps) == 2


def test_settling_changes_no_value() -> None:
    """The same nodes with and without their transposes, on values that differ at every place."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Transpose", ["a"], ["p"], perm=SWAP),
        make("Relu", ["p"], ["q"]),
        make("Transpose", ["q"], ["r"], perm=SWAP),
        make("Mul", ["r", "v"], ["s"]),
        make("Sub", ["s", "a"], ["t"]),
        make("ReduceMean", ["t"], ["m"], axes=(0, 2, 3), keepdims=1),
        make("Sub", ["t", "m"], ["u"]),
        make("Transpose", ["u"], ["w"], perm=SWAP),
        make("ReduceSum", ["u", "axes"], ["total"], keepdims=0),
    ]
    shape, turned = (2, 3, 4, 5), (4, 5, 2, 3)
    outputs = [info("w", 1, turned), info("total", 1, (3,)), info("u", 1, shape)]
    axes = onnx.numpy_helper.from_array(np.array([0, 2, 3]), "axes")
    made = onnx.helper.make_graph(
        nodes, "g", [info("a", 1, shape), info("v", 1, (1, 3, 1, 1))], outputs, [axes]
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    random = np.random.default_rng(0)
    feeds = {"a": random.normal(size=shape).astype(np.float32)}
    feeds["v"] = random.normal(size=(1, 3, 1, 1)).astype(np.float32)
    before, after = (
        open_session(each.SerializeToString(), threads=1).run(None, feeds) for each in (model, settle(model))
    )
    for left, right in zip(before, after, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("taps", "tiles"), [*product(sorted(POINTS), [1, 2, 5])])
def test_filtering_is_correlation(taps: int, tiles: int) -> None:
    random = np.random.default_rng(0)
    signal, kernel = random.normal(size=STEP * tiles + taps - 1), random.normal(size=taps)
    inner, outer, gather = filtering(taps)
    products = (inner @ signal[windows(tiles, len(inner))]) * (outer @ kernel)[:, None]
    wanted = np.correlate(signal, kernel, "valid")
    np.testing.assert_allclose((gather @ products).T.ravel(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("taps", sorted(POINTS))
def test_inverted_points_filter_with_the_turned_kernel(taps: int) -> None:
    random = np.random.default_rng(0)
    signal, kernel = random.normal(size=STEP + taps - 1), random.normal(size=taps)
    _, outer, _ = filtering(taps)
    inner, gather = turned(taps)
    wanted = np.correlate(signal, kernel[::-1], "valid")
    np.testing.assert_allclose(gather @ ((inner @ signal) * (outer @ kernel)), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("taps", sorted(POINTS))
def test_filtering_in_float32_loses_little(taps: int) -> None:
    """Against float64 sums over 64 channels, relative to the largest result."""
    random = np.random.default_rng(0)
    inner, outer, gather = (matrix.astype(np.float32) for matrix in filtering(taps))
    x = np.maximum(random.normal(size=(64, 15 + taps, 15 + taps)), 0).astype(np.float32)
    w = random.normal(size=(8, 64, taps, taps)).astype(np.float32)
    at = windows(4, len(inner))
    tiles = np.einsum("ap,cpiqj,bq->cabij", inner, x[:, at[:, :, None, None], at], inner, optimize=True)
    products = np.einsum("kcab,cabij->kabij", outer @ w @ outer.T, tiles, dtype=np.float32)
    found = np.einsum("ra,kabij,sb->kirjs", gather, products, gather, optimize=True).reshape(8, 16, 16)
    seen = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (taps, taps), axis=(1, 2))
    wanted = np.einsum("kcij,chwij->khw", w.astype(np.float64), seen)
    assert np.abs(found - wanted).max() <= {3: 3e-6, 5: 1e-5}[taps] * np.abs(wanted).max()


def sizes(
    *, ins: int = 32, outs: int = 32, size: int = 16, kernel: int = 3, stride: int = 1, group: int = 1,
    wants: bool = True,
) -> Sizes:  # fmt: skip
    out = (size // stride,) * 2
    return Sizes(ins, outs, (size,) * 2, out, (kernel,) * 2, (stride,) * 2, (1, 1), group, wants)


def test_the_choice_follows_the_shape() -> None:
    assert choose(sizes()) is choose(sizes(kernel=5)) is choose(sizes(size=224)) is Phrasing.WINOGRAD
    assert choose(sizes(kernel=1)) is choose(sizes(stride=2)) is Phrasing.TAPS
    assert choose(sizes(ins=3, kernel=11, stride=4, wants=False)) is Phrasing.PATCHES
    assert choose(sizes(ins=3)) is choose(sizes(group=2)) is choose(sizes(kernel=7)) is Phrasing.DIRECT


@pytest.mark.parametrize("dear", list(Phrasing))
def test_the_choice_follows_the_measured_costs(dear: Phrasing, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [phrasing for phrasing in possible(sizes()) if phrasing is not dear]
    monkeypatch.setattr(phrasing_module, "COSTS", COSTS | {dear: Cost(1e6, 1e6)})
    assert choose(sizes()) is min(others, key=lambda phrasing: cost(phrasing, sizes()))


def test_only_the_first_layer_of_few_channels_goes_by_patches() -> None:
    assert Phrasing.PATCHES not in possible(sizes(ins=3)) + possible(sizes(wants=False))
    assert Phrasing.WINOGRAD not in possible(sizes(stride=2)) + possible(sizes(kernel=7))


def test_a_graph_has_a_gradient_for_each_parameter() -> None:
    graph = image_net(16)
    outputs = {o.name for o in onnx.ModelProto.FromString(training_model(graph, batch=2)).graph.output}
    assert outputs == {"loss", *(gradient_name(p.name) for p in graph.parameters)}
