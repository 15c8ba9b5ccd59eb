"""LSTM and GRU, unrolled over their steps into products and activations.

Source: ONNX specification, LSTM and GRU, equations with the default activations (f = Sigmoid, g = h = Tanh).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.errors import Rule
from chiron.graph.lower_elementwise import scalar
from chiron.graph.lower_shape import cut, to_shape
from chiron.graph.shapes import need

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chiron.graph.net import Call, Net, Tensor

MAX_STEPS = 512
X, W, R, B, LENGTHS, H, C, PEEPHOLES = range(8)  # the operands' places


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction's weights, turned so that rows stand in front, and its biases; None where left out."""

    net: Net
    size: int
    inputs: Tensor
    recurrent: Tensor
    own: Tensor | None
    other: Tensor | None
    resets_late: bool

    def gates(self, tensor: Tensor, first: int, count: int = 1) -> Tensor:
        """Return some gates of a tensor that has all of them along its last axis."""
        axis, start = len(tensor.shape) - 1, first * self.size
        return cut(self.net, tensor, axis=axis, start=start, end=start + count * self.size)

    def plus(self, tensor: Tensor, bias: Tensor | None, first: int, count: int) -> Tensor:
        """Add some gates of a bias, if there is one."""
        return tensor if bias is None else self.net.emit("Add", tensor, self.gates(bias, first, count))


def _lstm_step(way: _Direction, now: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return hidden and cell after a step; gates in the order i, o, f, c."""
    net, (hidden, cell) = way.net, state
    now = way.plus(way.plus(now, way.own, 0, 4), way.other, 0, 4)
    now = net.emit("Add", now, net.emit("MatMul", hidden, way.recurrent))
    gates = net.emit("Sigmoid", way.gates(now, 0, 3))
    fresh = net.emit("Mul", way.gates(gates, 0), net.emit("Tanh", way.gates(now, 3)))
    cell = net.emit("Add", net.emit("Mul", way.gates(gates, 2), cell), fresh)
    return net.emit("Mul", way.gates(gates, 1), net.emit("Tanh", cell)), cell


def _gru_step(way: _Direction, now: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return hidden after a step; gates in the order z, r, h."""
    net, (hidden,) = way.net, state
    now = way.plus(now, way.own, 0, 3)
    product = way.plus(net.emit("MatMul", hidden, way.gates(way.recurrent, 0, 2)), way.other, 0, 2)
    gates = net.emit("Sigmoid", net.emit("Add", way.gates(now, 0, 2), product))
    update, reset = way.gates(gates, 0), way.gates(gates, 1)
    recurrent = way.gates(way.recurrent, 2)
    if way.resets_late:
        product = way.plus(net.emit("MatMul", hidden, recurrent), way.other, 2, 1)
        pull = net.emit("Mul", reset, product)
    else:
        pull = way.plus(net.emit("MatMul", net.emit("Mul", reset, hidden), recurrent), way.other, 2, 1)
    fresh = net.emit("Tanh", net.emit("Add", way.gates(now, 2), pull))
    rest = net.emit("Mul", net.emit("Sub", scalar(1.0), update), fresh)
    return (net.emit("Add", rest, net.emit("Mul", update, hidden)),)


def _check(call: Call, gates: int) -> int:
    """Return the number of directions; steps first, the batch second, nothing optional but states."""
    shape, hidden = call[X].shape, call.integer("hidden_size")
    need(holds=len(shape) == 3 and shape[1] < 0, text="rows must be (steps, batch, values)")  # noqa: PLR2004
    need(holds=0 < shape[0] <= MAX_STEPS, text=f"{shape[0]} steps are not 1 to {MAX_STEPS}: shorten them")
    ways = 2 if call.text("direction") == "bidirectional" else 1
    wanted = [(ways, gates * hidden, shape[2]), (ways, gates * hidden, hidden)]
    need(holds=[call[W].shape, call[R].shape] == wanted, text="W and R do not fit rows and hidden_size")
    bias = call.operand(B)
    holds = bias is None or bias.shape == (ways, 2 * gates * hidden)
    need(holds=holds, text="B does not fit hidden_size")
    for place in (LENGTHS, PEEPHOLES):
        text = "sequence lengths and peepholes are not admitted: leave them out"
        need(holds=call.operand(place) is None, text=text, rule=Rule.OPERANDS)
    return ways


def _share(net: Net, tensor: Tensor, number: int) -> Tensor:
    """Return one direction's share of weights or states."""
    need(holds=len(tensor.shape) > 1 and tensor.shape[0] > number, text="an operand lacks a direction")
    part = cut(net, tensor, axis=0, start=number, end=number + 1)
    return to_shape(net, part, part.shape[1:])


def _direction(net: Net, call: Call, number: int, gates: int) -> _Direction:
    size, bias = call.integer("hidden_size"), call.operand(B)
    halves: tuple[Tensor | None, ...] = (None, None)
    turned = [net.emit("Transpose", _share(net, call[place], number), perm=(1, 0)) for place in (W, R)]
    if bias is not None:
        both = _share(net, bias, number)
        halves = tuple(
            cut(net, both, axis=0, start=at * gates * size, end=(at + 1) * gates * size) for at in (0, 1)
        )
    late = call.attributes.get("linear_before_reset") == 1
    return _Direction(net, size, turned[0], turned[1], halves[0], halves[1], late)


def _begin(way: _Direction, call: Call, number: int, now: Tensor, *, states: int) -> list[Tensor]:
    """Return the states before the first step: zeros of the batch's size where they are left out or zero."""
    zeros = way.net.emit("Mul", way.gates(now, 0), scalar(0.0))
    state = []
    for place in (H, C)[:states]:
        given = call.operand(place)
        absent = given is None or (given.value is not None and not np.any(given.value))
        state.append(zeros if given is None or absent else _share(way.net, given, number))
    return state


def _run(
    net: Net, call: Call, *, gates: int, step: Callable[..., tuple[Tensor, ...]], states: int
) -> tuple[Tensor, ...]:
    """Unroll; return Y (steps, directions, batch, hidden) and the last states (directions, batch, hidden)."""
    ways, steps = _check(call, gates), call[X].shape[0]
    seen: list[list[Tensor]] = [[] for _ in range(steps)]
    last: list[list[Tensor]] = [[] for _ in range(states)]
    for number in range(ways):
        way = _direction(net, call, number, gates)
        projected = net.emit("MatMul", call[X], way.inputs)
        state: Sequence[Tensor] = ()
        backwards = call.text("direction") == "reverse" or number == 1
        for at in reversed(range(steps)) if backwards else range(steps):
            part = cut(net, projected, axis=0, start=at, end=at + 1)
            now = to_shape(net, part, part.shape[1:])
            state = step(way, now, state or _begin(way, call, number, now, states=states))
            seen[at].append(state[0])
        for ends, end in zip(last, state, strict=True):
            ends.append(end)
    sequence = _stacked(net, [_stacked(net, each) for each in seen])
    return (sequence, *(_stacked(net, ends) for ends in last))


def _stacked(net: Net, tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors one behind the other along a new first axis."""
    parts = [to_shape(net, each, (1, *each.shape)) for each in tensors]
    return net.emit("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def lstm(net: Net, call: Call) -> tuple[Tensor, ...]:
    """Unroll an LSTM; outputs Y, Y_h, Y_c."""
    return _run(net, call, gates=4, step=_lstm_step, states=2)


def gru(net: Net, call: Call) -> tuple[Tensor, ...]:
    """Unroll a GRU; outputs Y, Y_h."""
    return _run(net, call, gates=3, step=_gru_step, states=1)
