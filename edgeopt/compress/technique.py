"""What every compression technique is: settings that a recipe can say, applied to a module, giving a module and a record.

    settings = Channels(amount=0.5)                      # the same fields as [[step]] in a recipe
    compressed = settings.apply(module, Context(example_inputs=image))
    compressed.module                                    # an ordinary nn.Module: no masks, no hooks
    compressed.record                                    # what was done layer by layer, and why

A technique never changes the module it is given.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

from edgeopt.core import data_class
from edgeopt.model.model import Batch, Calibration, Evaluate

if TYPE_CHECKING:
    from edgeopt.targets.schema import TargetProfile

Action = Literal["changed", "left"]
Fit = Callable[[nn.Module, int], None]
"""Trains the module in place for a number of epochs: the user's function, or a Trainer's."""
TrainStep = Callable[[nn.Module, Batch], Tensor]
"""The loss of one batch, a scalar with a gradient. It neither steps nor zeroes."""
TrainBatches = Callable[[], Iterable[Batch]] | Iterable[Batch]
"""What ``train_step`` takes, labels included; a function gives one epoch at each call."""
Keep = Callable[[nn.Module], Callable[[], None]]
"""Looks at a module and returns what restores its pattern (zeros, shared values) after a training step changed it."""


@data_class
class LayerChange:
    """What became of one layer. ``layer``: the module's path; ``before`` and ``after`` in a word (``64 channels``)."""

    layer: str
    action: Action
    before: str = ""
    after: str = ""
    reason: str = ""


@data_class
class Record:
    """What one technique did. ``settings`` are those it ran with, defaults included."""

    technique: str
    settings: dict[str, Any] = field(default_factory=dict)
    layers: tuple[LayerChange, ...] = ()
    notes: tuple[str, ...] = ()
    """What concerns the whole: why nothing was done, what will not pay on the target."""

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """The layers that are not as they were."""
        return tuple(layer for layer in self.layers if layer.action == "changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A new module and how it came about. ``keep`` holds what fine-tuning must not undo; None: it may change every weight."""

    module: nn.Module
    record: Record
    keep: Keep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a technique may use besides the module; None is "not given", and a technique that needs it says so.

    ``example_inputs``: one call's arguments. ``batches``: data without labels is enough, as for calibration. ``fit``: fine-
    tuning. ``train_step`` and ``train_batches``: what ``fit`` was made of, where the user gave these. ``held_out``: batches
    like these that nothing was trained on. ``student``: the network that learns from the module. ``checkpoint``: a file from
    which a technique's own training goes on after a crash. ``profile``: the target that must gain from it. ``tell``:
    progress, in a line.
    """

    example_inputs: Batch
    batches: Calibration | None = None
    evaluate: Evaluate | None = None
    fit: Fit | None = None
    train_step: TrainStep | None = None
    train_batches: TrainBatches | None = None
    held_out: TrainBatches | None = None
    student: nn.Module | None = None
    checkpoint: Path | None = None
    profile: "TargetProfile | None" = None
    tell: Callable[[str], None] = lambda line: None

    def data(self) -> Iterable[Batch]:
        """The batches, or the example inputs alone where there are none."""
        if self.batches is None:
            return (self.example_inputs,)
        return self.batches() if callable(self.batches) else self.batches


class Technique(Protocol):
    """A frozen data class (:func:`edgeopt.core.data_class`) whose fields are the settings."""

    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A compressed copy of ``module``. Raises CompressionError where the settings do not fit the model."""
        ...
