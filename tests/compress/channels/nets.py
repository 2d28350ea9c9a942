"""Small networks, one for each way in which channels can meet, part or be mixed."""

from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

Plan = tuple[tuple[str, int], ...]
plans: st.SearchStrategy[Plan] = st.lists(
    st.tuples(st.sampled_from(["plain", "residual", "concat", "depthwise", "grouped"]), st.sampled_from([8, 16, 24])),
    min_size=1,
    max_size=4,
).map(tuple)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return nn.Sequential(layer, norm, nn.ReLU(inplace=True))


class Random(nn.Module):
    """Stages of the kinds in ``plan``, each after the other."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.kinds = [kind for kind, _ in plan]
        self.stages, width = nn.ModuleList([conv(3, 16)]), 16
        for kind, size in plan:
            parts = {"plain": [conv(width, size)], "residual": [conv(width, size), conv(size, width, 1)]}
            parts |= {"concat": [conv(width, size)], "depthwise": [conv(width, width, groups=width)]}
            parts |= {"grouped": [conv(width, size * 2, 1), conv(size * 2, size * 2, groups=2)]}
            self.stages.append(nn.ModuleList(parts[kind]))
            width = {"plain": size, "residual": width, "concat": width + size, "depthwise": width, "grouped": size * 2}[kind]
        self.end = conv(width, 16)
        self.head = nn.Linear(16, 10)
        self.last = "end.0"

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](x)
        for kind, stage in zip(self.kinds, list(self.stages)[1:], strict=True):
            y = x
            for part in stage:  # type: ignore[attr-defined]
                y = part(y)
            x = x + y if kind == "residual" else torch.cat([x, y], 1) if kind == "concat" else y
        scores: Tensor = self.head(self.end(x).mean((2, 3)))
        return scores


def makers(net: nn.Module, but: str) -> Iterator[str]:
    """Paths of all convolutions except ``but``."""
    return (name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d) and name != but)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a = conv(3, 32), conv(32, 48)
        self.b = nn.Sequential(nn.Conv2d(48, 32, 3, 1, 1), nn.BatchNorm2d(32))
        self.down, self.c, self.fc = nn.Conv2d(32, 64, 1, 2), conv(32, 64, 3, 2), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.b(self.a(x)))
        scores: Tensor = self.fc((self.c(x) + self.down(x)).mean((2, 3)))
        return scores


class Concat(nn.Module):
    """Two parts joined, and the whole added to something of the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.fc = conv(3, 16), conv(3, 32), conv(48, 48), conv(96, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), self.b(x)], 1)
        both = torch.cat([joined, joined + self.c(joined)], 1)
        scores: Tensor = self.fc(self.d(both).mean((2, 3)))
        return scores


class Grouped(nn.Sequential):
    """A depthwise convolution, a grouped one, and a depthwise one with two outputs for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw, self.pw = conv(3, 32), conv(32, 32, groups=32), conv(32, 64, 1)
        self.g, self.p2, self.mult = conv(64, 64, groups=4), conv(64, 32, 1), conv(32, 64, groups=32)
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)


class Gated(nn.Module):
    """Squeeze and excitation, free parameters, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 32), conv(32, 32), nn.Linear(32 * 64, 10)
        self.f1, self.f2 = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.scale, self.place = nn.Parameter(torch.randn(1, 32, 1, 1)), nn.Parameter(torch.randn(1, 32, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        gate = torch.sigmoid(self.f2(F.relu(self.f1(x.mean((2, 3), keepdim=True)))))
        scores: Tensor = self.fc(self.b(x * gate * self.scale + self.place).flatten(1))
        return scores


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.d, self.u = conv(3, 16), conv(16, 32, stride=2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.o, self.out = conv(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.a(x)
        mask: Tensor = self.out(self.o(torch.cat([wide, self.u(self.d(wide))], 1)))
        return mask


class Shuffled(nn.Module):
    """A channel shuffle and a gated linear unit: no graph of layers shows where a channel goes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.glu, self.fc = conv(3, 32), conv(32, 32), conv(32, 64), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, c, h, w = x.shape
        x = self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        scores: Tensor = self.fc(F.glu(self.glu(x), 1).mean((2, 3)))
        return scores


class Fixed(nn.Module):
    """A size in the code itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 16), conv(16, 16), nn.Linear(16 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.b(self.a(x)).view(-1, 16 * 64))
        return scores


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.c.weight = self.b.weight
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.c(self.b(self.a(x))).mean((2, 3)))
        return scores


class Features(nn.Module):
    """Two outputs, one of them in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 32), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.a(x)
        return {"features": found, "mask": self.c(self.b(found))}


class Normed(nn.Module):
    """A gate from the mean over channels, and a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = conv(3, 16), conv(16, 32), nn.GroupNorm(4, 32)
        self.d, self.c = conv(32, 32), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        mask: Tensor = self.c(self.d(self.norm(self.b(x * torch.sigmoid(x.mean(1, keepdim=True))))))
        return mask


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.emb, self.fc = nn.Linear(3, 32), nn.Linear(32, 10)
        self.enc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.enc(self.emb(x)).mean(1))
        return scores


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.conv, self.mid = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.rnn, self.h, self.fc = kind(16, 24, batch_first=True), nn.Linear(24, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.mid(F.relu(self.conv(x.transpose(1, 2)))).transpose(1, 2))
        scores: Tensor = self.fc(F.relu(self.h(states[:, -1])))
        return scores


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 16)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.a(x)
        return found
