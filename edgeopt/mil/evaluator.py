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

from edgeopt.core import TensorSpec
from edgeopt.errors import ConversionError, EdgeoptError, InputError
from edgeopt.mil import operators
from edgeopt.mil.binding import Binder, Key, Step, Steps
from edgeopt.mil.loading import LAYERS_KEY, features, load_program, read_spec
from edgeopt.mil.operator import Declared
from edgeopt.mil.precision import LostRange, Precision, Watch, rounded
from edgeopt.mil.values import tensor

operators.register()

Array = NDArray[np.generic]


class Evaluator:
    """A loaded ML program: ``evaluator(x=array) -> {"y": array}``.

    ``inputs`` and ``outputs`` are the package's own, float16 borders included. Equal arrays give equal results. Raises
    UnknownOperator (at loading) for an operation that is not known, ConversionError where one fails or gives another shape
    than the program declares, InputError for wrong inputs.
    """

    def __init__(self, package: Path, *, precision: Precision = "float16") -> None:
        spec = read_spec(package)
        function = _function(load_program(package, spec), spec, package)
        self.inputs, self.outputs = features(spec.description.input), features(spec.description.output)
        self._half, self._watch = precision == "float16", None if precision == "float32" else Watch()
        self._watching = False
        binder = Binder(_opset(function), _layers(spec), self._run_step)
        self._constants: dict[Key, Any] = binder.constants
        self._main = binder.block(function, function.inputs.values(), function.outputs)
        self._input_dtypes = {name: _mil_dtype(var) for name, var in function.inputs.items()}
        self._output_names = [var.name for var in function.outputs]

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Outputs by name for arrays by name, of any number type that converts to the declared one."""
        with torch.inference_mode():
            values = self._run(self._main, {}, *self._fed(inputs))
        found = dict(zip(self._output_names, values, strict=True))
        return {spec.name: _array(found[spec.name], spec) for spec in self.outputs}

    def examine(self, **inputs: Any) -> tuple[dict[str, Array], tuple[LostRange, ...]]:
        """As a call, and what float16 has lost in it and in earlier calls of this method; nothing with ``float32``."""
        self._watching = True
        try:
            outputs = self(**inputs)
        finally:
            self._watching = False
        return outputs, self._watch.lost() if self._watch else ()

    def _fed(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        names = [spec.name for spec in self.inputs]
        if set(inputs) != set(names):
            why = f"given: {', '.join(sorted(inputs)) or 'nothing'}"
            raise InputError(f"the program takes {', '.join(names)}", why=why, fix="give each of them by its name")
        return [self._input(spec, inputs[spec.name]) for spec in self.inputs]

    def _input(self, spec: TensorSpec, given: Any) -> Tensor:
        array = np.asarray(given)
        if array.shape != spec.shape and spec.shape:
            raise InputError(f"{spec.name} has the shape {list(spec.shape)}, not {list(array.shape)}", fix="give that shape")
        value = tensor(array.astype(spec.dtype))
        return rounded(value) if self._half and self._input_dtypes[spec.name] == "fp16" else value

    def _run(self, block: Steps, outer: Mapping[Key, Any], *inputs: Any) -> tuple[Any, ...]:
        values = {**outer, **dict(zip(block.inputs, inputs, strict=True))}
        for step, done in zip(block.steps, block.last_uses, strict=True):
            values.update(zip(step.keys, self._run_step(step, values), strict=True))
            for key in done:
                values.pop(key, None)
        return tuple(self._value(key, values) for key in block.outputs)

    def _value(self, key: Key, values: Mapping[Key, Any]) -> Any:
        return values[key] if key in values else self._constants[key]

    def _run_step(self, step: Step, values: Mapping[Key, Any] | None = None) -> tuple[Any, ...]:
        values = values or {}
        try:
            arguments = dict(step.fixed)
            for name, source, convert in step.variable:
                arguments[name] = convert(self._of(source, values))
            if step.blocks:
                arguments["blocks"] = tuple(partial(self._run, block, values) for block in step.blocks)
            found = step.operator.call(**arguments)
        except EdgeoptError:
            raise
        except Exception as error:  # PyTorch raises anything from IndexError to RuntimeError for a program that is wrong
            raise _failed(step, f"{type(error).__name__}: {error}") from error
        results = found if isinstance(found, tuple) else (found,)
        return tuple(self._finished(step, *pair) for pair in zip(results, step.declared, strict=True))

    def _of(self, source: Key | tuple[Key, ...], values: Mapping[Key, Any]) -> Any:
        return self._value(source, values) if isinstance(source, int) else tuple(self._value(key, values) for key in source)

    def _finished(self, step: Step, value: Any, declared: Declared) -> Any:
        """``value`` in the declared precision. Raises ConversionError where its shape is not the declared one."""
        if declared.shape is None or not isinstance(value, Tensor):
            return value
        if not _fits(tuple(value.shape), declared.shape):
            raise _failed(step, f"it gives {list(value.shape)} where the program declares {list(declared.shape)}")
        if declared.dtype != "fp16" or not self._half or step.operator.exact:
            return value
        result = rounded(value)
        if self._watching and self._watch is not None:
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


def _mil_dtype(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(getattr(var, "dtype", None))) if hasattr(var, "dtype") else ""


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(want in (size, -1) for size, want in zip(shape, declared, strict=True))


def _array(value: Any, spec: TensorSpec) -> Array:
    return np.asarray(value.numpy() if isinstance(value, Tensor) else value).astype(spec.dtype)


def _failed(step: Step, why: str) -> ConversionError:
    fix = "run the package on a Mac; if it works there, report this with the package"
    return ConversionError(f"{step} could not be evaluated", why=why, fix=fix)
