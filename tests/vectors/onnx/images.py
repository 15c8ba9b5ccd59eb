"""Networks for images, in PyTorch: each function builds one, freshly initialised."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def named(*layers: nn.Module | None) -> nn.Sequential:
    """Chain the layers that there are."""
    return nn.Sequential(*(layer for layer in layers if layer is not None))


def norm_act(channels: int, act: type[nn.Module] | None = nn.ReLU) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), *([act()] if act else [])]


class Residual(nn.Module):
    """act(body(x) + shortcut(x)); without act the sum."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        total = self.body(x) + (x if self.shortcut is None else self.shortcut(x))
        return total if self.act is None else self.act(total)


class DropPath(nn.Module):
    """Leave whole rows of a branch out while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1) >= self.rate
        return x * kept / (1 - self.rate)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


class View(nn.Module):
    """LeNet-like with x.view(x.size(0), -1) and log_softmax, as tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.drop, self.fc1, self.fc2 = nn.Dropout2d(), nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.drop(self.conv2(x)), 2))
        x = functional.relu(self.fc1(x.view(x.size(0), -1)))
        x = functional.dropout(x, training=self.training)
        return functional.log_softmax(self.fc2(x), dim=1)


def vgg(plan: str, head: int, *, norm: bool) -> nn.Module:
    """`plan`: widths in units of 64, "M" a pooling."""
    layers: list[nn.Module] = []
    width = 3
    for step in plan:
        if step == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(width, 64 * int(step), 3, padding=1, bias=not norm))
        width = 64 * int(step)
        layers += norm_act(width) if norm else [nn.ReLU(inplace=True)]
    tail = [nn.Linear(width, head), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(head, 10)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *tail)


def vgg9() -> nn.Module:
    return vgg("1M2M44M44M", 256, norm=False)


def vgg9_bn() -> nn.Module:
    return vgg("1M2M44M44M", 256, norm=True)


def vgg16() -> nn.Module:
    return vgg("11M22M444M888M888M", 512, norm=True)


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten(1),
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 100),
    )  # fmt: skip


class Subsample(nn.Module):
    """ResNet's shortcut without parameters: every other pixel, and zeros for the new channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 2, self.channels // 2))


def resnet20() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), *norm_act(16)]
    width = 16
    for stage, out in enumerate((16, 32, 64)):
        for block in range(3):
            step = 2 if stage and not block else 1
            body = named(
                nn.Conv2d(width, out, 3, step, 1, bias=False), *norm_act(out),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            layers.append(Residual(body, Subsample(out - width) if step == 2 else None, nn.ReLU()))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), *norm_act(64), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    width = 64
    for stage, (mid, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(count):
            step = 2 if stage and not block else 1
            body = named(
                nn.Conv2d(width, mid, 1, bias=False), *norm_act(mid),
                nn.Conv2d(mid, mid, 3, step, 1, bias=False), *norm_act(mid),
                nn.Conv2d(mid, 4 * mid, 1, bias=False), nn.BatchNorm2d(4 * mid),
            )  # fmt: skip
            short = named(nn.Conv2d(width, 4 * mid, 1, step, bias=False), nn.BatchNorm2d(4 * mid))
            layers.append(Residual(body, None if block else short, nn.ReLU(inplace=True)))
            width = 4 * mid
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, 100))


def resnet_group_norm() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU()]
    for width in (32, 64, 128):
        out, step = (width, 1) if width == 32 else (width, 2)
        came = 32 if width == 32 else width // 2
        body = named(
            nn.Conv2d(came, out, 3, step, 1), nn.GroupNorm(8, out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1), nn.GroupNorm(8, out),
        )  # fmt: skip
        layers.append(Residual(body, nn.Conv2d(came, out, 1, step), nn.ReLU()))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def instance_norm() -> nn.Module:
    layers: list[nn.Module] = []
    for came, out in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(came, out, 3, 2, 1), nn.InstanceNorm2d(out, affine=True), nn.LeakyReLU(0.1)]
    layers += [nn.Conv2d(64, 64, 3, padding=1), nn.InstanceNorm2d(64), nn.ELU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Dense(nn.Module):
    """Concatenate the input with what the body makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet(stem: list[nn.Module], blocks: tuple[int, ...], growth: int, width: int) -> nn.Module:
    layers = stem
    for index, count in enumerate(blocks):
        for _ in range(count):
            layers.append(Dense(named(
                *norm_act(width), nn.Conv2d(width, 4 * growth, 1, bias=False),
                *norm_act(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
            )))  # fmt: skip
            width += growth
        if index < len(blocks) - 1:
            layers += [*norm_act(width), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(
        *layers, *norm_act(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100)
    )


def densenet121() -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), *norm_act(64), nn.MaxPool2d(3, 2, 1)]
    return densenet(stem, (6, 12, 24, 16), 32, 64)


def densenet_small() -> nn.Module:
    return densenet([nn.Conv2d(3, 24, 3, padding=1, bias=False)], (4, 4, 4), 12, 24)


class Fire(nn.Module):
    """SqueezeNet's block."""

    def __init__(self, came: int, squeezed: int, out: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(came, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, out, 1), nn.Conv2d(squeezed, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.one(x)), functional.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192),
        Fire(384, 64, 256), Fire(512, 64, 256), nn.Dropout(0.5), nn.Conv2d(512, 100, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
    )  # fmt: skip
