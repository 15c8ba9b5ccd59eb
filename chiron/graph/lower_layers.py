"""How the guest's products, reductions and windows are taken apart into primitives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiron.graph.errors import Rule
from chiron.graph.known import integers
from chiron.graph.lower_elementwise import scalar
from chiron.graph.lower_shape import to_shape
from chiron.graph.shapes import inner_axes, need, normal_axis, volume

if TYPE_CHECKING:
    from chiron.graph.admitted import AttributeValue, Shape
    from chiron.graph.net import Call, Net, Tensor

PLANE, LINE = 4, 3  # ranks of images and of sequences, batch and channels included


def matmul(net: Net, call: Call) -> Tensor:
    """Multiply; a vector counts as a matrix of one row or column."""
    left, right = call[0], call[1]
    ranks = len(left.shape), len(right.shape)
    if ranks[0] == 1:
        left = to_shape(net, left, (1, *left.shape))
    if ranks[1] == 1:
        right = to_shape(net, right, (*right.shape, 1))
    result = net.emit("MatMul", left, right)
    if ranks[0] == 1:
        result = to_shape(net, result, (*result.shape[:-2], result.shape[-1]))
    return to_shape(net, result, result.shape[:-1]) if ranks[1] == 1 else result


def gemm(net: Net, call: Call) -> Tensor:
    """Alpha A B + beta C, A and B perhaps transposed."""
    left, right, bias = call[0], call[1], call.operand(2)
    alpha, beta = call.number("alpha"), call.number("beta")
    matrices = len(left.shape) == len(right.shape) == 2  # noqa: PLR2004
    need(holds=matrices, text="Gemm multiplies matrices: flatten the rows first")
    if call.integer("transA"):
        left = net.emit("Transpose", left, perm=(1, 0))
    if alpha != 1:
        right = net.emit("Mul", right, scalar(alpha))
    if bias is not None and beta != 1:
        bias = net.emit("Mul", bias, scalar(beta))
    others = [] if bias is None else [bias]
    return net.emit("Gemm", left, right, *others, transB=call.integer("transB"))


def _axes(call: Call) -> tuple[int, ...]:
    """Return the axes to reduce, from the operand or the attribute; all where none are given."""
    rank = len(call[0].shape)
    value = call.value(1)
    given = call.attributes.get("axes") if value is None else integers(value)
    if not isinstance(given, tuple) or not given:
        given = () if call.integer("noop_with_empty_axes") else tuple(range(rank))
    return inner_axes(given, call[0].shape)


def reduce(net: Net, call: Call) -> Tensor:
    """Reduce axes that are not the batch's, by the primitive of the same name."""
    axes = _axes(call)
    if not axes:
        return net.emit("Mul", call[0], scalar(1.0))
    return net.emit(call.operator, call[0], axes=axes, keepdims=call.integer("keepdims"))


def reduce_l2(net: Net, call: Call) -> Tensor:
    """The root of the sum of squares."""
    axes, total = _axes(call), net.emit("Mul", call[0], call[0])
    if axes:
        total = net.emit("ReduceSum", total, axes=axes, keepdims=call.integer("keepdims"))
    return net.emit("Sqrt", total)


def softmax(net: Net, call: Call) -> Tensor:
    """Share out along one axis that is not the batch's."""
    (axis,) = inner_axes([call.integer("axis")], call[0].shape)
    return net.emit(call.operator, call[0], axis=axis)


def _as_plane(net: Net, tensor: Tensor) -> Tensor:
    """Return a sequence as an image of height 1."""
    return (
        to_shape(net, tensor, (*tensor.shape[:2], 1, *tensor.shape[2:]))
        if len(tensor.shape) == LINE
        else tensor
    )


def _from_plane(net: Net, tensor: Tensor, rank: int) -> Tensor:
    return to_shape(net, tensor, (*tensor.shape[:2], *tensor.shape[3:])) if rank == LINE else tensor


def _listed(call: Call, name: str, *, axes: int, default: int, ends: int = 1) -> tuple[int, ...]:
    """Return a list attribute for planes; a sequence has no extent in height."""
    value = call.attributes.get(name)
    given = value if isinstance(value, tuple) else (default,) * (axes * ends)
    text = f"attribute {name!r} must have {axes * ends} entries"
    need(holds=len(given) == axes * ends, text=text, rule=Rule.ATTRIBUTE)
    neutral = 0 if name in {"pads", "output_padding"} else 1
    if axes == 2:  # noqa: PLR2004
        return given
    return tuple(entry for each in given for entry in (neutral, each))


def _window(call: Call, image: Shape, kernel: Shape) -> dict[str, AttributeValue]:
    """Return strides, pads and dilations of a window over a plane; `kernel` and `image` are planes' sizes."""
    axes = len(call[0].shape) - 2
    strides = _listed(call, "strides", axes=axes, default=1)
    dilations = _listed(call, "dilations", axes=axes, default=1)
    pads = _listed(call, "pads", axes=axes, default=0, ends=2)
    mode = call.text("auto_pad")
    if mode != "NOTSET":
        need(holds=not any(pads), text="pads and auto_pad exclude each other", rule=Rule.ATTRIBUTE)
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        total = [
            max(
                (-(-image[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - image[i],
                0,
            )
            for i in (0, 1)
        ]
        small = tuple(each // 2 for each in total)
        large = tuple(each - each // 2 for each in total)
        pads = (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _plane(net: Net, call: Call) -> Tensor:
    shape = call[0].shape
    fits = len(shape) in {LINE, PLANE} and shape[0] < 0 and min(shape[1:]) > 0
    text = f"rows must be (channels, length) or (channels, height, width), not {list(shape[1:])}"
    need(holds=fits, text=text)
    return _as_plane(net, call[0])


def conv(net: Net, call: Call) -> Tensor:
    """Slide a kernel (out, in / group, ...) over images or sequences."""
    image, weights, rank = _plane(net, call), _kernel(net, call), len(call[0].shape)
    window = _window(call, image.shape[2:], weights.shape[2:])
    operands = [image, weights, *_bias(call, weights.shape[0])]
    group, kernel = call.integer("group"), weights.shape[2:]
    return _from_plane(net, net.emit("Conv", *operands, kernel_shape=kernel, group=group, **window), rank)


def _kernel(net: Net, call: Call) -> Tensor:
    """Return a kernel for planes."""
    rank, weights = len(call[0].shape), call[1]
    need(holds=len(weights.shape) == rank, text=f"the weights must have rank {rank}, like the rows")
    given, own = call.attributes.get("kernel_shape", weights.shape[2:]), weights.shape[2:]
    need(holds=given == own, text=f"kernel_shape must be the weights' {list(own)}")
    return _as_plane(net, weights)


def _bias(call: Call, channels: int) -> list[Tensor]:
    bias = call.operand(2)
    if bias is None:
        return []
    need(
        holds=bias.shape == (channels,), text=f"the bias must have shape {[channels]}, not {list(bias.shape)}"
    )
    return [bias]


def conv_transpose(net: Net, call: Call) -> Tensor:
    """Spread images or sequences with a kernel (in, out / group, ...)."""
    image, weights, rank = _plane(net, call), _kernel(net, call), len(call[0].shape)
    window = _window(call, (1, 1), (1, 1))
    extra = _listed(call, "output_padding", axes=rank - 2, default=0)
    strides = window["strides"]
    fits = isinstance(strides, tuple) and all(e < s for e, s in zip(extra, strides, strict=True))
    need(holds=fits, text="output_padding must be below the strides", rule=Rule.ATTRIBUTE)
    group, kernel = call.integer("group"), weights.shape[2:]
    operands = [image, weights, *_bias(call, weights.shape[1] * group)]
    result = net.emit(
        "ConvTranspose", *operands, kernel_shape=kernel, group=group, output_padding=extra, **window
    )
    return _from_plane(net, result, rank)


def pool(net: Net, call: Call) -> Tensor:
    """Slide a window over images or sequences; the operator says what it keeps of what it sees."""
    image, rank = _plane(net, call), len(call[0].shape)
    kernel = _listed(call, "kernel_shape", axes=rank - 2, default=1)
    window = _window(call, image.shape[2:], kernel)
    kept = {
        name: call.attributes[name] for name in ("ceil_mode", "count_include_pad") if name in call.attributes
    }
    plain = call.operator == "MaxPool" or window["dilations"] == (1, 1)
    need(holds=plain, text="an average's window has no gaps", rule=Rule.ATTRIBUTE)
    result = net.emit(call.operator, image, kernel_shape=kernel, **window, **kept)
    return _from_plane(net, result, rank)


def global_pool(net: Net, call: Call) -> Tensor:
    """Keep channels alone."""
    rank = len(_plane(net, call).shape) if len(call[0].shape) == PLANE else len(call[0].shape)
    axes = inner_axes(range(2, rank), call[0].shape)
    need(holds=bool(axes), text="there is nothing behind the channels")
    operator = "ReduceMean" if call.operator == "GlobalAveragePool" else "ReduceMax"
    return net.emit(operator, call[0], axes=axes, keepdims=1)


def batch_normalization(net: Net, call: Call) -> Tensor:
    """Normalise each channel: in training mode with the batch's statistics, else with fixed ones."""
    rows, scale, bias = call[0], call[1], call[2]
    need(holds=len(rows.shape) > 1 and rows.shape[0] < 0, text="the batch must be in front", rule=Rule.ROWS)
    channels = rows.shape[1:2]
    fits = all(call[place].shape == channels > (0,) for place in (1, 2, 3, 4))
    need(holds=fits, text=f"scale, bias, mean and variance must have shape {list(channels)}")
    mean, variance = net.untrained(call[3]), net.untrained(call[4])
    holds = bool((net.values_of(variance) >= 0).all())
    need(holds=holds, text="a variance is below 0", rule=Rule.FINITE)
    mode = int(call.trains_statistics or call.integer("training_mode"))
    told = {"epsilon": call.number("epsilon"), "training_mode": mode}
    return net.emit("BatchNormalization", rows, scale, bias, mean, variance, **told)


def _scaled(net: Net, rows: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Multiply and add parameters that broadcast."""
    if scale is not None:
        rows = net.emit("Mul", rows, scale)
    return rows if bias is None else net.emit("Add", rows, bias)


def layer_normalization(net: Net, call: Call) -> Tensor:
    """Normalise each row over its last axes."""
    rank = len(call[0].shape)
    axes = inner_axes(range(normal_axis(call.integer("axis"), rank), rank), call[0].shape)
    rows = net.emit("Normalize", call[0], axes=axes, epsilon=call.number("epsilon"))
    return _scaled(net, rows, call[1], call.operand(2))


def rms_normalization(net: Net, call: Call) -> Tensor:
    """Divide each row by the root of its mean square.

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv 1910.07467.
    """
    rank = len(call[0].shape)
    axes = inner_axes(range(normal_axis(call.integer("axis"), rank), rank), call[0].shape)
    square = net.emit("ReduceMean", net.emit("Mul", call[0], call[0]), axes=axes, keepdims=1)
    root = net.emit("Sqrt", net.emit("Add", square, scalar(call.number("epsilon"))))
    return net.emit("Mul", net.emit("Div", call[0], root), call[1])


def _channelled(net: Net, tensor: Tensor, rank: int) -> Tensor:
    return to_shape(net, tensor, (*tensor.shape, *(1,) * (rank - 2)))


def instance_normalization(net: Net, call: Call) -> Tensor:
    """Normalise each channel of each row."""
    rank = len(call[0].shape)
    need(holds=rank > 2 and call[0].shape[1] == volume(call[1].shape), text="scale must be one a channel")  # noqa: PLR2004
    axes = inner_axes(range(2, rank), call[0].shape)
    rows = net.emit("Normalize", call[0], axes=axes, epsilon=call.number("epsilon"))
    return _scaled(net, rows, _channelled(net, call[1], rank), _channelled(net, call[2], rank))


def group_normalization(net: Net, call: Call) -> Tensor:
    """Normalise groups of channels of each row."""
    shape, groups = call[0].shape, call.integer("num_groups")
    fits = len(shape) > 2 and shape[1] % groups == 0 and call[1].shape == shape[1:2]  # noqa: PLR2004
    need(holds=fits, text="groups must divide the channels, scale must be one a channel")
    apart = to_shape(net, call[0], (shape[0], groups, volume(shape[1:]) // groups))
    rows = net.emit("Normalize", apart, axes=(2,), epsilon=call.number("epsilon"))
    rows = to_shape(net, rows, shape)
    return _scaled(net, rows, _channelled(net, call[1], len(shape)), _channelled(net, call[2], len(shape)))
