"""A family of small CNNs for the tests of architecture search, on handwritten digits."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn

from edgeopt.compress.common.training import Trainer
from edgeopt.compress.technique import Context
from edgeopt.model.model import Predict
from examples import digits


class DigitsStages(nn.Module):
    """Three stages of ``depth`` convolutions with batch norm; names of layers are the same in all sizes."""

    def __init__(self, width: float, depth: int) -> None:
        super().__init__()
        inputs = 1
        self.stages = nn.ModuleList()
        for number, channels in enumerate((16, 32, 64)):
            outputs = max(1, round(channels * width))
            blocks = []
            for block in range(depth):
                stride = 2 if number and not block else 1
                convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
                blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, image: Tensor) -> Tensor:
        for stage in self.stages:
            image = stage(image)
        scores: Tensor = self.classifier(image.mean((2, 3)))
        return scores


def build(width: float = 1.0, depth: int = 1) -> nn.Module:
    return DigitsStages(width, depth)


data = cache(digits.data)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels, _, _ = data()
    for chosen in torch.randperm(len(images)).split(64):
        yield images[chosen], labels[chosen]


def train_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def evaluate(predict: Predict) -> dict[str, float]:
    _, _, images, labels = data()
    right = predict(images.numpy())[0].argmax(1) == labels.numpy()
    return {"accuracy": float(right.mean()), "zeros": float(right[labels.numpy() == 0].mean())}


def context(**changes: object) -> Context:
    images = data()[0]
    given: dict[str, object] = {
        "example_inputs": (images[:1],), "batches": [(images[:512],)], "evaluate": evaluate,
        "fit": Trainer(train_step=train_step, batches=batches, learning_rate=5e-3).fit,
    }  # fmt: skip
    return Context(**(given | changes))  # type: ignore[arg-type]
