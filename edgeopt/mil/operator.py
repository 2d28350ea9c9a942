"""The registry of MIL operators: a name maps to a function of PyTorch tensors and to how its arguments are made.

    @operator("leaky_relu")
    def leaky_relu(x: Tensor, alpha: float) -> Tensor:

Parameters are called as in MIL's documentation. Their annotations say what the function gets: ``Tensor``, ``Tensors`` (a tuple
of them), ``Ints``, ``Floats``, ``Bools`` or a plain ``int``, ``float``, ``bool`` or ``str``. Floats are float32 whatever the
program declares, unless the operator says ``half``, and the evaluator rounds what comes out. A parameter ``opset`` gets the
function's opset (15 for iOS15 ...), ``declared`` the :class:`Declared` outputs, ``blocks`` the inner blocks of control flow as
functions. MIL's own defaults fill what a program leaves out; a default here stands for an input that has none.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from torch import Tensor

Tensors = tuple[Tensor, ...]
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Bools = tuple[bool, ...]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declared:
    """An output as the program declares it. ``dtype`` is MIL's name (``fp16``, ``int32``); -1 stands for an unknown size."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    """None for what is no tensor: a list, a string."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator."""

    name: str
    call: Callable[..., Any]
    parameters: dict[str, Any]
    """Annotations by parameter."""
    exact: bool
    """Its floats are among those it was given (or 0, 1): there is nothing to round."""
    half: bool
    """It takes float16 tensors as they are, and gives what it would give of float32 ones, rounded once."""
    note: str
    """What it does not do, if anything: for the coverage table."""


OPERATORS: dict[str, Operator] = {}


def located(operator: str, output: str, layer: str) -> str:
    """An operation in words: ``conv 'conv_3' of layer features.0``; ``layer`` is empty where it is not known."""
    return f"{operator} {output!r}" + (f" of layer {layer}" if layer else "")


def operator(*names: str, exact: bool = False, half: bool = False, note: str = "") -> Callable[[Function], Function]:
    """Registers a function as the MIL operators ``names``."""

    def register(function: Function) -> Function:
        hints = get_type_hints(function)
        parameters = {name: hints[name] for name in inspect.signature(function).parameters}
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"{name} is there twice")
            OPERATORS[name] = Operator(name, function, parameters, exact, half, note)
        return function

    return register
