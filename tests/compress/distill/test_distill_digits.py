"""Distillation on real data: a student against the same one trained alone, and its artifact."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common.training import Trainer
from edgeopt.compress.distill.distill import Distill
from edgeopt.compress.technique import Context
from examples import digits

LABELLED = 150


def digits_student(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    inputs = 1
    for width, stride in ((8, 1), (16, 2), (32, 2)):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def digits_batches() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels, _, _ = digits.data()
    for chosen in torch.randperm(LABELLED).split(32):
        yield images[chosen], labels[chosen]


def digits_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def digits_accuracy(module: nn.Module) -> float:
    _, _, images, labels = digits.data()
    with torch.no_grad():
        return float((module.eval()(images).argmax(1) == labels).float().mean())


@pytest.mark.slow
def test_a_distilled_student_is_a_point_above_the_same_student_trained_alone() -> None:
    """The same few images, epochs, learning rate and seeds; only the teacher's answers are added."""
    teacher, epochs, rate = digits.trained(), 40, 1e-2
    alone, distilled = list[float](), list[float]()
    for seed in range(3):
        student = digits_student(seed)
        Trainer(train_step=digits_step, batches=digits_batches, learning_rate=rate).fit(student, epochs)
        alone.append(digits_accuracy(student))
        given = Context(
            example_inputs=digits.data()[0][:1],
            student=digits_student(seed),
            train_step=digits_step,
            train_batches=digits_batches,
        )
        found = Distill(epochs=epochs, learning_rate=rate).apply(teacher, given).module
        distilled.append(digits_accuracy(found))
    assert sum(distilled) / 3 > sum(alone) / 3 + 0.01, (alone, distilled)
