"""Heads as detectors and classifiers have them, on a small body: boxes in pixels, scores near zero."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

SIZE, STRIDE = 64, 8
BOX, KEYPOINTS = 4, 17


def images(count: int, seed: int = 1) -> list[Tensor]:
    """float32 [1, 3, 64, 64], smooth with a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def image() -> Tensor:
        smooth = interpolate(torch.randn(1, 3, 8, 8, generator=generator), (SIZE, SIZE), mode="bilinear")
        return smooth + 0.2 * torch.randn(1, 3, SIZE, SIZE, generator=generator)

    return [image() for _ in range(count)]


class Detector(nn.Module):
    """``head`` makes of the raw map, [N, outputs, 8, 8], what the network gives."""

    def __init__(self, outputs: int, head: Callable[[Tensor], Any], width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.raw, self.head = nn.Conv2d(width, outputs, 1), head
        nn.init.normal_(self.raw.weight, std=1.0)

    def forward(self, image: Tensor) -> Any:
        return self.head(self.raw(self.body(image)))


def anchors(like: Tensor) -> Tensor:
    """Centres of the cells, [2, 8, 8] in cells."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) + 0.5 for size in like.shape[-2:]), indexing="ij")
    return torch.stack((x, y))


def yolo_v5(raw: Tensor, classes: int = 20) -> Tensor:
    """[N, 3 x cells, 5 + classes]: a box, how likely it is one, and of which class."""
    raw = raw.view(len(raw), 3, 5 + classes, *raw.shape[2:]).permute(0, 1, 3, 4, 2)
    found = torch.cat((raw[..., :BOX], raw[..., BOX:] - 5), -1).sigmoid()
    centre = (found[..., :2] * 2 - 1 + anchors(raw[0, 0, ..., 0]).permute(1, 2, 0)) * STRIDE
    return torch.cat((centre, (found[..., 2:BOX] * 2) ** 2 * 30, found[..., BOX:]), -1).flatten(1, 3)


def parts_v8(raw: Tensor, classes: int = 20) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4, cells] by the expectation of distances, in pixels, and scores [N, classes, cells]."""
    sides, scores = raw.flatten(2).split((BOX * 16, classes), 1)
    distances = (sides.view(len(raw), BOX, 16, -1).softmax(2) * torch.arange(16.0).view(1, 1, 16, 1)).sum(2)
    low, high = (anchors(raw).flatten(1) - distances[:, :2]), (anchors(raw).flatten(1) + distances[:, 2:])
    return torch.cat(((low + high) / 2, high - low), 1) * STRIDE, (scores - 5).sigmoid()


def yolo_v8(raw: Tensor) -> Tensor:
    return torch.cat(parts_v8(raw), 1)


def with_class(raw: Tensor) -> Tensor:
    """Boxes, the best score and its class, as detectors with their own choice give them."""
    boxes, scores = parts_v8(raw)
    best, index = scores.max(1, keepdim=True)
    return torch.cat((boxes, best, index.float()), 1)


def written(raw: Tensor) -> Tensor:
    boxes, scores = parts_v8(raw)
    found = boxes.new_zeros(len(boxes), BOX + scores.shape[1], boxes.shape[2])
    found[:, :BOX], found[:, BOX:] = boxes, scores
    return found


def keypoints(raw: Tensor) -> Tensor:
    """[N, 51, cells]: x, y and a confidence for each point, one after the other."""
    points = raw.flatten(2).view(len(raw), KEYPOINTS, 3, -1)
    return torch.stack((points[:, :, 0] * 8 + 32, points[:, :, 1] * 8 + 32, (points[:, :, 2] - 5).sigmoid()), 2).flatten(1, 2)


Parts = Callable[[Any], dict[str, Any]]
"""Of one joined output, an array or a tensor, its parts by name."""
HEADS: dict[str, tuple[int, Callable[[Tensor], Any], Parts]] = {
    "yolo v5": (75, yolo_v5, lambda y: {"boxes": y[..., :BOX], "scores": y[..., BOX:]}),
    "yolo v8": (84, yolo_v8, lambda y: {"boxes": y[:, :BOX], "scores": y[:, BOX:]}),
    "a class index": (84, with_class, lambda y: {"boxes": y[:, :BOX], "scores": y[:, BOX : BOX + 1]}),
    "written into": (84, written, lambda y: {"boxes": y[:, :BOX], "scores": y[:, BOX:]}),
    "keypoints": (51, keypoints, lambda y: {"scores": y[:, 2::3], "boxes": y[:, 0::3]}),
}


def detector(name: str) -> Detector:
    outputs, head, _ = HEADS[name]
    return Detector(outputs, head).eval()


class Classifier(nn.Module):
    """1000 classes, normalized as it would be after training."""

    def __init__(self, convolutional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(64, momentum=None) for _ in range(2)]
        first, second = nn.Conv2d(3, 64, 3, 4, 1), nn.Conv2d(64, 64, 3, 2, 1)
        self.body = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU())
        self.fc: nn.Module = nn.Conv2d(64, 1000, 1) if convolutional else nn.Linear(64, 1000)
        with torch.no_grad():
            self.body(torch.cat(images(40, seed=3)))

    def forward(self, image: Tensor) -> Tensor:
        features = self.body(image).mean((2, 3))
        return self.fc(features) if isinstance(self.fc, nn.Linear) else self.fc(features[..., None, None]).flatten(1)
