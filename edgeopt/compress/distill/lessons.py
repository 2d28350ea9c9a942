"""One step of distillation: the student's loss on a batch beside its teacher, in whatever form the user's batches are.

The user's ``train_step`` calls the student as it likes; the calls are watched, and the teacher answers exactly the same inputs,
augmentation included (Beyer et al., 2022, arXiv:2106.05237, find that this consistency matters).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeopt.compress.distill.losses import Task, answers, attention, hint, same_size
from edgeopt.compress.technique import TrainStep
from edgeopt.errors import CompressionError, did_you_mean
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments, flat_outputs

MASK = "attention_mask"
"""The mask's usual name: sequences and hidden states take it without being asked where the teacher has such an argument."""


LOGITS = "logits"
"""What models with several named outputs call their class scores."""


class Call(NamedTuple):
    """One call of a module. ``output``: the first or the named one; ``result``: all that it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    result: Any = None


class Pair(NamedTuple):
    """Two layers whose outputs are to be alike, by their paths."""

    kind: Literal["hint", "attention"]
    teacher: str
    student: str
    weight: float


class Pupil(nn.Module):
    """The student and, while it trains, the projections that make its features as wide as its teacher's."""

    def __init__(self, student: nn.Module, projections: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.student = student
        self.projections = nn.ModuleList(projections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The loss: (1 - weight) x the user's + weight x the answers' + the pairs', each by its own weight.

    Without ``train_step`` the answers count fully. ``output``: the name of the output that is imitated, "" what :func:`taught`
    says. ``mask``: the name of the argument [N, steps] that says which steps count, "" :data:`MASK` where there is one.
    """

    teacher: nn.Module
    task: Task
    temperature: float
    weight: float
    train_step: TrainStep | None = None
    pairs: tuple[Pair, ...] = ()
    output: str = ""
    mask: str = ""

    def pupil(self, student: nn.Module, example: Batch) -> Pupil:
        """``student`` with the projections that the pairs need, found by a call on the example inputs."""
        args, kwargs = call_arguments(example)
        with torch.no_grad(), _features(self.teacher, self._teachers) as theirs, _features(student, self._students) as ours:
            self.teacher(*args, **kwargs)
            student(*args, **kwargs)
        pairs = zip(self.pairs, theirs, ours, strict=True)
        return Pupil(student, [_projection(pair, teacher[0], student[0]) for pair, teacher, student in pairs])

    def loss(self, pupil: nn.Module, batch: Batch) -> Tensor:
        """A ``train_step`` for :class:`Pupil`."""
        assert isinstance(pupil, Pupil)
        with _features(pupil.student, self._students) as ours:
            task_loss, calls = forward(pupil.student, batch, self.train_step, self.output)
        with torch.no_grad(), _features(self.teacher, self._teachers) as theirs:
            wanted = [taught(self.teacher(*call.args, **call.kwargs), self.task, self.output) for call in calls]
        masks = [self._mask(call) for call in calls]
        per_step = self.task == "sequence" or (self.task == "regression" and self.mask)
        losses = [
            self._answers(call, teachers, mask if per_step else None)
            for call, teachers, mask in zip(calls, wanted, masks, strict=True)
        ]
        loss = torch.stack(losses).mean()
        if task_loss is not None:
            loss = (1 - self.weight) * task_loss + self.weight * loss
        for pair, projection, teacher, student in zip(self.pairs, pupil.projections, theirs, ours, strict=True):
            loss = loss + pair.weight * _alike(pair, projection, teacher, student, masks)
        return loss

    def _answers(self, call: Call, teachers: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """Of several outputs each counts relative to the teacher's variance: so none drowns in another of a larger scale."""
        students = matched(teachers, call.result, self.output)
        if len(teachers) == 1:
            name, teacher = next(iter(teachers.items()))
            return answers(self.task, students[name], teacher, self.temperature, mask)
        losses = []
        for name, teacher in teachers.items():
            error = answers(self.task, students[name], teacher, self.temperature, mask if _has_steps(teacher, mask) else None)
            losses.append(error / teacher.var(correction=0).clamp_min(1e-12))
        return torch.stack(losses).mean()

    @property
    def _teachers(self) -> list[str]:
        return [pair.teacher for pair in self.pairs]

    @property
    def _students(self) -> list[str]:
        return [pair.student for pair in self.pairs]

    def _mask(self, call: Call) -> Tensor | None:
        """The mask that came with a call; classes and embeddings have no steps to leave out."""
        bound = signature(self.teacher.forward).bind_partial(*call.args, **call.kwargs).arguments
        bound |= bound.get("kwargs", {})
        found = bound.get(self.mask or MASK)
        if self.mask and found is None:
            fix = did_you_mean(self.mask, bound) or f"the arguments are {', '.join(bound)}"
            raise CompressionError(f"the model was called without {self.mask!r}, the mask", fix=fix)
        return found


def forward(
    module: nn.Module, batch: Batch, train_step: TrainStep | None, output: str = ""
) -> tuple[Tensor | None, list[Call]]:
    """The user's loss on ``batch`` and the calls of ``module`` behind it; without ``train_step`` one call and no loss."""
    calls: list[Call] = []

    def watch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        calls.append(Call(args, kwargs, imitated(result, output), result))

    handle = module.register_forward_hook(watch, with_kwargs=True)
    try:
        if train_step is None:
            args, kwargs = call_arguments(batch)
            module(*args, **kwargs)
            return None, calls
        loss = train_step(module, batch)
    finally:
        handle.remove()
    if not calls:
        fix = "call model(inputs) in train_step, not model.forward(inputs) or one of its layers"
        raise CompressionError("train_step did not call the model", fix=fix)
    return loss, calls


def imitated(result: Any, output: str = "") -> Tensor:
    """The output called ``output``; "" is the first of floats that has an axis: Hugging Face models give their loss first."""
    floats = floating(result)
    found = floats.get(output) if output else next((value for value in floats.values() if value.ndim), None)
    if found is None:
        fix = did_you_mean(output, floats) or f"the outputs are {', '.join(floats) or 'none'}"
        raise CompressionError(f"the model has no output {output!r} of floats" if output else "nothing to imitate", fix=fix)
    return found


def floating(result: Any) -> dict[str, Tensor]:
    """Outputs of floats by name."""
    names, values = flat_outputs(result)
    return {name: value for name, value in zip(names, values, strict=True) if value.is_floating_point()}


def taught(result: Any, task: Task, output: str = "") -> dict[str, Tensor]:
    """The teacher's outputs that a student learns: the one called ``output``; without a name ``logits`` where one is called
    so, every output for regression, else the first that has an axis."""
    several = {name: value for name, value in floating(result).items() if value.ndim}
    if output or len(several) < 2:
        return {output: imitated(result, output)}
    if LOGITS in several:
        return {LOGITS: several[LOGITS]}
    return several if task == "regression" else dict(list(several.items())[:1])


def matched(teachers: dict[str, Tensor], result: Any, output: str = "") -> dict[str, Tensor]:
    """The student's outputs by the teacher's names. Raises CompressionError where it lacks one.

    A single output without a name may have another in training, where auxiliary ones stand beside it.
    """
    students = floating(result)
    if len(teachers) == 1 and LOGITS not in teachers:
        return {next(iter(teachers)): imitated(result, output)}
    if missing := [name for name in teachers if name not in students]:
        fix = f"give a student with the teacher's outputs, or name one that both have: its outputs are {', '.join(students)}"
        raise CompressionError(f"the student has no output {missing[0]!r}", fix=fix)
    return students


def _has_steps(values: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and values.shape[:2] == mask.shape


@contextmanager
def _features(module: nn.Module, layers: Sequence[str]) -> Iterator[list[list[Tensor]]]:
    """What each of ``layers`` gives while it lasts, a list per layer with an entry per call."""
    found: list[list[Tensor]] = [[] for _ in layers]
    known = dict(module.named_modules())
    with ExitStack() as stack:
        for layer, into in zip(layers, found, strict=True):
            if layer not in known:
                fix = did_you_mean(layer, known) or "name a layer by its path, as in named_modules()"
                raise CompressionError(f"{type(module).__name__} has no layer {layer!r}", fix=fix)
            stack.callback(_watch(known[layer], into).remove)
        yield found


def _watch(layer: nn.Module, into: list[Tensor]) -> RemovableHandle:
    keep: Callable[..., None] = lambda _, args, result: into.append(imitated(result))  # noqa: E731
    return layer.register_forward_hook(keep)


def _projection(pair: Pair, teacher: Tensor, student: Tensor) -> nn.Module:
    """From the student's channels to the teacher's: a 1x1 convolution for images, else linear; nothing where they are equal."""
    if teacher.ndim != student.ndim or teacher.ndim not in (2, 3, 4):
        why = f"{pair.teacher} gives {tuple(teacher.shape)}, {pair.student} gives {tuple(student.shape)}"
        raise CompressionError("these layers cannot be matched", why=why, fix="match [N, channels, H, W] or [N, steps, width]")
    axis = 1 if teacher.ndim == 4 else -1
    wide, narrow = teacher.shape[axis], student.shape[axis]
    if wide == narrow or (pair.kind == "attention" and teacher.ndim == 4):
        return nn.Identity()
    return nn.Conv2d(narrow, wide, 1, bias=False) if teacher.ndim == 4 else nn.Linear(narrow, wide, bias=False)


def _alike(
    pair: Pair, projection: nn.Module, teacher: list[Tensor], student: list[Tensor], masks: list[Tensor | None]
) -> Tensor:
    """The pair's loss over all calls."""
    measure = hint if pair.kind == "hint" else attention
    if len(masks) != len(student):  # a layer used several times in a call
        masks = [masks[0]] * len(student) if len(masks) == 1 else [None] * len(student)
    losses = []
    for wanted, given, mask in zip(teacher, student, masks, strict=True):
        steps = mask if mask is not None and given.ndim == 3 and given.shape[:2] == mask.shape else None
        losses.append(measure(same_size(projection(given), wanted), same_size(wanted, given), steps))
    return torch.stack(losses).mean()
