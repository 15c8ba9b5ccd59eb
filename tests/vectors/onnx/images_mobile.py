"""More networks for images, in PyTorch: light convolutions, patches, and images as answers."""

from __future__ import annotations

import torch
from images import DropPath, Residual, named
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(
    came: int, out: int, *, kernel: int = 3, step: int = 1, group: int = 1, act: type[nn.Module] | None = None
) -> nn.Module:
    conv = nn.Conv2d(came, out, kernel, step, kernel // 2, groups=group, bias=False)
    return named(conv, nn.BatchNorm2d(out), None if act is None else act())


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, mid: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, mid, 1), nn.Conv2d(mid, channels, 1)
        self.act, self.gate = act, gate

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.up(self.act(self.down(weight))))


def inverted(
    shape: tuple[int, int, int], *, kernel: int, step: int, act: type[nn.Module], gate: nn.Module | None,
    drop: float = 0.0,
) -> nn.Module:  # fmt: skip
    came, mid, out = shape
    body = named(
        conv_norm(came, mid, kernel=1, act=act) if mid != came else None,
        conv_norm(mid, mid, kernel=kernel, step=step, group=mid, act=act),
        gate,
        conv_norm(mid, out, kernel=1),
        DropPath(drop) if drop else None,
    )
    return Residual(body) if step == 1 and came == out else body


def separable() -> nn.Module:
    """MobileNet of 2017 at half width: depthwise 3x3, then 1x1."""
    layers = [conv_norm(3, 16, step=2, act=nn.ReLU)]
    width = 16
    for out, step in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += [conv_norm(width, width, step=step, group=width, act=nn.ReLU)]
        layers += [conv_norm(width, out, kernel=1, act=nn.ReLU)]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mobilenet_v2() -> nn.Module:
    layers = [conv_norm(3, 32, step=2, act=nn.ReLU6)]
    width = 32
    plan = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for factor, out, count, first in plan:
        for index in range(count):
            step = 1 if index else first
            layers.append(
                inverted((width, width * factor, out), kernel=3, step=step, act=nn.ReLU6, gate=None)
            )
            width = out
    layers.append(conv_norm(width, 1280, kernel=1, act=nn.ReLU6))
    return Pooled(nn.Sequential(*layers), nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 100)))


class Pooled(nn.Module):
    """Pool as torchvision does: adaptive pooling, then flatten as a function."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.body(x), (1, 1))
        return self.head(torch.flatten(x, 1))


def mobilenet_v3() -> nn.Module:
    relu, swish = nn.ReLU, nn.Hardswish
    plan = (
        (3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, swish, 2), (5, 240, 40, True, swish, 1), (5, 240, 40, True, swish, 1),
        (5, 120, 48, True, swish, 1), (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2), (5, 576, 96, True, swish, 1), (5, 576, 96, True, swish, 1),
    )  # fmt: skip
    layers = [conv_norm(3, 16, step=2, act=swish)]
    width = 16
    for kernel, mid, out, gated, act, step in plan:
        gate = Gate(mid, max(8, mid // 32 * 8), nn.ReLU(), nn.Hardsigmoid()) if gated else None
        layers.append(inverted((width, mid, out), kernel=kernel, step=step, act=act, gate=gate))
        width = out
    layers.append(conv_norm(width, 576, kernel=1, act=swish))
    head = nn.Sequential(nn.Linear(576, 1024), swish(), nn.Dropout(0.2), nn.Linear(1024, 100))
    return Pooled(nn.Sequential(*layers), head)


def efficientnet() -> nn.Module:
    plan = (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
    )  # fmt: skip
    layers = [conv_norm(3, 32, step=2, act=nn.SiLU)]
    width, done = 32, 0
    for factor, kernel, out, count, first in plan:
        for index in range(count):
            step, mid = (1 if index else first), width * factor
            gate = Gate(mid, width // 4, nn.SiLU(), nn.Sigmoid())
            drop, shape = 0.2 * done / 16, (width, mid, out)
            layers.append(
                inverted(shape, kernel=kernel, step=step, act=nn.SiLU, gate=gate, drop=drop)
            )  # fmt: skip
            width, done = out, done + 1
    layers.append(conv_norm(width, 1280, kernel=1, act=nn.SiLU))
    return Pooled(nn.Sequential(*layers), nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 100)))


class NextBlock(nn.Module):
    """ConvNeXt's block: depthwise 7x7, then a perceptron over channels put last."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(1e-1 * torch.ones(width))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.mlp(self.conv(x).permute(0, 2, 3, 1))
        return x + self.drop(y.permute(0, 3, 1, 2))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    width = 96
    for out, count in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if out != width:
            layers += [ChannelNorm(width), nn.Conv2d(width, out, 2, 2)]
            width = out
        layers += [NextBlock(width, 0.1) for _ in range(count)]
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 100))
    return Pooled(nn.Sequential(*layers), head)


def twice(came: int, out: int) -> nn.Module:
    return named(conv_norm(came, out, act=nn.ReLU), conv_norm(out, out, act=nn.ReLU))


class UNet(nn.Module):
    """Two levels down and up; the answer is an image of logits, or their mean."""

    def __init__(self, *, resized: bool) -> None:
        super().__init__()
        self.resized = resized
        self.a, self.b, self.c = twice(1, 16), twice(16, 32), twice(32, 64)
        self.up_b, self.up_a = self.up(64, 32), self.up(32, 16)
        self.d, self.e, self.last = twice(64, 32), twice(32, 16), nn.Conv2d(16, 4, 1)

    def up(self, came: int, out: int) -> nn.Module:
        if not self.resized:
            return nn.ConvTranspose2d(came, out, 2, stride=2)
        wide = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        return nn.Sequential(wide, nn.Conv2d(came, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        second = self.b(functional.max_pool2d(first, 2))
        low = self.c(functional.max_pool2d(second, 2))
        low = self.d(torch.cat([self.up_b(low), second], 1))
        image = self.last(self.e(torch.cat([self.up_a(low), first], 1)))
        return image.mean((2, 3)) if self.resized else image


def unet() -> nn.Module:
    return UNet(resized=False)


def unet_resize() -> nn.Module:
    return UNet(resized=True)


class Mixer(nn.Module):
    """MLP-Mixer's block."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(patches, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, patches)
        )
        self.channels = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.one(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.two(x))


class Patches(nn.Module):
    """Patches of a 32x32 image through blocks; the mean over patches goes to the head."""

    def __init__(self, width: int, blocks: nn.Module) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Conv2d(3, width, 4, 4), blocks
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def mixer() -> nn.Module:
    return Patches(64, nn.Sequential(*(Mixer(64, 64) for _ in range(4))))


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class ViT(nn.Module):
    """Vision transformer with a class token: 6 blocks of width 192, 3 heads."""

    def __init__(self, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(self.block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    @staticmethod
    def block(width: int) -> nn.Module:
        mlp = (nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width))
        return nn.Sequential(
            Residual(nn.Sequential(nn.LayerNorm(width), Attention(width, 3))),
            Residual(nn.Sequential(nn.LayerNorm(width), *mlp)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(self.drop(x)))[:, 0])
