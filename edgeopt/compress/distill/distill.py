"""Knowledge distillation: a smaller student learns what its teacher answers (Hinton et al., 2015, arXiv:1503.02531).

    Distill(student="net.py:small", epochs=10).apply(teacher, context)      # a network of the user's
    Distill(width=0.5, epochs=10, temperature=4).apply(teacher, context)    # the teacher with half of its channels

A student much smaller than its teacher learns through assistants between them (Mirzadeh et al., 2020, arXiv:1902.03393). Data
without labels is enough; with ``train_step`` and labels the user's own loss takes its share.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.measures import macs, parameters
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.scoring import score
from edgeopt.compress.common.training import Trainer, fine_tune, write_state
from edgeopt.compress.distill.assistants import AssistantStage, Progressive, planned
from edgeopt.compress.distill.lessons import LOGITS, Lesson, Pair, Pupil, floating, matched, taught
from edgeopt.compress.distill.losses import Task, answers, refuse_probabilities
from edgeopt.compress.distill.students import StudentGoal, narrower, shallower, to_goal
from edgeopt.compress.distill.unlabelled import training_batches
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError, ModelError, TrainingFailed
from edgeopt.model.references import resolve
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause, summary

Layers = tuple[tuple[str, str], ...]


@data_class
class Distill:
    """The module is the teacher; the record's module is the student.

    The student: ``student``, a reference to an nn.Module or a function that makes one (or Context.student from Python); or of
    the teacher's weights with ``width`` (a share) of its channels, with ``layers`` (how many, or a share) of its layers, or
    with ``parameters`` at most: see :mod:`edgeopt.compress.distill.students`.

    The loss: ``1 - weight`` of the user's ``train_step`` and ``weight`` of the teacher's answers at ``temperature``, which only
    class scores use. ``hints`` and ``attention`` are pairs of layers (teacher's, student's) whose outputs are to be alike
    (FitNets, arXiv:1412.6550; attention maps, arXiv:1612.03928).
    ``output``: the name of the output that is imitated. Without it a model's only output is, or the one called logits; of
    several, regression teaches all, each relative to its variance, and other tasks ask for the name. ``mask``: the name of the
    argument that says which steps of a sequence count, "" attention_mask where there is one.

    ``epochs`` are per stage. ``patience``: the best epoch by ``evaluate`` is kept, and that many without a better one end a
    stage. ``max_ratio``: how many times more parameters a teacher may have than its student; beyond it ``progressive`` inserts
    assistants that narrow down in equal steps, refuses, or is off.
    """

    student: str = ""
    width: float | None = None
    layers: int | float | None = None
    parameters: int | None = None
    epochs: int = 10
    task: Task = "classification"
    temperature: float = 4.0
    weight: float = 0.7
    hints: Layers = field(default=())
    hint_weight: float = 1.0
    attention: Layers = field(default=())
    attention_weight: float = 1.0
    output: str = ""
    mask: str = ""
    learning_rate: float = 3e-3
    patience: int | None = None
    max_ratio: float = 4.0
    progressive: Progressive = "insert"

    def __post_init__(self) -> None:
        if sum((bool(self.student), self.width is not None, self.layers is not None, self.parameters is not None)) > 1:
            raise ValueError("student, width, layers and parameters are ways to say the same: give one")
        for name in ("temperature", "learning_rate", "hint_weight", "attention_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be above 0")
        if not 0 < self.weight <= 1:
            raise ValueError("weight is the teacher's share of the loss: above 0, at most 1")
        if self.epochs < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError("epochs and patience must be at least 1")
        if not (math.isfinite(self.max_ratio) and self.max_ratio > 1):
            raise ValueError("max_ratio must be above 1: the teacher's parameters over the student's")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """The trained student, in the teacher's mode. Raises CompressionError where the two do not fit or there is no data."""
        if self.patience is not None and context.evaluate is None:
            raise CompressionError("patience needs a score", fix="give evaluate, or leave patience out")
        batches = training_batches(module, context)
        if context.train_batches is None:
            context = replace(context, train_step=None)  # it wants labels, which calibration data does not have
        teacher = copied(module).eval().requires_grad_(False)
        student, made = self._made(module, context)
        untaught = self._untaught(teacher, student, context)
        stages = planned(module, student, context.example_inputs, self.max_ratio, self.progressive)
        for stage in stages:
            context.tell(stage.describe())
            lesson = self._lesson(teacher, context, last=stage is stages[-1])
            trainer = Trainer(
                train_step=lesson.loss, batches=batches, learning_rate=self.learning_rate, patience=self.patience,
                score=self._score(context), checkpoint=stage.file(context.checkpoint, "training"), tell=context.tell,
            )  # fmt: skip
            _taught(stage, lesson, trainer, self.epochs, context)
            teacher = copied(stage.student).eval().requires_grad_(False)
        _forget(stages, context.checkpoint)
        return Compressed(
            module=student.train(module.training), record=self._record(module, student, made, stages, context, untaught)
        )

    def _made(self, module: nn.Module, context: Context) -> tuple[nn.Module, Record | None]:
        """A student of its own to train, and how it was made of the teacher."""
        if self.width is not None:
            return narrower(module, self.width, context.example_inputs)
        if self.layers is not None:
            return shallower(module, self.layers, context.example_inputs)
        if self.parameters is not None:
            return to_goal(module, context.example_inputs, StudentGoal(parameters=self.parameters))
        if context.student is not None:
            return copied(context.student), None
        if self.student:
            return copied(named(self.student)), None
        fix = 'give student = "file.py:name", or width, layers or parameters'
        raise CompressionError("there is no student to distil into", fix=fix)

    def _untaught(self, teacher: nn.Module, student: nn.Module, context: Context) -> tuple[str, ...]:
        """Refuses outputs that cannot be matched, before anything is trained; the names of those that are not taught."""
        args, kwargs = call_arguments(context.example_inputs)
        student.eval()
        try:
            with torch.no_grad():
                results = [net(*args, **kwargs) for net in (teacher, student)]
        except Exception as error:
            fix = "give a student that takes the teacher's inputs"
            raise CompressionError("the student does not run on the example inputs", why=cause(error), fix=fix) from error
        wanted = taught(results[0], self.task, self.output)
        several = [name for name, value in floating(results[0]).items() if value.ndim]
        self._refuse_ambiguous(several, wanted)
        students = matched(wanted, results[1], self.output)
        for name, value in wanted.items() if self.task != "embedding" else ():
            answers(self.task, students[name], value, self.temperature)
            if self.task != "regression":
                refuse_probabilities(value.movedim(1, -1) if self.task == "classification" else value)
        return () if len(several) < 2 else tuple(name for name in several if name not in wanted and name != self.output)

    def _refuse_ambiguous(self, several: Sequence[str], wanted: Mapping[str, Tensor]) -> None:
        """Which of several outputs holds class scores cannot be guessed: boxes would be taken for classes."""
        if self.task in ("classification", "sequence") and not self.output and len(several) > 1 and LOGITS not in wanted:
            why = f"task {self.task} teaches class scores, and the outputs are {', '.join(several)}"
            fix = f'name the one with class scores, as in output = "{several[-1]}", or set task = "regression" to teach all'
            raise CompressionError("the model has several outputs", why=why, fix=fix)

    def _lesson(self, teacher: nn.Module, context: Context, last: bool) -> Lesson:
        """Assistants learn from the answers alone: the pairs name layers of the student's."""
        hints = [Pair("hint", theirs, ours, self.hint_weight) for theirs, ours in self.hints]
        maps = [Pair("attention", theirs, ours, self.attention_weight) for theirs, ours in self.attention]
        return Lesson(
            teacher=teacher, task=self.task, temperature=self.temperature, weight=self.weight, train_step=context.train_step,
            pairs=(*hints, *maps) if last else (), output=self.output, mask=self.mask,
        )  # fmt: skip

    def _score(self, context: Context) -> Callable[[nn.Module], float] | None:
        if self.patience is None:
            return None

        def first(pupil: nn.Module) -> float:
            assert isinstance(pupil, Pupil)
            return next(iter(score(pupil.student, context.evaluate, context.example_inputs).values()))

        return first

    def _record(
        self, teacher: nn.Module, student: nn.Module, made: Record | None, stages: Sequence[AssistantStage], context: Context,
        untaught: tuple[str, ...],
    ) -> Record:  # fmt: skip
        before, after = (_size(net, context) for net in (teacher, student))
        whole = LayerChange(layer="", action="changed", before=before[0], after=after[0], reason="distilled")
        notes = [stage.describe() for stage in stages] if len(stages) > 1 else []
        if stages[-1].ratio > self.max_ratio:
            notes.append(f"the teacher has {stages[-1].ratio:.1f} times the student's parameters: assistants may help")
        if after[1] >= before[1]:
            notes.append("the student computes no less than its teacher: it will not be faster")
        if untaught:
            notes.append(f"not taught by the teacher: the outputs {', '.join(untaught)}")
        if context.train_step is None:
            notes.append("without train_step and labels: the student learned from the teacher's answers alone")
        layers = (whole, *(made.layers if made else ()))
        return Record(technique="distill", settings=to_data(self), layers=layers, notes=(*(made.notes if made else ()), *notes))


def _taught(stage: AssistantStage, lesson: Lesson, trainer: Trainer, epochs: int, context: Context) -> None:
    """Trains the stage's student in place, or takes it from the file that a run before this one left."""
    finished = stage.file(context.checkpoint, "finished")
    if finished is not None and finished.exists():
        try:
            stage.student.load_state_dict(torch.load(finished, weights_only=True))
        except Exception as error:
            fix = f"delete {finished} to train that stage anew"
            raise TrainingFailed(f"{finished} does not fit this training", why=summary(error), fix=fix) from error
        return
    frozen = not any(parameter.requires_grad for parameter in stage.student.parameters())
    if frozen:  # as a copy of a frozen teacher is
        stage.student.requires_grad_(True)
    fine_tune(trainer.fit, lesson.pupil(stage.student, context.example_inputs), epochs)
    if frozen:
        stage.student.requires_grad_(False)
    if finished is not None:
        write_state(finished, stage.student)


def _forget(stages: Sequence[AssistantStage], checkpoint: Path | None) -> None:
    for stage in stages:
        finished = stage.file(checkpoint, "finished")
        if finished is not None:
            finished.unlink(missing_ok=True)


def named(reference: str) -> nn.Module:
    """The module that a reference leads to, or that the function there makes. Raises ReferenceNotFound or ModelError."""
    found = resolve(reference)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise ModelError(f"{reference} raised", why=cause(error), fix="give a function without arguments") from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"{reference} is a {type(found).__name__}, not a torch.nn.Module", fix="give an nn.Module")
    return found


def _size(module: nn.Module, context: Context) -> tuple[str, int]:
    """In words, and its MACs."""
    computed = macs(module, context.example_inputs)
    return f"{parameters(module):,} parameters, {computed:,} MACs", computed
