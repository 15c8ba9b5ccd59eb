"""The networks that are timed, as lists of layers; both engines build theirs from these."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Conv:
    """A square kernel over `ins` channels; with `norm`, BatchNorm stands in the bias's place."""

    ins: int
    outs: int
    kernel: int
    pad: int
    stride: int = 1
    norm: bool = False


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The maximum of a square window."""

    kernel: int
    stride: int


@dataclass(frozen=True, slots=True)
class Average:
    """The mean of each channel."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """One dimension a row."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A matrix and a bias."""

    ins: int
    outs: int


@dataclass(frozen=True, slots=True)
class Residual:
    """`inner`, plus what went in, through `short` where its shape differs; then Relu."""

    inner: tuple[Layer, ...]
    short: tuple[Layer, ...] = ()


Layer = Conv | Relu | Pool | Average | Flatten | Dense | Residual


@dataclass(frozen=True, slots=True)
class Net:
    """A network: `layers` take rows of `shape` to `classes` logits."""

    shape: tuple[int, ...]
    classes: int
    layers: tuple[Layer, ...]


def _dense(*sizes: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for ins, outs in pairwise(sizes):
        layers += [Dense(ins, outs), Relu()]
    return tuple(layers[:-1])


def _vgg9(*, norm: bool) -> Net:
    layers: list[Layer] = []
    ins = 3
    for outs in (32, 64, 0, 128, 128, 0, 256, 256, 0):
        layers += [Conv(ins, outs, 3, 1, norm=norm), Relu()] if outs else [Pool(2, 2)]
        ins = outs or ins
    return Net((3, 32, 32), 10, (*layers, Flatten(), *_dense(4096, 512, 512, 10)))


def _lenet() -> Net:
    convolutions = (Conv(1, 20, 5, 2), Relu(), Pool(2, 2), Conv(20, 50, 5, 2), Relu(), Pool(2, 2))
    return Net((1, 28, 28), 10, (*convolutions, Flatten(), *_dense(2450, 500, 10)))


def _resnet20() -> Net:
    layers: list[Layer] = [Conv(3, 16, 3, 1, norm=True), Relu()]
    ins = 16
    for outs in (16, 16, 16, 32, 32, 32, 64, 64, 64):
        stride = 1 if outs == ins else 2
        inner = (Conv(ins, outs, 3, 1, stride, norm=True), Relu(), Conv(outs, outs, 3, 1, norm=True))
        layers.append(Residual(inner, () if outs == ins else (Conv(ins, outs, 1, 0, stride, norm=True),)))
        ins = outs
    return Net((3, 32, 32), 10, (*layers, Average(), Flatten(), Dense(64, 10)))


def _alexnet() -> Net:
    layers: list[Layer] = [Conv(3, 64, 11, 2, 4), Relu(), Pool(3, 2), Conv(64, 192, 5, 2), Relu(), Pool(3, 2)]
    for ins, outs in ((192, 384), (384, 256), (256, 256)):
        layers += [Conv(ins, outs, 3, 1), Relu()]
    return Net((3, 224, 224), 1000, (*layers, Pool(3, 2), Flatten(), *_dense(9216, 4096, 4096, 1000)))


NETS = {
    "mlp": Net((784,), 10, _dense(784, 512, 10)),
    "lenet": _lenet(),
    "vgg9": _vgg9(norm=False),
    "vgg9-norm": _vgg9(norm=True),
    "resnet20": _resnet20(),
    "alexnet": _alexnet(),
}
