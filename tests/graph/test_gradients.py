"""Every operator's gradient, for every kind of attribute, against central differences in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from differences import check_gradient
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from networks import Network
from numpy.typing import NDArray

from chiron.graph import (
    AdmissionError,
    AdmittedGraph,
    GraphLimits,
    Rule,
    TensorSpec,
    admit,
    inference_model,
)
from chiron.graph.runtime import open_session

Shape = tuple[int, ...]
Array64 = NDArray[np.float64]
LIMITS = GraphLimits(max_bytes=1 << 20, max_parameters=1 << 16)
BATCH, CLASSES, STEP = 2, 3, 1e-6
EXAMPLES = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,  # a kink within STEP of a value would fail by chance
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
SEEDS = st.integers(0, 2**32 - 1)


class Case(Network):
    """A network around the operator under test; a parameter before it shows the gradient of its input."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        super().__init__(shape, CLASSES, seed)
        self.rows = self.add("Add", self.tensor("shift", 1, *shape, scale=1.0))

    def away_from_zero(self, name: str, *shape: int) -> str:
        """Add an initializer that may divide."""
        values = np.random.default_rng(self.seed).normal(size=shape)
        return self.values(name, (np.sign(values) * (0.5 + np.abs(values))).astype(np.float32))

    def admitted(self, width: int) -> AdmittedGraph:
        self.add("Flatten")
        self.add("MatMul", self.tensor("head", width, CLASSES))
        return admit(self.encoded(), TensorSpec(self.shape, CLASSES), limits=LIMITS)

    def check(self, width: int) -> None:
        """Compare forward pass and gradient with the guest's own model and the float64 reference."""
        random = np.random.default_rng(self.seed)
        x = random.normal(size=(BATCH, *self.shape)).astype(np.float32)
        graph = self.admitted(width)
        (wanted,) = open_session(self.encoded(), threads=1).run(None, {"x": x})
        model = inference_model(graph, graph.initial, batch=BATCH)
        (logits,) = open_session(model, threads=1).run(None, {"x": x})
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
        check_gradient(graph, self.model(), x, random)

    def check_or_refused(self, out: tuple[int, int] | None, channels: int) -> None:
        if out is not None:
            self.check(channels * out[0] * out[1])
            return
        with pytest.raises(AdmissionError) as refusal:
            self.admitted(1)
        assert refusal.value.rule is Rule.SHAPE


shapes_with_ones = st.tuples(*[st.sampled_from([1, 2, 3])] * 3)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("first", ["rows", "initializer"])
@EXAMPLES
@given(
    seed=SEEDS, row=shapes_with_ones, other=shapes_with_ones, lead=st.integers(0, 3), batched=st.booleans()
)
def test_arithmetic_with_an_initializer_that_broadcasts(
    operator: str, first: str, *, seed: int, row: Shape, other: Shape, lead: int, batched: bool
) -> None:
    case = Case(seed, row)
    operand = case.away_from_zero("operand", *((1, *other) if batched else other[lead:]))
    if first == "rows":
        case.add(operator, operand)
    else:
        case.add(operator, case.add("Sigmoid"), first=operand)  # a divisor that is far from 0
    own = other if batched else (*(1,) * lead, *other[lead:])
    width = int(np.prod([max(sides) for sides in zip(row, own, strict=True)]))
    if all(a == b or 1 in {a, b} for a, b in zip(row, own, strict=True)):
        case.check(width)
        return
    with pytest.raises(AdmissionError) as refusal:
        case.admitted(width)
    assert refusal.value.rule is Rule.SHAPE


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@EXAMPLES
@given(seed=SEEDS, channels=st.integers(1, 3), size=st.integers(1, 3))
def test_arithmetic_of_two_branches_that_broadcast(
    operator: str, *, seed: int, channels: int, size: int
) -> None:
    case = Case(seed, (channels, size, size))
    case.add("GlobalAveragePool")
    case.add(operator, case.add("Sigmoid"), first=case.rows)
    case.check(channels * size * size)


@EXAMPLES
@given(seed=SEEDS)
def test_a_tensor_that_is_used_twice_gets_both_gradients(seed: int) -> None:
    case = Case(seed, (4,))
    case.add("MatMul", case.tensor("tied", 4, 4))
    case.add("Tanh")
    case.add("MatMul", "tied")
    case.add("Mul", case.head)
    case.check(4)


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "Tanh"])
@EXAMPLES
@given(seed=SEEDS, row=shapes_with_ones)
def test_activations(operator: str, *, seed: int, row: Shape) -> None:
    case = Case(seed, row)
    case.add(operator)
    case.check(int(np.prod(row)))


@EXAMPLES
@given(seed=SEEDS, alpha=st.none() | st.floats(0, 1, width=32), row=shapes_with_ones)
def test_leaky_relu(*, seed: int, alpha: float | None, row: Shape) -> None:
    case = Case(seed, row)
    case.add("LeakyRelu", **stated(alpha=alpha))
    case.check(int(np.prod(row)))


@pytest.mark.parametrize(
    "bias", ["none", "scalar", "one", "one by one", "row", "one by row", "rows", "column of rows"]
)
@pytest.mark.parametrize("transposed", [None, 0, 1])
@EXAMPLES
@given(seed=SEEDS, ins=st.integers(1, 5), outs=st.integers(1, 5))
def test_gemm(bias: str, *, transposed: int | None, seed: int, ins: int, outs: int) -> None:
    case = Case(seed, (ins,))
    inputs = [case.tensor("weights", *((outs, ins) if transposed else (ins, outs)))]
    shapes = {"scalar": (), "one": (1,), "one by one": (1, 1), "row": (outs,), "one by row": (1, outs)}
    if bias in shapes:
        inputs.append(case.tensor("bias", *shapes[bias]))
    elif bias != "none":
        inputs.append(case.add("MatMul", case.tensor("other", ins, outs if bias == "rows" else 1)))
    case.add("Gemm", *inputs, first=case.rows, **stated(transB=transposed))
    case.check(outs)


@EXAMPLES
@given(seed=SEEDS, ins=st.integers(1, 5), outs=st.integers(1, 5))
def test_matmul(*, seed: int, ins: int, outs: int) -> None:
    case = Case(seed, (ins,))
    case.add("MatMul", case.tensor("weights", ins, outs))
    case.check(outs)


@EXAMPLES
@given(
    seed=SEEDS, first=st.sampled_from([0, -1]), target=st.sampled_from([(12,), (2, 6), (3, 2, 2), (4, -1)])
)
def test_reshape(*, seed: int, first: int, target: tuple[int, ...]) -> None:
    if first == -1 == target[-1]:
        reject()
    case = Case(seed, (3, 4))
    case.add("Reshape", case.values("target", np.array([first, *target], dtype=np.int64)))
    case.check(12)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
some_pads = st.none() | st.tuples(*[st.integers(0, 2)] * 4)
sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def stated(**attributes: Any) -> dict[str, Any]:  # noqa: ANN401  any attribute value
    return {name: value for name, value in attributes.items() if value is not None}


@dataclass
class Window:
    """A window over an image; None is left out of the node."""

    size: Shape
    kernel: Shape
    strides: Shape | None
    pads: Shape | None
    dilations: Shape | None = None

    def attributes(self) -> dict[str, Any]:
        return stated(strides=self.strides, pads=self.pads, dilations=self.dilations)

    def result(self) -> tuple[int, int] | None:
        """Return the output's size, or None where the window does not fit or could see padding alone."""
        pads, dilations = self.pads or (0,) * 4, self.dilations or (1, 1)
        extents = [(k - 1) * d + 1 for k, d in zip(self.kernel, dilations, strict=True)]
        room = [self.size[i] + pads[i] + pads[i + 2] - extents[i] for i in (0, 1)]
        if min(room) < 0 or any(pads[i] >= extents[i % 2] for i in range(4)):
            return None
        strides = self.strides or (1, 1)
        return room[0] // strides[0] + 1, room[1] // strides[1] + 1


windows = st.builds(Window, sizes, pairs, st.none() | pairs, some_pads)
dilated_windows = st.builds(Window, sizes, pairs, st.none() | pairs, some_pads, st.none() | pairs)


@settings(EXAMPLES, max_examples=150)
@given(
    seed=SEEDS,
    window=dilated_windows,
    group=st.sampled_from([None, 1, 2, 3]),
    per_group=pairs,
    bias=st.booleans(),
    says_kernel=st.booleans(),
)
def test_conv(
    *, seed: int, window: Window, group: int | None, per_group: Shape, bias: bool, says_kernel: bool
) -> None:
    ins, outs = per_group[0] * (group or 1), per_group[1] * (group or 1)
    case = Case(seed, (ins, *window.size))
    inputs = [case.tensor("weights", outs, per_group[0], *window.kernel)]
    inputs += [case.tensor("bias", outs)] if bias else []
    said = stated(group=group, kernel_shape=window.kernel if says_kernel else None)
    case.add("Conv", *inputs, **window.attributes(), **said)
    case.check_or_refused(window.result(), outs)


@settings(EXAMPLES, max_examples=80)
@given(seed=SEEDS, window=windows)
def test_max_pool(seed: int, window: Window) -> None:
    case = Case(seed, (2, *window.size))
    case.add("MaxPool", kernel_shape=window.kernel, **window.attributes())
    case.check_or_refused(window.result(), 2)


@settings(EXAMPLES, max_examples=80)
@given(seed=SEEDS, window=windows, counted=st.none() | st.integers(0, 1))
def test_average_pool(seed: int, window: Window, counted: int | None) -> None:
    case = Case(seed, (2, *window.size))
    counts = stated(count_include_pad=counted)
    case.add("AveragePool", kernel_shape=window.kernel, **window.attributes(), **counts)
    case.check_or_refused(window.result(), 2)


@EXAMPLES
@given(seed=SEEDS, size=sizes, channels=st.integers(1, 3))
def test_global_average_pool(*, seed: int, size: Shape, channels: int) -> None:
    case = Case(seed, (channels, *size))
    case.add("GlobalAveragePool")
    case.check(channels)


def test_a_constant_is_not_trained_and_passes_gradients_on() -> None:
    case = Case(0, (2, 4, 4))
    case.add("Conv", case.tensor("const.kernel", 3, 2, 3, 3))
    case.check(12)
    graph = admit(case.encoded(), TensorSpec(case.shape, CLASSES), limits=LIMITS)
    assert graph.parameter_count == 2 * 4 * 4 + 12 * CLASSES
