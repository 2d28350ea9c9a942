"""Student networks for distillation, made of their teacher: with fewer layers, narrower, or as small as a goal asks.

student, record = shallower(teacher, 0.5)                       # every other layer, with the teacher's weights
student, record = narrower(teacher, 0.5)                        # half of the channels, or heads and MLPs
student, record = to_goal(teacher, example, Goal(bytes=1_000_000, bits=8))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.measures import parameters
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.common.pretrained import outermost
from edgeopt.compress.common.responses import outputs
from edgeopt.compress.distill.student_config import narrowed_models
from edgeopt.compress.distill.student_depth import TRANSFORMER_LAYERS, Row, rows
from edgeopt.compress.distill.student_width import Narrowing
from edgeopt.compress.technique import Context, LayerChange, Record
from edgeopt.errors import BudgetUnmet, CompressionError, ForwardError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments

MULTIPLE = 8
"""Of channels: what most kernels compute at once."""
TRIES = 10
"""Halvings of the interval that a width is searched in: 1/1024, finer than whole channels."""
LEAST_WIDTH = 1 / 16


def shallower(teacher: nn.Module, layers: int | float, example_inputs: Batch = None) -> tuple[nn.Module, Record]:
    """A copy with fewer layers in each row of them, evenly spaced (DistilBERT, arXiv:1910.01108), with the teacher's weights.

    ``layers``: a whole number is how many stay in each row (shorter rows stay whole), a fraction the share of each. Rows are
    transformers' layers, residual blocks, and convolutions or linear layers in an nn.Sequential; a layer that changes the shape
    of what it gets always stays. ``example_inputs``: tries the student on them. Raises CompressionError where a row cannot be
    as short, ValueError for a number that is none.
    """
    if isinstance(layers, bool) or layers <= 0 or (isinstance(layers, float) and layers > 1):
        raise ValueError(f"layers is a number of layers to keep, or their share from 0 to 1: not {layers}")
    student = copied(teacher)
    found = list(rows(student))
    changes: list[LayerChange] = []
    for row in found:
        kept = row.kept(_number(row, layers))
        changes += [_layer_change(row, index, kept) for index in range(len(row.layers))]
        row.shorten(student, kept)
    _try(student, example_inputs)
    notes = () if found else ("no layer can go: no two that take the same shape stand in a row",)
    record = Record(technique="shallower", settings={"layers": layers}, layers=tuple(changes), notes=notes)
    return student, record


def narrower(
    teacher: nn.Module, width: float, example_inputs: Batch = None, multiple: int = MULTIPLE
) -> tuple[nn.Module, Record]:  # fmt: skip
    """A copy with ``width`` times the channels (0 to 1), of the teacher's weights; counts are multiples of ``multiple``.

    Hugging Face models are built anew from a narrower configuration, with fewer heads. Of other models channel pruning takes
    the weaker channels away where ``example_inputs`` tell how they are connected; without these every layer keeps its first
    ones. Inputs and outputs of the whole model stay, except hidden states that a transformer gives. Raises CompressionError
    where the model cannot be narrowed, ValueError for a width that is none.
    """
    if not 0 < width <= 1:
        raise ValueError(f"width is a share of the channels, above 0 up to 1: not {width}")
    settings = {"width": width, "multiple": multiple}
    if width == 1:
        return copied(teacher), Record(technique="narrower", settings=settings, notes=("width 1: an equal copy",))
    if outermost(teacher):
        student = narrowed_models(teacher, width, multiple)
        changes = _shape_changes(teacher, student)
    elif example_inputs is not None:
        technique = Channels(amount=1 - width, multiple=multiple)
        done = technique.apply(teacher, Context(example_inputs=example_inputs))
        student, changes = done.module, done.record.layers
    else:
        narrowing = Narrowing(teacher, width, multiple)
        student, changes = narrowing.run(), tuple(narrowing.changes)
    _try(student, example_inputs)
    unchanged = not any(change.action == "changed" for change in changes)
    notes = (f"nothing is narrower: no width can be set, or no multiple of {multiple} is nearer",) if unchanged else ()
    return student, Record(technique="narrower", settings=settings, layers=tuple(changes), notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentGoal:
    """How small a student must be: every limit given must be met.

    ``parameters``: at most so many. ``bytes``: of all weights at ``bits`` each. ``latency``: at most, in whatever unit
    ``measure(module)`` gives; it is called once per candidate and must not get slower as the module shrinks.
    """

    parameters: int | None = None
    bytes: int | None = None
    bits: int = 32
    latency: float | None = None
    measure: Callable[[nn.Module], float] | None = None

    def __post_init__(self) -> None:
        if self.parameters is None and self.bytes is None and self.latency is None:
            raise ValueError("a goal needs parameters, bytes, or latency with measure")
        if (self.latency is None) != (self.measure is None):
            raise ValueError("latency needs measure, a function that takes a module and gives its latency, and the reverse")
        if self.bits < 1:
            raise ValueError(f"bits is the width of one stored weight: not {self.bits}")

    def met(self, module: nn.Module) -> bool:
        """Whether ``module`` is small and fast enough."""
        count = parameters(module)
        if self.parameters is not None and count > self.parameters:
            return False
        if self.bytes is not None and count * self.bits > self.bytes * 8:
            return False
        return self.latency is None or self.measure is None or self.measure(module) <= self.latency

    def describe(self) -> str:
        """``at most 100,000 parameters, 1,000,000 bytes at 8 bits``."""
        parts = []
        if self.parameters is not None:
            parts.append(f"{self.parameters:,} parameters")
        if self.bytes is not None:
            parts.append(f"{self.bytes:,} bytes at {self.bits} bits")
        if self.latency is not None:
            parts.append(f"a latency of {self.latency:g}")
        return f"at most {', '.join(parts)}"


def to_goal(teacher: nn.Module, example_inputs: Batch, goal: StudentGoal) -> tuple[nn.Module, Record]:
    """The largest student found that meets ``goal``, of the teacher's weights.

    Transformers first lose layers, down to half of them, which costs least when the rest is taken over (arXiv:1910.01108),
    then width; other models lose width, and layers only where the narrowest is still too large. Raises BudgetUnmet where even
    that is, with what it has.
    """
    if goal.met(teacher):
        return copied(teacher), _told(goal, 1.0, 1.0, (), "the teacher meets the goal: an equal copy")
    depths = sorted({len(row.layers) for row in rows(teacher)}, reverse=True)
    shares = [number / depths[0] for number in range(depths[0] - 1, 0, -1)] if depths else []
    first = 1.0
    if outermost(teacher) or any(isinstance(layer, TRANSFORMER_LAYERS) for layer in teacher.modules()):
        for first in (share for share in shares if share >= 0.5):
            student, record = shallower(teacher, first, example_inputs)
            if goal.met(student):
                return student, _told(goal, first, 1.0, record.layers)
    smallest = teacher
    for share in (first, *(share for share in shares if share < first)):
        base, record = shallower(teacher, share, example_inputs) if share < 1 else (teacher, Record(technique="shallower"))
        width, student, changes = _widest(base, example_inputs, goal)
        if width:
            return student, _told(goal, share, width, (*record.layers, *changes))
        smallest = student
    why = f"the smallest student has {parameters(smallest):,} parameters, the goal is {goal.describe()}"
    raise BudgetUnmet("no student is as small as asked", why=why, fix="allow more, or give a smaller architecture of your own")


def _widest(base: nn.Module, example_inputs: Batch, goal: StudentGoal) -> tuple[float, nn.Module, tuple[LayerChange, ...]]:
    """The largest width that meets ``goal`` with its student; width 0 and the narrowest where none does."""
    narrowest, record = narrower(base, LEAST_WIDTH, example_inputs)
    if not goal.met(narrowest):
        return 0.0, narrowest, ()
    best, low, high = (LEAST_WIDTH, narrowest, record.layers), LEAST_WIDTH, 1.0
    for _ in range(TRIES):
        width = (low + high) / 2
        student, record = narrower(base, width, example_inputs)
        if goal.met(student):
            best, low = (width, student, record.layers), width
        else:
            high = width
    return best


def _told(goal: StudentGoal, depth: float, width: float, layers: tuple[LayerChange, ...], note: str = "") -> Record:
    settings: dict[str, Any] = {"goal": goal.describe(), "layers": round(depth, 4), "width": round(width, 4)}
    return Record(technique="to_goal", settings=settings, layers=layers, notes=(note,) if note else ())


def _number(row: Row, layers: int | float) -> int:
    """How many layers of ``row`` stay."""
    total, fixed = len(row.layers), len(row.reasons)
    wanted = min(layers, total) if isinstance(layers, int) else max(1, round(layers * total))
    if isinstance(layers, int) and wanted < fixed:
        why = f"{fixed} of its {total} layers change the shape of what they get, and stay"
        fix = f"keep at least {fixed} layers, or a share"
        raise CompressionError(f"{row.path or 'the model'} cannot have {layers} layers", why=why, fix=fix)
    return max(wanted, fixed)


def _layer_change(row: Row, index: int, kept: list[int]) -> LayerChange:
    before = f"layer {index + 1} of {len(row.layers)}"
    if index not in kept:
        return LayerChange(layer=row.layers[index], action="changed", before=before, after="dropped", reason="evenly spaced")
    after = f"layer {kept.index(index) + 1} of {len(kept)}"
    reason = row.reasons.get(index, "taken over with its weights")
    return LayerChange(layer=row.layers[index], action="left", before=before, after=after, reason=reason)


def _shape_changes(teacher: nn.Module, student: nn.Module) -> tuple[LayerChange, ...]:
    """Every weight with its shape in both."""
    after = dict(student.named_parameters())
    return tuple(
        LayerChange(layer=name, action="left", before=_shape(value), reason="none of its axes is a width")
        if after[name].shape == value.shape
        else LayerChange(layer=name, action="changed", before=_shape(value), after=_shape(after[name]), reason="the weightiest")
        for name, value in teacher.named_parameters()
    )


def _shape(value: nn.Parameter) -> str:
    return "x".join(map(str, value.shape))


def _try(student: nn.Module, example_inputs: Batch) -> None:
    """Raises CompressionError where the student does not run on the inputs, if there are any."""
    if example_inputs is None:
        return
    args, kwargs = call_arguments(example_inputs)
    try:
        with evaluating(student):
            outputs(student, kwargs or args)
    except ForwardError as error:
        fix = "give a student of your own: the model's code relies on its sizes or on the number of its layers"
        raise CompressionError("the student does not run", why=error.why, fix=fix) from error
