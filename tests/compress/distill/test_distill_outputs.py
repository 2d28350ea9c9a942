"""Models with several outputs: all are taught, or the user is asked which; nothing is left untaught unsaid."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress import Context, Distill
from edgeopt.errors import CompressionError


class Detector(nn.Module):
    """Boxes and scores of each place of a map, in whatever form ``how`` names; ``scale``: of the boxes."""

    def __init__(self, width: int, how: str = "tuple", scale: float = 1.0) -> None:
        super().__init__()
        self.how, self.scale = how, scale
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        found = {"boxes": self.boxes(y) * self.scale, "scores": self.scores(y)}
        if self.how == "logits":
            found["logits"] = found.pop("scores").mean((2, 3))
        return tuple(found.values()) if self.how == "tuple" else found


def context(student: nn.Module) -> Context:
    torch.manual_seed(0)
    x = torch.randn(128, 1, 6, 6)
    return Context(example_inputs=x[:1], batches=[(one[None],) for one in x], student=student)


def errors(teacher: nn.Module, student: nn.Module) -> list[float]:
    """Squared error of each output relative to the teacher's variance, on inputs that were not taught."""
    x = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = zip(*(flat(net.eval()(x)) for net in (teacher, student)), strict=True)
        return [float((ours - theirs).square().mean() / theirs.var()) for theirs, ours in pairs]


def flat(found: Any) -> list[Tensor]:
    return list(found.values()) if isinstance(found, dict) else list(found)


@pytest.mark.parametrize("how", ["tuple", "dict"])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-3])
def test_regression_teaches_every_output_whatever_its_scale(how: str, scale: float) -> None:
    torch.manual_seed(0)
    teacher, student = Detector(16, how, scale).eval(), Detector(12, how, scale)
    before = errors(teacher, student)
    done = Distill(epochs=16, task="regression").apply(teacher, context(student))
    after = errors(teacher, done.module)
    assert all(now < 0.75 * then for now, then in zip(after, before, strict=True)), (before, after)
    assert not any("not taught" in note for note in done.record.notes)


@pytest.mark.parametrize("task", ["classification", "sequence"])
def test_class_scores_among_several_outputs_are_asked_for_by_name(task: Any) -> None:
    with pytest.raises(CompressionError, match=r'output_0, output_1(.|\n)*output = "output_1"'):
        Distill(task=task).apply(Detector(8).eval(), context(Detector(8)))


def test_what_a_name_leaves_out_is_said() -> None:
    done = Distill(epochs=1, output="scores").apply(Detector(8, "dict").eval(), context(Detector(8, "dict")))
    assert "not taught by the teacher: the outputs boxes" in done.record.notes


def test_an_output_called_logits_holds_the_class_scores() -> None:
    done = Distill(epochs=1).apply(Detector(8, "logits").eval(), context(Detector(8, "logits")))
    assert "not taught by the teacher: the outputs boxes" in done.record.notes


def test_a_student_without_one_of_the_outputs_is_refused_before_training() -> None:
    with pytest.raises(CompressionError, match="the student has no output 'scores'"):
        Distill(task="regression").apply(Detector(8, "dict").eval(), context(Detector(8, "logits")))
