"""What can be seen of a model: its name, what it takes and gives, and what it brings."""

import inspect
import os
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core import TensorSpec
from edgeopt.model.input_text import InputSpec
from edgeopt.model.model import Model
from edgeopt.model.references import load, load_model
from edgeopt.support.log_diversion import diverted


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """``inputs`` and ``outputs`` are flat, and empty where nothing says what the model takes."""

    name: str
    reference: str
    """As the Python file has it: a file's path is relative to the folder that is written to, where it lies below it."""
    given: tuple[str, ...] = ()
    """What ``--input`` said."""
    parameters: tuple[str, ...] = ()
    """Of forward, without those that have a default."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    calibration: bool = False
    """Whether the model brings calibration data."""
    evaluate: bool = False
    """Whether the model brings its evaluation."""

    @property
    def classes(self) -> int | None:
        """How many classes the model tells apart, where its one output is (N, C), a row for each of the input's; else None."""
        if len(self.outputs) != 1 or len(self.outputs[0].shape) != 2 or not self.inputs[0].shape:
            return None
        rows, classes = self.outputs[0].shape
        is_float = self.outputs[0].dtype.startswith("float")
        return classes if is_float and classes > 1 and rows == self.inputs[0].shape[0] else None


def look(reference: str, inputs: tuple[InputSpec, ...], folder: Path) -> Seen:
    """Loads the model and, where its inputs are known, runs it on them. Raises what an export of it would raise then."""
    with diverted(Path(os.devnull)):  # what libraries say while they are imported concerns nobody
        model = load_model(reference, inputs=inputs) if inputs else load(reference)
        takes, gives = _called(model)
    return Seen(
        name=model.name,
        reference=_from(folder, reference),
        given=tuple(map(str, inputs)),
        parameters=_parameters(model),
        inputs=takes,
        outputs=gives,
        calibration=model.calibration is not None,
        evaluate=model.evaluate is not None,
    )


def _called(model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs, from a run; none where nothing says what the model takes."""
    if model.example_inputs is None:
        return (), ()
    from edgeopt.capture import interface

    return interface(model)


def is_file(reference: str) -> bool:
    """Whether ``reference`` leads to a file, not to a module."""
    return reference.endswith(".pt2") or reference.rpartition(":")[0].endswith(".py")


def _from(folder: Path, reference: str) -> str:
    if not is_file(reference):
        return reference
    source, name = (reference, "") if reference.endswith(".pt2") else reference.rsplit(":", 1)
    path, home = Path(source).absolute(), folder.absolute()
    known = path.relative_to(home) if path.is_relative_to(home) else path
    return known.as_posix() + (f":{name}" if name else "")


def _parameters(model: Model) -> tuple[str, ...]:
    forward = getattr(model.module, "forward", None)
    try:
        parameters = inspect.signature(forward).parameters.values() if callable(forward) else ()
    except (TypeError, ValueError):  # code of C has none
        return ()
    return tuple(
        one.name for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    )
