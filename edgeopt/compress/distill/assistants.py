"""Progressive distillation: between a teacher and a much smaller student, assistants of the sizes between (arXiv:1902.03393).

Mirzadeh et al., 2020, find that a student learns worse from a teacher far above its capacity, and better through steps. How far
is too far differs; a ratio of 2 to 4 in parameters per stage is the usual rule. Each stage costs its epochs: a single stage
trained as long in all is what to compare with, and may do as well.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from edgeopt.compress.common.measures import parameters
from edgeopt.compress.distill.students import StudentGoal, to_goal
from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch

Progressive = Literal["insert", "refuse", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantStage:
    """One student and the one before it. ``ratio``: the teacher's parameters over the student's."""

    number: int
    count: int
    student: nn.Module
    ratio: float

    def describe(self) -> str:
        who = "the student" if self.number == self.count else f"assistant {self.number}"
        size = f"{parameters(self.student):,} parameters, {self.ratio:.1f} times fewer than its teacher"
        return f"stage {self.number} of {self.count}: {who}, {size}"

    def file(self, checkpoint: Path | None, what: str) -> Path | None:
        """Where this stage keeps what is not yet finished."""
        return checkpoint and checkpoint.with_name(f"{checkpoint.name}.{what}-{self.number}")


def planned(
    teacher: nn.Module, student: nn.Module, example_inputs: Batch, most: float, progressive: Progressive
) -> list[AssistantStage]:
    """The stages from ``teacher`` to ``student``: equal ratios of about ``most`` or less where assistants may be inserted.

    Raises CompressionError where they may not, or where the teacher cannot be narrowed.
    """
    large, small = parameters(teacher), parameters(student)
    if not small:
        raise CompressionError("the student has no parameters", fix="give a student that can be trained")
    ratio = large / small
    if ratio <= most or progressive == "off":
        return [AssistantStage(number=1, count=1, student=student, ratio=ratio)]
    if progressive == "refuse":
        why = f"a student learns badly from a teacher more than {most:g} times its size (arXiv:1902.03393)"
        fix = f'give a student of at least {math.ceil(large / most):,} parameters, or set progressive = "insert"'
        raise CompressionError(f"the teacher has {ratio:.1f} times the student's {small:,} parameters", why=why, fix=fix)
    count = math.ceil(math.log(ratio) / math.log(most))
    nets = [_assistant(teacher, example_inputs, large / ratio ** (number / count)) for number in range(1, count)]
    sizes = [large, *map(parameters, nets), small]
    return [
        AssistantStage(number=number, count=count, student=net, ratio=sizes[number - 1] / sizes[number])
        for number, net in enumerate((*nets, student), 1)
    ]


def _assistant(teacher: nn.Module, example_inputs: Batch, goal: float) -> nn.Module:
    """The largest network of the teacher's weights with at most ``goal`` parameters."""
    try:
        return to_goal(teacher, example_inputs, StudentGoal(parameters=int(goal)))[0]
    except CompressionError as refused:
        fix = 'set progressive = "off", or distil in steps with networks of your own'
        raise CompressionError("no assistant can be made of the teacher", why=refused.what, fix=fix) from refused
