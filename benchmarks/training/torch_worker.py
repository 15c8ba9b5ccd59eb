"""`python -m benchmarks.training.torch_worker NET BATCH THREADS MODE LAYOUT HOW`: PyTorch's side.

MODE is train or infer, LAYOUT contiguous or channels-last, HOW eager or compile. It runs in an environment of
its own that has PyTorch and nothing of this project but benchmarks.training.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.training.nets import NETS, Average, Conv, Dense, Flatten, Pool, Relu, Residual
from benchmarks.training.worker import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.training.nets import Layer, Net

EPSILON, PLANES = 1e-5, 3


class Sum(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
    """Relu of two branches' sum."""

    def __init__(self, inner: nn.Module, short: nn.Module) -> None:
        super().__init__()
        self.inner, self.short = inner, short

    def forward(self, x: Any) -> Any:  # noqa: ANN401  PyTorch is not typed here
        """Add and cut off."""
        return torch.relu(self.inner(x) + self.short(x))


def module(layer: Layer) -> nn.Module:  # noqa: PLR0911  a case for each kind of layer
    """Return PyTorch's module for a layer."""
    match layer:
        case Conv():
            conv = nn.Conv2d(
                layer.ins, layer.outs, layer.kernel, layer.stride, layer.pad, bias=not layer.norm
            )
            return nn.Sequential(conv, nn.BatchNorm2d(layer.outs, eps=EPSILON)) if layer.norm else conv
        case Relu():
            return nn.ReLU()
        case Pool(kernel, stride):
            return nn.MaxPool2d(kernel, stride)
        case Average():
            return nn.AdaptiveAvgPool2d(1)
        case Flatten():
            return nn.Flatten()
        case Dense(ins, outs):
            return nn.Linear(ins, outs)
        case Residual(inner, short):
            return Sum(sequence(inner), sequence(short))


def sequence(layers: Sequence[Layer]) -> nn.Module:
    """Return PyTorch's module for layers in a row."""
    return nn.Sequential(*map(module, layers))


def step_of(net: Net, *, batch: int, training: bool, layout: str, compiled: bool) -> Callable[[], float]:
    """Return what runs one step on random rows."""
    torch.manual_seed(0)
    model: Any = sequence(net.layers)
    x, y = torch.randn(batch, *net.shape), torch.randint(0, net.classes, (batch,))
    if layout == "channels-last" and len(net.shape) == PLANES:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    model.train(training)
    call = torch.compile(model) if compiled else model

    def train() -> float:
        model.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(call(x), y)
        loss.backward()
        return float(loss.detach())

    def infer() -> float:
        with torch.inference_mode():
            return float(torch.softmax(call(x), 1)[0, 0])

    return train if training else infer


if __name__ == "__main__":
    name, rows, threads, mode, layout, how = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.set_num_interop_threads(1)
    made = step_of(
        NETS[name], batch=int(rows), training=mode == "train", layout=layout, compiled=how == "compile"
    )
    serve(made)
