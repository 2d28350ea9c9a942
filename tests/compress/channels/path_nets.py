"""Networks whose own code splits, joins, shuffles, gates or leaves out channels, as in detectors and language models."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from tests.compress.channels.nets import conv


class Split(nn.Module):
    """C2f: one half is read by a block, by a sum and by the join. ``how`` is the way in which the code halves it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fixed = how, 16
        self.stem, self.cv1, self.inner, self.cv2 = conv(3, 24), conv(24, 32, 1), conv(16, 16), conv(48, 32, 1)
        self.fc = nn.Linear(32, 10)

    def halves(self, x: Tensor) -> list[Tensor]:
        half = x.shape[1] // 2
        ways: dict[str, Any] = {
            "chunk": lambda: x.chunk(2, 1),
            "split": lambda: x.split(half, 1),
            "sizes": lambda: x.split((half, half), 1),
            "fixed": lambda: x.split((self.fixed, self.fixed), 1),
            "slices": lambda: (x[:, :half], x[:, half:]),
            "view": lambda: x.view(x.shape[0], 2, half, *x.shape[2:]).unbind(1),
        }
        return list(ways[self.how]())

    def forward(self, x: Tensor) -> Tensor:
        parts = self.halves(self.cv1(self.stem(x)))
        parts.append(parts[-1] + self.inner(parts[-1]))
        scores: Tensor = self.fc(self.cv2(torch.cat(parts, 1)).mean((2, 3)))
        return scores


class ShuffleUnits(nn.Module):
    """ShuffleNetV2: shuffled again and again, so that a channel's way through the index mappings is a circle."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.stem = conv(3, 32)
        self.units = nn.ModuleList(
            nn.Sequential(conv(16, 16, 1), conv(16, 16, groups=16), conv(16, 16, 1)) for _ in range(units)
        )
        self.end, self.fc = conv(32, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, unit(b)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        scores: Tensor = self.fc(self.end(x).mean((2, 3)))
        return scores


class MapAttention(nn.Module):
    """YOLO11's attention over a feature map, in which views, splits and products of channels follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.proj, self.end = conv(3, 16), nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1), conv(16, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, _, h, w = x.shape
        q, k, v = self.qkv(x).view(n, 2, 3 * 8, h * w).split([8] * 3, 2)
        mixed = (v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)).reshape(n, 16, h, w)
        scores: Tensor = self.fc(self.end(self.proj(mixed)).mean((2, 3)))
        return scores


class FusedGate(nn.Module):
    """Phi-3's and SwiGLUPacked's feed-forward: one projection makes gate and value. ``interleaved``: in turns."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.emb, self.gate_up, self.down, self.b, self.fc = (
            nn.Linear(3, 32), nn.Linear(32, 96), nn.Linear(48, 32), nn.Linear(32, 64), nn.Linear(64, 10)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.emb(x)
        both = self.gate_up(x)
        gate, up = both.unflatten(-1, (-1, 2)).unbind(-1) if self.interleaved else both.chunk(2, -1)
        scores: Tensor = self.fc(F.relu(self.b(x + self.down(F.silu(gate) * up))))
        return scores


class PixelShuffled(nn.Module):
    """Upsampling by channels, with torch's operator or by hand."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.a, self.b, self.out = conv(3, 64), conv(16, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.by_hand:
            n, c, h, w = x.shape
            x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
        else:
            x = F.pixel_shuffle(x, 2)
        pixels: Tensor = self.out(self.b(x))
        return pixels


class GroupNorms(nn.Module):
    """A residual block with group norms of ``groups`` groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.n, self.b, self.m = (
            nn.Conv2d(3, 32, 3),
            nn.GroupNorm(groups, 32),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.GroupNorm(groups, 32),
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n(self.a(x))
        scores: Tensor = self.fc(F.relu(x + self.m(self.b(F.relu(x)))).mean((2, 3)))
        return scores


class Auxiliary(nn.Module):
    """A head that only training calls, and only ``where`` it is asked for."""

    def __init__(self, where: str = "training") -> None:
        super().__init__()
        self.where = where
        self.a, self.b, self.out, self.aux = conv(3, 32), conv(32, 64), nn.Linear(64, 4), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        scores = self.out(self.b(y).mean((2, 3)))
        called = self.training if self.where == "training" else self.where == "always"
        return (scores, self.aux(y.mean((2, 3)))) if called else scores


class Branches(nn.Module):
    """The data decide which layer is called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.day, self.night, self.out = conv(3, 32), conv(32, 32), conv(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        scores: Tensor = self.out((self.day(y) if bool(x.mean() > 0) else self.night(y)).mean((2, 3)))
        return scores


class Recurrence(nn.Module):
    """A recurrent layer between linear ones, read by its last ``state`` or by its last output."""

    def __init__(self, kind: Any, state: bool = False, **settings: Any) -> None:
        super().__init__()
        self.state, directions = state, 2 if settings.get("bidirectional") else 1
        self.e, self.r = nn.Linear(3, 32), kind(32, 48, batch_first=True, **settings)
        self.o = nn.Linear(settings.get("proj_size", 48) * (1 if state else directions), 5)

    def forward(self, x: Tensor) -> Tensor:
        found, last = self.r(torch.relu(self.e(x)))
        state = last[0] if isinstance(last, tuple) else last
        scores: Tensor = self.o(state[-1] if self.state else found[:, -1])
        return scores


class Tokens(nn.Module):
    """A class token, positions and a scale of the user's own, without a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 16, 32))
        self.scale, self.gain = nn.Parameter(torch.rand(32)), nn.Parameter(torch.ones(1))
        self.e, self.a, self.b = nn.Linear(3, 32), nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.e(x)], 1)
        x = (x + self.places[:, : x.shape[1]]) * self.scale * self.gain
        scores: Tensor = self.b(torch.relu(self.a(x)))[:, 0]
        return scores
