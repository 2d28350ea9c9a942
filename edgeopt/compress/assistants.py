"""Progressive distillation: between a teacher and a much smaller student, assistants of the sizes between (arXiv:1902.03393).

Mirzadeh et al., 2020, find that a student learns worse from a teacher far above its capacity, and better through steps. How far
is too far differs; a ratio of 2 to 4 in parameters per stage is the usual rule.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from edgeopt.compress.measures import parameters
from edgeopt.errors import CompressionError

TRIES = 12
"""Halvings of the interval that a width is searched in: far finer than whole channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
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
    teacher: nn.Module, student: nn.Module, most: float, progressive: Literal["insert", "refuse", "off"]
) -> list[Stage]:
    """The stages from ``teacher`` to ``student``, none with a ratio much above ``most`` where assistants may be inserted.

    Raises CompressionError where they may not, or where the teacher cannot be narrowed.
    """
    large, small = parameters(teacher), parameters(student)
    if not small:
        raise CompressionError("the student has no parameters", fix="give a student that can be trained")
    ratio = large / small
    if ratio <= most or progressive == "off":
        return [Stage(number=1, count=1, student=student, ratio=ratio)]
    if progressive == "refuse":
        why = f"a student learns badly from a teacher more than {most:g} times its size (arXiv:1902.03393)"
        fix = f'give a student of at least {math.ceil(large / most):,} parameters, or set progressive = "insert"'
        raise CompressionError(f"the teacher has {ratio:.1f} times the student's {small:,} parameters", why=why, fix=fix)
    count = math.ceil(math.log(ratio) / math.log(most))
    nets = [_assistant(teacher, large / ratio ** (number / count)) for number in range(1, count)]
    sizes = [large, *map(parameters, nets), small]
    return [
        Stage(number=number, count=count, student=net, ratio=sizes[number - 1] / sizes[number])
        for number, net in enumerate((*nets, student), 1)
    ]


def _assistant(teacher: nn.Module, goal: float) -> nn.Module:
    """The teacher narrowed to about ``goal`` parameters, by bisection: parameters grow with the width."""
    from edgeopt.compress.students import narrower

    low, high = 0.0, 1.0
    best, error = teacher, math.inf
    try:
        for _ in range(TRIES):
            width = (low + high) / 2
            net, _ = narrower(teacher, width)
            found = parameters(net)
            if abs(math.log(found / goal)) < error:
                best, error = net, abs(math.log(found / goal))
            low, high = (width, high) if found < goal else (low, width)
    except CompressionError as refused:
        fix = 'set progressive = "off", or distil in steps with networks of your own'
        raise CompressionError("no assistant can be made of the teacher", why=refused.what, fix=fix) from refused
    return best
