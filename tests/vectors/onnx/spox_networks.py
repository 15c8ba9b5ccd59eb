"""Networks written out of ONNX's operators with Spox.

Its public interface makes weights nodes (Constant); `conv_net` has initializers, by a private function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, Var, argument, build
from spox._graph import initializer

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray


class Weights:
    """Draws weights, evenly, with He's variance."""

    def __init__(self, make: Callable[[NDArray[np.float32]], Var]) -> None:
        self.random, self.make = np.random.default_rng(0), make

    def __call__(self, *shape: int, fan: int) -> Var:
        bound = (6 / fan) ** 0.5
        return self.make(self.random.uniform(-bound, bound, shape).astype(np.float32))

    def same(self, value: float, *shape: int) -> Var:
        return self.make(np.full(shape, value, dtype=np.float32))


def ints(*values: int) -> Var:
    return op.const(np.array(values, dtype=np.int64))


def finished(x: Var, logits: Var) -> onnx.ModelProto:
    model: onnx.ModelProto = build({"x": x}, {"logits": logits})
    return model


def perceptron() -> onnx.ModelProto:
    weights = Weights(op.const)
    x = argument(Tensor(np.float32, ("N", 16)))
    h = op.relu(op.gemm(x, weights(16, 64, fan=16), weights.same(0.01, 64)))
    h = op.tanh(op.add(op.matmul(h, weights(64, 32, fan=64)), weights.same(0.01, 32)))
    return finished(x, op.gemm(h, weights(32, 3, fan=32), weights.same(0.0, 3)))


def conv_net() -> onnx.ModelProto:
    weights = Weights(initializer)
    x = argument(Tensor(np.float32, ("N", 1, 28, 28)))
    h = op.conv(x, weights(16, 1, 3, 3, fan=9), pads=[1, 1, 1, 1], strides=[2, 2])
    ones, zeros = weights.same(1.0, 16), weights.same(0.0, 16)
    h, _, _ = op.batch_normalization(
        h, ones, zeros, weights.same(0.0, 16), weights.same(1.0, 16), training_mode=1
    )
    h = op.max_pool(op.relu(h), kernel_shape=[2, 2], strides=[2, 2])[0]
    h = op.conv(h, weights(32, 16, 3, 3, fan=144), weights.same(0.01, 32), pads=[1, 1, 1, 1])
    h = op.flatten(op.global_average_pool(op.hard_swish(h)))
    h, _ = op.dropout(h, op.const(np.float32(0.25)), op.const(np.ones((), dtype=bool)))
    return finished(x, op.gemm(h, weights(10, 32, fan=32), transB=1))


def attention() -> onnx.ModelProto:
    weights = Weights(op.const)
    width, heads, length = 32, 4, 16
    x = argument(Tensor(np.int64, ("N", length)))
    h = op.add(op.gather(weights(500, width, fan=6), x), weights(1, length, width, fan=6))
    parts = []
    for _ in range(3):
        part = op.reshape(op.matmul(h, weights(width, width, fan=2 * width)), ints(0, length, heads, -1))
        parts.append(op.transpose(part, perm=[0, 2, 1, 3]))
    scores = op.matmul(parts[0], op.transpose(parts[1], perm=[0, 1, 3, 2]))
    scores = op.softmax(op.mul(scores, op.const(np.float32((width // heads) ** -0.5))), axis=-1)
    mixed = op.transpose(op.matmul(scores, parts[2]), perm=[0, 2, 1, 3])
    h = op.add(h, op.matmul(op.reshape(mixed, ints(0, length, width)), weights(width, width, fan=width)))
    h, _, _ = op.layer_normalization(h, weights.same(1.0, width), weights.same(0.0, width), axis=-1)
    h = op.reduce_mean(h, ints(1), keepdims=0)
    return finished(x, op.matmul(h, weights(width, 4, fan=width)))


SPOX = {"conv_net": conv_net, "perceptron": perceptron, "attention": attention}
