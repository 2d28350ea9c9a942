"""The model as the user gives it: a module, inputs to try it on, and optionally data to calibrate and evaluate with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

Batch = Any
"""One call's arguments: a tensor, a tuple or list of tensors, or a dict by parameter name."""
Predict = Callable[..., tuple[Any, ...]]
Evaluate = Callable[[Predict], dict[str, float]]
Calibration = Callable[[], Iterable[Batch]] | Iterable[Batch]
DEFAULT_NAME = "model"
_PLACEHOLDER = "__edgeopt_placeholder__"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def placeholder(function: _Function) -> _Function:
    """Marks ``batches`` or ``evaluate`` as not filled in yet: a :class:`Model` takes such a function as not given.

    So what is made meanwhile is marked as uncalibrated, and no accuracy is told that random data gave.
    """
    setattr(function, _PLACEHOLDER, True)
    return function


def is_placeholder(value: object) -> bool:
    """Whether ``value`` is a function that :func:`placeholder` marks."""
    return getattr(value, _PLACEHOLDER, False) is True


@dataclass(slots=True)
class Model:
    """What edgeopt exports.

    ``module``: an ``nn.Module`` (put into eval mode) or a ``torch.export.ExportedProgram``.
    ``example_inputs``: one call's arguments; their shapes and dtypes become those of every artifact.
    ``calibration``: batches, or a function that gives them; streamed, never kept in memory.
    ``evaluate``: ``evaluate(predict) -> {name: number, higher is better}``; ``predict(*arrays)`` takes numpy arrays (or
    tensors) as the model takes tensors and returns a tuple of numpy arrays. The first number is the one that the gate judges;
    ``top1/class=7`` is a slice of ``top1``. It is called for the model, twice where that is cheap, and for every artifact.
    """

    module: "nn.Module | ExportedProgram"
    example_inputs: Batch = None
    calibration: Calibration | None = None
    evaluate: Evaluate | None = None
    name: str = DEFAULT_NAME
    unfilled: tuple[str, ...] = ()
    """Which of ``calibration`` and ``evaluate`` were given as a placeholder, and so are None."""

    def __post_init__(self) -> None:
        for kind in ("calibration", "evaluate"):
            given = getattr(self, kind)
            if is_placeholder(given):
                setattr(self, kind, None)
                self.unfilled = tuple(dict.fromkeys((*self.unfilled, kind)))
            elif given is not None:
                self.unfilled = tuple(other for other in self.unfilled if other != kind)
