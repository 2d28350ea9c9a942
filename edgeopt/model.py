"""The model as the user gives it: a module, inputs to try it on, and optionally data to calibrate and evaluate with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

Batch = Any
"""One call's arguments: a tensor, a tuple or list of tensors, or a dict by parameter name."""
Predict = Callable[..., tuple[Any, ...]]
Evaluate = Callable[[Predict], dict[str, float]]
Calibration = Callable[[], Iterable[Batch]] | Iterable[Batch]
DEFAULT_NAME = "model"


@dataclass(slots=True)
class Model:
    """What edgeopt exports.

    ``module``: an ``nn.Module`` (put into eval mode) or a ``torch.export.ExportedProgram``.
    ``example_inputs``: one call's arguments; their shapes and dtypes become those of every artifact.
    ``calibration``: batches, or a function that gives them; streamed, never kept in memory.
    ``evaluate``: ``evaluate(predict) -> {name: number, higher is better}``; ``predict(*arrays)`` takes numpy arrays (or
    tensors) as the model takes tensors and returns a tuple of numpy arrays. The first number is the one that the gate judges.
    """

    module: "nn.Module | ExportedProgram"
    example_inputs: Batch = None
    calibration: Calibration | None = None
    evaluate: Evaluate | None = None
    name: str = DEFAULT_NAME
