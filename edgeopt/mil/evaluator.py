"""Runs a ``.mlpackage`` with PyTorch's kernels: :func:`load` gives an :class:`Evaluator`, which is called with arrays."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.errors import ConversionError, EdgeoptError, InputError
from edgeopt.mil import operators
from edgeopt.mil.binding import Binder, Step, Steps, Values, dtype_of
from edgeopt.mil.features import Feature, feature
from edgeopt.mil.loading import LAYERS_KEY, load_mil_program, read_spec
from edgeopt.mil.operator import Declared
from edgeopt.mil.operators.states import State
from edgeopt.mil.precision import LostRange, Precision, Watch
from edgeopt.mil.values import TORCH, tensor, wide

operators.register()

Array = NDArray[Any]


class Evaluator:
    """A loaded ML program: ``evaluator(x=array) -> {"y": array}``.

    ``inputs`` and ``outputs`` are the package's own, float16 borders included (``precision="float32"`` gives those as float32);
    where a shape may vary it is the default one. An image is an array [1, channels, height, width] of pixels. A classifier
    gives a label, and probabilities in the order of ``classes``. Equal arrays give equal results, but for what a program keeps
    in states until :meth:`reset`. Raises UnknownOperator (at loading) for an operation that is not known, ConversionError
    where one fails or gives another shape than the program declares, InputError for wrong inputs.
    """

    def __init__(self, package: Path, *, precision: Precision = "float16") -> None:
        spec = read_spec(package)
        function = _function(load_mil_program(package, spec), spec, package)
        self._given, self._results = tuple(map(feature, spec.description.input)), tuple(map(feature, spec.description.output))
        self.inputs, self.outputs = tuple(each.spec for each in self._given), tuple(each.spec for each in self._results)
        self._states = {each.spec.name: State(torch.zeros(each.spec.shape)) for each in map(feature, spec.description.state)}
        self._half, self._watch = precision == "float16", None if precision == "float32" else Watch()
        self._watching = False
        binder = Binder(_opset(function), _layers(spec), self._run_step, half=self._half)
        self._constants: Values = binder.constants
        self._main = binder.block(function, function.inputs.values(), function.outputs)
        self._input_dtypes = {name: dtype_of(var) for name, var in function.inputs.items()}
        self._output_names = [var.name for var in function.outputs]
        ends = [step for step in self._main.steps if step.operator.name == "classify"]
        self.classes: tuple[str | int, ...] = tuple(ends[0].fixed["classes"]) if ends else ()

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Outputs by name for arrays by name, of any number type that converts to the declared one."""
        with torch.inference_mode():
            values = self._run(self._main, self._constants, *self._fed(inputs))
        found = dict(zip(self._output_names, values, strict=True))
        return {each.spec.name: self._output(each, found[each.spec.name]) for each in self._results}

    def examine(self, **inputs: Any) -> tuple[dict[str, Array], tuple[LostRange, ...]]:
        """As a call, and what float16 has lost in it and in earlier calls of this method; nothing with ``float32``."""
        self._watching = True
        try:
            outputs = self(**inputs)
        finally:
            self._watching = False
        return outputs, self._watch.lost() if self._watch else ()

    def reset(self) -> None:
        """Every state is zeros again, as before the first call."""
        for state in self._states.values():
            state.value = torch.zeros_like(state.value)

    def _fed(self, inputs: Mapping[str, Any]) -> list[Tensor | State]:
        names = [each.spec.name for each in self._given]
        needed = {each.spec.name for each in self._given if each.default is None}
        if not needed <= set(inputs) <= set(names):
            why = f"given: {', '.join(sorted(inputs)) or 'nothing'}"
            raise InputError(f"the program takes {', '.join(names)}", why=why, fix="give each of them by its name")
        values = {each.spec.name: self._input(each, inputs.get(each.spec.name)) for each in self._given}
        return [values[name] if name in values else self._states[name] for name in self._input_dtypes]

    def _input(self, declared: Feature, given: Any) -> Tensor:
        name, dtype = declared.spec.name, self._input_dtypes[declared.spec.name]
        array = np.full(declared.spec.shape, declared.default) if given is None else np.asarray(given)
        if not declared.fits(array.shape):
            raise InputError(f"{name} has the shape {declared.describe()}, not {list(array.shape)}", fix="give such a shape")
        with np.errstate(invalid="ignore"):  # what does not fit a pixel is found below
            converted = array.astype(declared.spec.dtype)
        if declared.spec.dtype == "uint8" and not np.array_equal(converted, array):
            raise InputError(f"{name} is an image", why="its pixels are no integers from 0 to 255", fix="give unscaled pixels")
        value = tensor(converted).to(TORCH[dtype])
        return value.half() if self._half and dtype == "fp16" else value

    def _output(self, declared: Feature, value: Any) -> Array:
        array, dtype = np.asarray(value.numpy() if isinstance(value, Tensor) else value), declared.spec.dtype
        if dtype == "uint8":  # Core ML does not say how it makes pixels of floats
            array = np.clip(np.rint(array), 0, 255)
        exact = dtype == "float16" and not self._half
        with np.errstate(over="ignore"):  # to infinity, as on a device
            return array.astype("float32" if exact else dtype)

    def _run(self, block: Steps, outer: Values, *inputs: Any) -> tuple[Any, ...]:
        values = dict(zip(block.inputs, inputs, strict=True))
        for key in block.captured:
            values[key] = outer[key]
        for step, done in zip(block.steps, block.last_uses, strict=True):
            self._run_step(step, values)
            for key in done:
                del values[key]
        return tuple([values[key] for key in block.outputs])

    def _run_step(self, step: Step, values: Values) -> None:
        """Puts the results of ``step`` where its keys say."""
        try:
            if step.blocks:
                found = step.call(values, blocks=tuple([partial(self._run, block, values) for block in step.blocks]))
            elif not self._half or (step.operator.half and not self._watching):
                found = step.call(values)
            else:
                found = step.call({key: wide(values[key]) for key in step.reads})
        except EdgeoptError:
            raise
        except Exception as error:  # PyTorch raises anything from IndexError to RuntimeError for a program that is wrong
            raise _failed(step, f"{type(error).__name__}: {error}") from error
        if isinstance(found, tuple):
            for key, value, declared in zip(step.keys, found, step.declared, strict=True):
                values[key] = self._finished(step, value, declared)
        else:
            (key,), (declared,) = step.keys, step.declared
            values[key] = self._finished(step, found, declared)

    def _finished(self, step: Step, value: Any, declared: Declared) -> Any:
        """``value`` in the declared precision. Raises ConversionError where its shape is not the declared one."""
        if declared.shape is None:
            return value
        if not isinstance(value, Tensor):
            value = tensor(value)
        if value.shape != declared.shape and not _fits(tuple(value.shape), declared.shape):
            raise _failed(step, f"it gives {list(value.shape)} where the program declares {list(declared.shape)}")
        if not self._half or declared.dtype != "fp16" or value.dtype == torch.float16:
            return value
        result = value.half()
        if self._watching and self._watch is not None and not step.operator.exact:
            self._watch.saw(step.operator.name, declared.name, step.layer, value, result)
        return result


def load(package: str | Path, *, precision: Precision = "float16") -> Evaluator:
    """The program in ``package`` (an ``.mlpackage`` folder), ready to run on this machine.

    ``precision="float16"`` rounds every tensor that the program declares as float16 (arithmetic within one operator is in
    float32); ``"float32"`` computes what the program says without rounding. Programs in float32 give the same either way.
    """
    return Evaluator(Path(package), precision=precision)


def _function(program: Any, spec: Any, package: Path) -> Any:
    name = spec.description.defaultFunctionName or "main"
    if name not in program.functions:
        raise ConversionError(f"{package.name} has no function {name!r}", why=f"it has: {', '.join(program.functions)}")
    return program.functions[name]


def _opset(function: Any) -> int:
    """15 for iOS15 ... 18 for iOS18."""
    return int(function.opset_version.name.removeprefix("iOS"))


def _layers(spec: Any) -> dict[str, str]:
    """Layers by their operators' names, where the package says so."""
    text = spec.description.metadata.userDefined.get(LAYERS_KEY, "")
    try:
        found = json.loads(text) if text else {}
        return {str(name): str(layer) for layer, names in found.items() for name in names}
    except (ValueError, TypeError, AttributeError):  # a package may say anything; without layers errors are less helpful
        return {}


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(want in (size, -1) for size, want in zip(shape, declared, strict=True))


def _failed(step: Step, why: str) -> ConversionError:
    fix = "run the package on a Mac; if it works there, report this with the package"
    return ConversionError(f"{step} could not be evaluated", why=why, fix=fix)
