"""Random networks, many of them nonsense: each is refused, or runs and means what the guest wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from networks import Network

from chiron.graph import (
    AdmissionError,
    GraphLimits,
    Predictor,
    TensorSpec,
    admit,
    inference_model,
    open_engine,
)
from chiron.graph.runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMITS = GraphLimits(max_bytes=1 << 20, max_parameters=1 << 14, max_activation_bytes=1 << 24, max_batch=4)
CLASSES, BATCH = 2, 3
Row = tuple[int, ...]


class Draft(Network):
    """A network whose layers are drawn; `known` holds what the guest believes of its tensors' shapes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        shape = self.pick((3,), (2, 3), (1, 4, 5), (2, 5, 4), (4, 1, 3), (1, 1, 1))
        super().__init__(shape, CLASSES, seed)
        self.known: dict[str, Row] = {"x": shape}

    def pick(self, *choices: Any) -> Any:  # noqa: ANN401  any of the choices
        return choices[self.random.integers(len(choices))]

    def small(self, low: int = 1, high: int = 3) -> int:
        return int(self.random.integers(low, high + 1))

    def coin(self) -> bool:
        return self.random.random() < 0.5

    def seldom(self) -> bool:
        return self.random.random() < 0.04

    def weights(self, *shape: int) -> str:
        prefix = self.pick("", "", "const.")
        return self.tensor(f"{prefix}w{len(self.tensors)}", *shape)

    def layer(self) -> None:
        """Add a layer that mostly fits the head, and believe ONNX's own arithmetic of its shape."""
        row = self.known[self.head]
        self.pick(*LAYERS)(self, row)

    def then(self, operator: str, *others: str, row: Sequence[int], **attributes: Any) -> None:  # noqa: ANN401
        self.known[self.add(operator, *others, **attributes)] = tuple(row)


def activation(net: Draft, row: Row) -> None:
    net.then(net.pick("Relu", "LeakyRelu", "Sigmoid", "Tanh"), row=row)


def arithmetic(net: Draft, row: Row) -> None:
    shape = [net.pick(size, size, 1) for size in row][net.small(0, len(row)) :]
    if len(shape) == len(row) and net.coin():
        shape = [net.pick(1, 1, 1, 2, BATCH), *shape]
    operand, operator = net.weights(*shape), net.pick("Add", "Sub", "Mul", "Div")
    if net.coin():
        net.then(operator, operand, row=row)
    else:
        net.then(operator, net.head, first=operand, row=row)


def branch(net: Draft, row: Row) -> None:
    same = [name for name, shape in net.known.items() if len(shape) == len(row)]
    other = net.pick(*net.known) if net.coin() else net.pick(*same)
    rank = max(len(row), len(net.known[other]))
    pair = [(1,) * (rank - len(shape)) + shape for shape in (row, net.known[other])]
    net.then(
        net.pick("Add", "Sub", "Mul", "Div"), other, row=[max(sizes) for sizes in zip(*pair, strict=True)]
    )


def dense(net: Draft, row: Row) -> None:
    outs = net.small(1, 4)
    if len(row) > 1 and not net.seldom():
        return net.then("Flatten", row=(int(np.prod(row)),))
    match net.pick("MatMul", "Gemm", "transposed", "Flatten"):
        case "MatMul":
            net.then("MatMul", net.weights(row[-1], outs), row=(*row[:-1], outs))
        case "Gemm":
            bias = net.pick(
                [], [net.weights(outs)], [net.weights(1, outs)], [net.weights()], [net.weights(2, outs)]
            )
            net.then("Gemm", net.weights(row[-1], outs), *bias, row=(*row[:-1], outs))
        case "transposed":
            net.then("Gemm", net.weights(outs, row[-1]), row=(*row[:-1], outs), transB=1)
        case _:
            net.then("Flatten", row=(int(np.prod(row)),))
    return None


def reshape(net: Draft, row: Row) -> None:
    size = int(np.prod(row))
    first = net.pick(*[n for n in range(1, size + 1) if size % n == 0])
    target = net.pick(
        (size,), (first, size // first), (1, first, size // first), (first, 1, 1, size // first)
    )
    written = [BATCH if net.seldom() else net.pick(0, -1), *target]
    if net.coin():
        written[net.small(0, len(target))] = -1
    net.then("Reshape", net.values(f"s{len(net.tensors)}", np.array(written, np.int64)), row=target)


def window(net: Draft, size: Row, *, dilations: Row = (1, 1)) -> tuple[Row, dict[str, Any], Row]:
    """Draw a window's size, its attributes, and what it makes of an image; seldom one that does not fit."""
    while True:
        kernel, strides = (net.small(), net.small()), (net.small(), net.small())
        pads = [net.pick(0, 0, 1, 2) for _ in range(4)]
        extents = [(kernel[i] - 1) * dilations[i] + 1 for i in (0, 1)]
        room = [size[i] + pads[i] + pads[i + 2] - extents[i] for i in (0, 1)]
        fits = min(room) >= 0 and all(pads[i] < extents[i % 2] for i in range(4))
        if fits or net.seldom():
            result = tuple(max(1, room[i] // strides[i] + 1) for i in (0, 1))
            return kernel, {"strides": strides, "pads": pads}, result


def convolution(net: Draft, row: Row) -> None:
    if len(row) != 3:
        return dense(net, row)
    dilations = (net.small(1, 2), net.small(1, 2))
    group = net.pick(1, row[0], 2 if net.seldom() or row[0] % 2 == 0 else 1)
    outs = group * net.small(1, 2)
    kernel, attributes, result = window(net, row[1:], dilations=dilations)
    operands = [net.weights(outs, max(1, row[0] // group), *kernel)]
    operands += [net.weights(outs)] if net.coin() else []
    return net.then("Conv", *operands, row=(outs, *result), dilations=dilations, group=group, **attributes)


def pooling(net: Draft, row: Row) -> None:
    if len(row) != 3:
        return activation(net, row)
    operator = net.pick("MaxPool", "AveragePool", "GlobalAveragePool")
    if operator == "GlobalAveragePool":
        return net.then(operator, row=(row[0], 1, 1))
    kernel, attributes, result = window(net, row[1:])
    counted = {"count_include_pad": net.pick(0, 1)} if operator == "AveragePool" else {}
    return net.then(operator, row=(row[0], *result), kernel_shape=kernel, **attributes, **counted)


LAYERS: Sequence[Callable[[Draft, Row], None]] = (
    activation, arithmetic, branch, dense, reshape, convolution, convolution, pooling, pooling,
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_a_random_network_is_refused_or_trains_and_answers_as_the_guest_meant(seed: int) -> None:
    net = Draft(seed)
    for _ in range(net.small(1, 7)):
        net.layer()
    net.then("Flatten", row=(int(np.prod(net.known[net.head])),))
    net.then("Gemm", net.tensor("head", *net.known[net.head], CLASSES), row=(CLASSES,))
    try:
        graph = admit(net.encoded(), TensorSpec(net.shape, CLASSES), limits=LIMITS)
    except AdmissionError as error:
        event(f"refused: {error.rule}")
        return
    event(f"admitted {len(graph.nodes)} nodes")
    x = np.random.default_rng(net.seed).normal(size=(BATCH, *net.shape)).astype(np.float32)
    engine = open_engine(graph, batch=BATCH, threads=1)
    engine.run(x, np.array([0, 1, 0]))
    (wanted,) = open_session(net.encoded(), threads=1).run(None, {"x": x})
    (logits,) = open_session(inference_model(graph, graph.initial, batch=BATCH), threads=1).run(
        None, {"x": x}
    )
    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0))
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4 * scale)
    probabilities = Predictor(graph, graph.initial, threads=1).predict(x)
    assert probabilities.shape == (BATCH, CLASSES)
