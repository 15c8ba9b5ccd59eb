"""How the guest's elementwise operators are taken apart into primitives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from chiron.graph.errors import Rule
from chiron.graph.known import FOLDED
from chiron.graph.lower_shape import spread_to
from chiron.graph.net import known
from chiron.graph.primitives import Kind
from chiron.graph.shapes import broadcast, need

if TYPE_CHECKING:
    from chiron.graph.net import Call, Net, Tensor

ROOT_OF_2_OVER_PI = math.sqrt(2 / math.pi)
MAX_INTEGER = 2.0**63


def scalar(value: float) -> Tensor:
    """Return a float32 constant."""
    return known(np.array(value, dtype=np.float32))


def plain(net: Net, call: Call) -> Tensor:
    """Emit the primitive of the same name, or fold it where all operands are known."""
    operands = [call[place] for place in range(len(call.operands))]
    values = [each.value for each in operands if each.value is not None]
    if len(values) == len(operands) and call.operator in FOLDED:
        spread = broadcast(*(each.shape for each in operands))
        result = FOLDED[call.operator](*values)
        return known(result, spread) if result.ndim == 0 else spread_to(net, known(result), spread)
    return net.emit(call.operator, *operands, **call.attributes)


def arithmetic(net: Net, call: Call) -> Tensor:
    """Compute with two tensors of one kind."""
    left, right = call[0], call[1]
    need(holds=left.kind is right.kind, text="operands are of two kinds: cast one", rule=Rule.OPERANDS)
    text = "integers do not divide here: cast them"
    known_sizes = left.value is not None and right.value is not None
    need(
        holds=call.operator != "Div" or left.kind is Kind.FLOAT or known_sizes, text=text, rule=Rule.OPERANDS
    )
    return plain(net, call)


def modulo(net: Net, call: Call) -> Tensor:
    """Return what is left of a division; by a computed 0, which would end the step, nothing is left."""
    left, right = call[0], call[1]
    if left.value is not None and right.value is not None:
        return plain(net, call)
    if right.value is None:
        one, zero = (known(np.array(number, np.int64)) for number in (1, 0))
        right = net.emit("Where", net.emit("Equal", right, zero), one, right)
    else:
        holds = right.value.dtype != object and bool(np.all(right.value != 0))
        need(holds=holds, text="it divides by zero, or by the batch")
    return net.emit("Mod", left, right)


def added(net: Net, call: Call) -> Tensor:
    """Add any number of tensors."""
    total = call[0]
    for place in range(1, len(call.operands)):
        total = net.emit("Add", total, call[place])
    return total if len(call.operands) > 1 else net.emit("Mul", total, scalar(1.0))


def where(net: Net, call: Call) -> Tensor:
    """Choose by a condition between two of one kind."""
    same = call[1].kind is call[2].kind
    need(holds=same, text="operands are of two kinds: cast one", rule=Rule.OPERANDS)
    return plain(net, call)


def cast(net: Net, call: Call) -> Tensor:
    """Change between float32, int64 and bool. A float becomes an integer by cutting its fraction off."""
    kinds = {1: Kind.FLOAT, 7: Kind.INT, 6: Kind.INT, 9: Kind.BOOL}
    return _to_kind(net, call[0], kinds[call.integer("to")])


def cast_like(net: Net, call: Call) -> Tensor:
    """Change into another tensor's kind."""
    return _to_kind(net, call[0], call[1].kind)


def _to_kind(net: Net, tensor: Tensor, target: Kind) -> Tensor:
    if tensor.value is not None:
        kinds = {Kind.FLOAT: np.float32, Kind.INT: np.int64, Kind.BOOL: np.bool_}
        if tensor.value.dtype == object:
            text = "it takes the batch size as a number: export the network with plain shapes"
            need(holds=target is Kind.INT, text=text, rule=Rule.ROWS)
            return tensor
        if target is Kind.INT and tensor.kind is Kind.FLOAT:
            text = "it makes integers of 64 bits of larger numbers: bound them before"
            need(holds=bool(np.all(np.abs(tensor.value) < MAX_INTEGER)), text=text, rule=Rule.FINITE)
        return known(tensor.value.astype(kinds[target]), tensor.shape)
    if target is tensor.kind:
        return tensor
    if target is Kind.BOOL:
        zero = np.zeros((), np.float32 if tensor.kind is Kind.FLOAT else np.int64)
        return net.emit("Not", net.emit("Equal", tensor, known(zero)))
    return net.emit("ToFloat" if target is Kind.FLOAT else "ToInt", tensor)


def power(net: Net, call: Call) -> Tensor:
    """Raise to a constant power."""
    base, exponent = call[0], call.value(1)
    assert_one = exponent is not None and exponent.size == 1 and exponent.dtype != object
    need(holds=assert_one, text="the exponent must be one constant", rule=Rule.OPERANDS)
    if base.value is not None:
        return plain(net, call)
    need(holds=base.kind is Kind.FLOAT, text="the base must be float32: cast it", rule=Rule.OPERANDS)
    number = float(np.asarray(exponent).reshape(()))
    text = "the exponent must be a number from -16 to 16"
    need(holds=abs(number) <= 16, text=text, rule=Rule.OPERANDS)  # noqa: PLR2004
    match number:
        case 0.5:
            return net.emit("Sqrt", base)
        case 1.0:
            return base
        case 2.0:
            return net.emit("Mul", base, base)
        case _:
            return net.emit("Power", base, exponent=number)


def reciprocal(net: Net, call: Call) -> Tensor:
    """1 / a."""
    return net.emit("Div", scalar(1.0), call[0])


def clip(net: Net, call: Call) -> Tensor:
    """Bound by constants; a bound that is left out is the kind's own."""
    tensor = call[0]
    wide = float(np.finfo(np.float32).max) if tensor.kind is Kind.FLOAT else 1 << 62
    bounds: list[float | int] = []
    for place, default in ((1, -wide), (2, wide)):
        value = call.value(place)
        alike = value is None or (call[place].kind is tensor.kind and value.dtype != object)
        holds = value is None or (alike and value.size == 1 and not np.isnan(value).any())
        need(holds=holds, text="a bound must be one number, of the rows' kind", rule=Rule.OPERANDS)
        number = default if value is None else value.reshape(()).item()
        bounds.append(min(max(number, -wide), wide))
    return net.emit("Clip", tensor, low=bounds[0], high=bounds[1])


def least(net: Net, call: Call) -> Tensor:
    """Take the smaller of two: a - relu(a - b)."""
    first, second = _rows_first(call)
    return net.emit("Sub", first, net.emit("Relu", net.emit("Sub", first, second)))


def most(net: Net, call: Call) -> Tensor:
    """Take the larger of two: a + relu(b - a)."""
    first, second = _rows_first(call)
    return net.emit("Add", first, net.emit("Relu", net.emit("Sub", second, first)))


def _rows_first(call: Call) -> tuple[Tensor, Tensor]:
    """Return two operands, a constant behind: one that is infinite leaves the other as it is."""
    return (call[1], call[0]) if call[0].value is not None else (call[0], call[1])


def hard_sigmoid(net: Net, call: Call) -> Tensor:
    """min(max(alpha a + beta, 0), 1)."""
    return _hard_sigmoid(net, call[0], alpha=call.number("alpha"), beta=call.number("beta"))


def _hard_sigmoid(net: Net, tensor: Tensor, *, alpha: float, beta: float) -> Tensor:
    line = net.emit("Add", net.emit("Mul", tensor, scalar(alpha)), scalar(beta))
    return net.emit("Clip", line, low=0.0, high=1.0)


def hard_swish(net: Net, call: Call) -> Tensor:
    """A min(max(a / 6 + 1 / 2, 0), 1)."""
    return net.emit("Mul", call[0], _hard_sigmoid(net, call[0], alpha=1 / 6, beta=0.5))


def softplus(net: Net, call: Call) -> Tensor:
    """log(1 + exp(a)), without overflow."""
    bent = net.emit("Exp", net.emit("Neg", net.emit("Abs", call[0])))
    return net.emit("Add", net.emit("Relu", call[0]), net.emit("Log", net.emit("Add", bent, scalar(1.0))))


def _negative_part(net: Net, tensor: Tensor) -> Tensor:
    """min(a, 0)."""
    return net.emit("Neg", net.emit("Relu", net.emit("Neg", tensor)))


def elu(net: Net, call: Call) -> Tensor:
    """A where positive, else alpha (exp(a) - 1)."""
    below = _negative_part(net, call[0])
    bent = net.emit("Sub", net.emit("Exp", below), scalar(1.0))
    return net.emit("Add", net.emit("Relu", call[0]), net.emit("Mul", bent, scalar(call.number("alpha"))))


def selu(net: Net, call: Call) -> Tensor:
    """Gamma times Elu."""
    return net.emit("Mul", elu(net, call), scalar(call.number("gamma")))


def prelu(net: Net, call: Call) -> Tensor:
    """A where positive, else a times a slope that is trained."""
    below = _negative_part(net, call[0])
    return net.emit("Add", net.emit("Relu", call[0]), net.emit("Mul", below, call[1]))


def gelu(net: Net, call: Call) -> Tensor:
    """A times the normal distribution's share below it, or the approximation of that.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, arXiv 1606.08415, section 2.
    """
    tensor = call[0]
    if call.text("approximate") == "tanh":
        cube = net.emit("Mul", net.emit("Mul", tensor, tensor), tensor)
        inner = net.emit("Add", tensor, net.emit("Mul", cube, scalar(0.044715)))
        bent = net.emit("Tanh", net.emit("Mul", inner, scalar(ROOT_OF_2_OVER_PI)))
    else:
        bent = net.emit("Erf", net.emit("Mul", tensor, scalar(math.sqrt(0.5))))
    half = net.emit("Mul", tensor, scalar(0.5))
    return net.emit("Mul", half, net.emit("Add", bent, scalar(1.0)))


def swish(net: Net, call: Call) -> Tensor:
    """A sigmoid(alpha a)."""
    inner = net.emit("Mul", call[0], scalar(call.number("alpha")))
    return net.emit("Mul", call[0], net.emit("Sigmoid", inner))


def mish(net: Net, call: Call) -> Tensor:
    """A tanh(softplus(a))."""
    return net.emit("Mul", call[0], net.emit("Tanh", softplus(net, call)))


def dropout(net: Net, call: Call) -> Tensor:
    """Drop values at random in training: the mask is the trusted code's, from the job's seed."""
    ratio = call.value(1)
    holds = ratio is None or (
        ratio.size == 1 and ratio.dtype.kind == "f" and 0 <= float(ratio.reshape(())) < 1
    )
    need(holds=holds, text="the ratio must be a number from 0 to less than 1", rule=Rule.OPERANDS)
    share = 0.5 if ratio is None else float(ratio.reshape(()))
    call.value(2)
    return net.emit("Dropout", call[0], ratio=share)
