"""The blocks of well-known networks, written as public zoos have them: tiny, with norms and weights that are not trivial.

Each takes [1, 8, 16, 16] and is put beside others into one network, an output or more for each: an export tries several.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everybody calls it
from torch import Tensor, nn

WIDTH = 8


def conv_norm(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> Any:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs), act()
    )


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width // 2, width, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.reduce(F.adaptive_avg_pool2d(x, 1)).relu()))


class InvertedResidual(nn.Module):
    """MobileNetV3 (hardswish, hardsigmoid gate) or EfficientNet's MBConv (SiLU, sigmoid gate)."""

    def __init__(self, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        wide = 2 * WIDTH
        self.block = nn.Sequential(
            conv_norm(WIDTH, wide, 1, act=act), conv_norm(wide, wide, 5, groups=wide, act=act), SqueezeExcite(wide, gate),
            conv_norm(wide, WIDTH, 1, act=nn.Identity),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class UniversalInvertedBottleneck(nn.Module):
    """MobileNetV4: a depthwise convolution before the expansion and one within."""

    def __init__(self) -> None:
        super().__init__()
        wide = 2 * WIDTH
        self.block = nn.Sequential(
            conv_norm(WIDTH, WIDTH, 3, groups=WIDTH, act=nn.Identity), conv_norm(WIDTH, wide, 1),
            conv_norm(wide, wide, 5, groups=wide), conv_norm(wide, WIDTH, 1, act=nn.Identity),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) * self.scale.view(1, -1, 1, 1)


class Ghost(nn.Module):
    """Half of the channels by a cheap depthwise convolution of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = conv_norm(WIDTH, WIDTH, 1), conv_norm(WIDTH, WIDTH, 3, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, :12]


class RepVgg(nn.Module):
    """As trained: 3x3, 1x1 and a lone norm side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTH))
        self.small = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))
        self.identity = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (self.large(x) + self.small(x) + self.identity(x)).relu()


class RepMixer(nn.Module):
    """FastViT: mixing against a norm, layer scale, and a convolutional feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixer = nn.BatchNorm2d(WIDTH), RepVgg()
        self.scale = nn.Parameter(torch.full((WIDTH, 1, 1), 0.3))
        self.feed = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH, bias=False), nn.BatchNorm2d(WIDTH),
            nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.GELU(), nn.Conv2d(2 * WIDTH, WIDTH, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * (self.mixer(x) - self.norm(x))
        return x + self.feed(x)


class Shuffle(nn.Module):
    """ShuffleNet V2: halves, one of them convolved, joined and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1), conv_norm(half, half, 3, groups=half, act=nn.Identity), conv_norm(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        x = torch.cat([kept, self.branch(changed)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class ConvNeXt(nn.Module):
    """Depthwise 7x7, then a norm and linear layers with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(hidden)))).permute(0, 3, 1, 2)


class C3WithSppf(nn.Module):
    """YOLO: a CSP block, then pyramid pooling by three poolings one after the other."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.left, self.right = conv_norm(WIDTH, half, 1, act=nn.SiLU), conv_norm(WIDTH, half, 1, act=nn.SiLU)
        self.inner = conv_norm(half, half, 3, act=nn.SiLU)
        self.pool, self.join = nn.MaxPool2d(5, 1, 2), conv_norm(4 * WIDTH, WIDTH, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        x = torch.cat([left + self.inner(left), self.right(x)], 1)
        first = self.pool(x)
        second = self.pool(first)
        return self.join(torch.cat([x, first, second, self.pool(second)], 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.pooled = conv_norm(WIDTH, 4, 1), conv_norm(WIDTH, 4, 1)
        self.tall, self.wide = nn.Conv2d(WIDTH, 4, (7, 1), padding=(3, 0)), nn.Conv2d(4, 4, (1, 7), padding=(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        averaged = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([self.one(x), self.wide(self.tall(x).relu()).relu(), self.pooled(averaged)], 1)


class Dense(nn.Module):
    """DenseNet: norm and activation before each convolution, all earlier results as input; then a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 4, 3, padding=1, bias=False)) for n in (WIDTH, 12, 16)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, WIDTH, 1), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.transition(x)


class UNet(nn.Module):
    """A decoder by a transposed convolution of an odd kernel, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = conv_norm(WIDTH, 12, 3, 2), conv_norm(12, 12, 3, 2)
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 12, 3, 2, 1, output_padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.last = nn.ConvTranspose2d(24, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.last(torch.cat([self.up(self.middle(skip)), skip], 1))


class PyramidWithHead(nn.Module):
    """FPN: levels joined from above, one head with shared weights and a norm of its own for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.lateral = conv_norm(WIDTH, 12, 3, 2), nn.ModuleList([nn.Conv2d(WIDTH, 8, 1), nn.Conv2d(12, 8, 1)])
        self.head, self.norms = nn.Conv2d(8, 6, 3, padding=1), nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        upper = self.lateral[1](self.down(x))
        levels = (self.lateral[0](x) + F.interpolate(upper, scale_factor=2.0), upper)
        return tuple(norm(self.head(level)).relu() for norm, level in zip(self.norms, levels, strict=True))


class Aspp(nn.Module):
    """DeepLab: dilated convolutions side by side, and the image's mean spread over it again."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(WIDTH, 4, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.mean, self.join = nn.Conv2d(WIDTH, 4, 1), conv_norm(16, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.interpolate(self.mean(x.mean((2, 3), keepdim=True)), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([*(branch(x).relu() for branch in self.branches), mean], 1))


class GatedTcn(nn.Module):
    """WaveNet: causal dilated convolutions along time, tanh and sigmoid gate, over the image's rows as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 2, dilation=rate) for rate in (1, 2, 4))
        self.gates = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 2, dilation=rate) for rate in (1, 2, 4))
        self.same = nn.Conv1d(WIDTH, WIDTH, 4, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        signal = self.same(x[:, :, 0])
        for rate, filtering, gate in zip((1, 2, 4), self.filters, self.gates, strict=True):
            padded = F.pad(signal, (rate, 0))
            signal = signal + torch.tanh(filtering(padded)) * torch.sigmoid(gate(padded))
        return signal


class SsdHead(nn.Module):
    """Boxes in pixels and class probabilities of two levels: outputs whose scales differ a thousand times."""

    def __init__(self) -> None:
        super().__init__()
        self.down = conv_norm(WIDTH, WIDTH, 3, 2)
        self.boxes, self.scores = (nn.ModuleList(nn.Conv2d(WIDTH, n, 3, padding=1) for _ in range(2)) for n in (8, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = (x, self.down(x))
        boxes = [box(level).permute(0, 2, 3, 1).reshape(1, -1, 4) for box, level in zip(self.boxes, levels, strict=True)]
        scores = [score(level).permute(0, 2, 3, 1).reshape(1, -1, 3) for score, level in zip(self.scores, levels, strict=True)]
        return torch.cat(boxes, 1) * 160 + 160, torch.cat(scores, 1).softmax(-1)


GROUPS: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "backbones": (
        lambda: InvertedResidual(nn.Hardswish, nn.Hardsigmoid), lambda: InvertedResidual(nn.SiLU, nn.Sigmoid),
        UniversalInvertedBottleneck, Ghost, RepVgg, RepMixer, Shuffle, ConvNeXt,
    ),
    "necks_and_heads": (C3WithSppf, Inception, Dense, Aspp, UNet, PyramidWithHead, GatedTcn, SsdHead),
}  # fmt: skip


class Side(nn.Module):
    """A stem, and blocks side by side behind it: every tensor that a block gives is an output."""

    def __init__(self, blocks: tuple[Callable[[], nn.Module], ...]) -> None:
        super().__init__()
        self.stem = conv_norm(3, WIDTH, 3, 2)
        self.blocks = nn.ModuleList(block() for block in blocks)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image)
        found = {}
        for block in self.blocks:
            result = block(x)
            for number, tensor in enumerate(result if isinstance(result, tuple) else (result,)):
                found[f"{type(block).__name__}_{len(found)}_{number}"] = tensor
        return found


def network(group: str) -> nn.Module:
    """The group's blocks with seeded weights, and norms as training leaves them: no mean 0, no variance 1."""
    torch.manual_seed(0)
    found = Side(GROUPS[group])
    for layer in found.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0.0, 0.3)
            nn.init.uniform_(layer.running_var, 0.3, 3.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.3, 0.3)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    return found.eval()


def images(count: int) -> list[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 8, 8, generator=random)
    smooth = F.interpolate(coarse, size=(32, 32), mode="bilinear") + 0.3 * torch.randn(count, 3, 32, 32, generator=random)
    return [(image[None],) for image in smooth]
