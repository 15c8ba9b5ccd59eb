"""LSTM and GRU, unrolled over their steps into products and activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.errors import Rule
from chiron.graph.lower_elementwise import scalar
from chiron.graph.lower_shape import cut, to_shape
from chiron.graph.shapes import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from chiron.graph.net import Call, Net, Tensor

MAX_STEPS = 512
State = tuple["Tensor | None", ...]


def _part(net: Net, tensor: Tensor, axis: int, at: int, count: int) -> Tensor:
    return cut(net, tensor, axis=axis, start=at, end=at + count)


def _direction(net: Net, call: Call, place: int, number: int) -> Tensor | None:
    """Return one direction's share of weights or state, None where it is left out or all zeros."""
    tensor = call.operand(place)
    if tensor is None or (tensor.value is not None and not np.any(tensor.value)):
        return None
    if len(tensor.shape) < 2:  # noqa: PLR2004
        need(holds=False, text=f"input {place} has too few axes")
    share = _part(net, tensor, 0, number, 1)
    return to_shape(net, share, share.shape[1:])


def _check(call: Call, gates: int) -> int:
    """Return the number of directions; steps first, the batch second, nothing optional but states."""
    shape, hidden = call[0].shape, call.integer("hidden_size")
    need(holds=len(shape) == 3 and shape[1] < 0, text="rows must be (steps, batch, values)")  # noqa: PLR2004
    need(holds=shape[0] <= MAX_STEPS, text=f"{shape[0]} steps are over {MAX_STEPS}: shorten them")
    ways = 2 if call.text("direction") == "bidirectional" else 1
    wanted = [(ways, gates * hidden, shape[2]), (ways, gates * hidden, hidden)]
    need(holds=[call[1].shape, call[2].shape] == wanted, text="W and R do not fit rows and hidden_size")
    bias = call.operand(3)
    holds = bias is None or bias.shape == (ways, 2 * gates * hidden)
    need(holds=holds, text="B does not fit hidden_size")
    for place in (4, 7):
        text = "sequence lengths and peepholes are not admitted: leave them out"
        need(holds=call.operand(place) is None, text=text, rule=Rule.OPERANDS)
    return ways


def _run(
    net: Net, call: Call, *, gates: int, step: Callable[..., tuple[Tensor, State]], states: int
) -> tuple[Tensor, ...]:
    """Unroll; return Y (steps, directions, batch, hidden) and the last states (directions, batch, hidden)."""
    ways = _check(call, gates)
    outputs, last = [], []
    for way in range(ways):
        backwards = call.text("direction") == "reverse" or way == 1
        state: State = tuple(_direction(net, call, 5 + i, way) for i in range(states))
        seen, state = _one_way(net, call, way=way, state=state, backwards=backwards, step=step)
        outputs.append(seen)
        last.append(state)
    both = [
        net.emit("Concat", *[_lead(net, each[t]) for each in outputs], axis=0)
        if ways > 1
        else _lead(net, outputs[0][t])
        for t in range(call[0].shape[0])
    ]
    every = [to_shape(net, each, (1, *each.shape)) for each in both]
    sequence = net.emit("Concat", *every, axis=0) if len(every) > 1 else every[0]
    ends = []
    for i in range(states):
        parts = [_lead(net, state[i]) for state in last if state[i] is not None]
        ends.append(net.emit("Concat", *parts, axis=0) if ways > 1 else parts[0])
    return (sequence, *ends)


def _lead(net: Net, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError("a state after a step is known")
    return to_shape(net, tensor, (1, *tensor.shape))


def _one_way(
    net: Net,
    call: Call,
    *,
    way: int,
    state: State,
    backwards: bool,
    step: Callable[..., tuple[Tensor, State]],
) -> tuple[list[Tensor], State]:
    rows = call[0]
    inputs, recurrent, bias = (_direction(net, call, place, way) for place in (1, 2, 3))
    if inputs is None or recurrent is None:
        need(holds=False, text="W and R must be trained", rule=Rule.OPERANDS)
        raise AssertionError
    projected = net.emit("MatMul", rows, net.emit("Transpose", inputs, perm=(1, 0)))
    turned = net.emit("Transpose", recurrent, perm=(1, 0))
    steps = rows.shape[0]
    seen: list[Tensor] = []
    for at in reversed(range(steps)) if backwards else range(steps):
        part = _part(net, projected, 0, at, 1)
        now = to_shape(net, part, part.shape[1:])
        hidden, state = step(net, now, state, turned, bias, call)
        seen.append(hidden)
    return (seen[::-1] if backwards else seen), state


def _plus(net: Net, left: Tensor, right: Tensor | None) -> Tensor:
    return left if right is None else net.emit("Add", left, right)


def _lstm_step(
    net: Net, now: Tensor, state: State, turned: Tensor, bias: Tensor | None, call: Call
) -> tuple[Tensor, State]:
    """Source: ONNX specification, LSTM, equations (default: f=Sigmoid, g=Tanh, h=Tanh); gates i o f c."""
    size = call.integer("hidden_size")
    hidden, cell = state
    if bias is not None:
        now = _plus(
            net,
            now,
            net.emit("Add", _part(net, bias, 0, 0, 4 * size), _part(net, bias, 0, 4 * size, 4 * size)),
        )
    if hidden is not None:
        now = net.emit("Add", now, net.emit("MatMul", hidden, turned))
    gates = net.emit("Sigmoid", _part(net, now, 1, 0, 3 * size))
    into, out, keep = (_part(net, gates, 1, i * size, size) for i in range(3))
    fresh = net.emit("Mul", into, net.emit("Tanh", _part(net, now, 1, 3 * size, size)))
    cell = fresh if cell is None else net.emit("Add", net.emit("Mul", keep, cell), fresh)
    hidden = net.emit("Mul", out, net.emit("Tanh", cell))
    return hidden, (hidden, cell)


def _gru_step(
    net: Net, now: Tensor, state: State, turned: Tensor, bias: Tensor | None, call: Call
) -> tuple[Tensor, State]:
    """Source: ONNX specification, GRU, equations (default: f=Sigmoid, g=Tanh); gates z r h."""
    size = call.integer("hidden_size")
    (hidden,) = state
    own = other = None
    if bias is not None:
        own, other = _part(net, bias, 0, 0, 3 * size), _part(net, bias, 0, 3 * size, 3 * size)
    now = _plus(net, now, own)
    late = call.integer("linear_before_reset") == 1
    if hidden is None:
        gates = _plus(
            net, _part(net, now, 1, 0, 2 * size), None if other is None else _part(net, other, 0, 0, 2 * size)
        )
    else:
        product = _plus(
            net,
            net.emit("MatMul", hidden, _part(net, turned, 1, 0, 2 * size)),
            None if other is None else _part(net, other, 0, 0, 2 * size),
        )
        gates = net.emit("Add", _part(net, now, 1, 0, 2 * size), product)
    gates = net.emit("Sigmoid", gates)
    update, reset = _part(net, gates, 1, 0, size), _part(net, gates, 1, size, size)
    recurrent = _part(net, turned, 1, 2 * size, size)
    extra = None if other is None else _part(net, other, 0, 2 * size, size)
    if hidden is None:
        pull = None if extra is None else net.emit("Mul", reset, extra) if late else extra
    elif late:
        pull = net.emit("Mul", reset, _plus(net, net.emit("MatMul", hidden, recurrent), extra))
    else:
        pull = _plus(net, net.emit("MatMul", net.emit("Mul", reset, hidden), recurrent), extra)
    fresh = net.emit("Tanh", _plus(net, _part(net, now, 1, 2 * size, size), pull))
    rest = net.emit("Mul", net.emit("Sub", scalar(1.0), update), fresh)
    result = rest if hidden is None else net.emit("Add", rest, net.emit("Mul", update, hidden))
    return result, (result,)


def lstm(net: Net, call: Call) -> tuple[Tensor, ...]:
    """Unroll an LSTM; outputs Y, Y_h, Y_c."""
    return _run(net, call, gates=4, step=_lstm_step, states=2)


def gru(net: Net, call: Call) -> tuple[Tensor, ...]:
    """Unroll a GRU; outputs Y, Y_h."""
    return _run(net, call, gates=3, step=_gru_step, states=1)
