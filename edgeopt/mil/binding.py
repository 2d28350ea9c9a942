"""Binding: a block of MIL operations becomes steps, each an operator's function with its constant arguments already made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor

from edgeopt.errors import UnknownOperator
from edgeopt.mil.operator import OPERATORS, Declared, Operator, Tensors, located
from edgeopt.mil.values import converter, tensor, wide

Key = int
"""A value's number. MIL's names may occur again in other blocks."""
Values = dict[Key, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation."""

    operator: Operator
    name: str
    layer: str
    fixed: dict[str, Any]
    """Arguments that are constant, by parameter."""
    call: Callable[..., Any]
    """What the operator makes of a mapping of values; of its blocks too, as functions, where it has some: ``blocks=``."""
    reads: frozenset[Key]
    """Values that it needs, those needed within its blocks included."""
    keys: tuple[Key, ...]
    declared: tuple[Declared, ...]
    blocks: tuple["Steps", ...]

    def __str__(self) -> str:
        return f"the operator {located(self.operator.name, self.name, self.layer)}"


@dataclass(frozen=True, slots=True)
class Steps:
    """A block: its steps in order, where its inputs go and where its outputs are."""

    inputs: tuple[Key, ...]
    captured: tuple[Key, ...]
    """Values from around it that it reads or gives."""
    steps: tuple[Step, ...]
    outputs: tuple[Key, ...]
    last_uses: tuple[tuple[Key, ...], ...]
    """By step: values that nothing reads any more."""


class Binder:
    """Binds the blocks of one program. ``fold`` puts a step's results beside the constants of which it computes them.

    ``half``: operators that take float16 as it is are given constants so.
    """

    def __init__(self, opset: int, layers: Mapping[str, str], fold: Callable[[Step, Values], None], *, half: bool) -> None:
        self.constants: Values = {}
        self._opset, self._layers, self._fold, self._half = opset, layers, fold, half
        self._keys: dict[Any, Key] = {}

    def block(self, block: Any, inputs: Any, outputs: Any) -> Steps:
        """``block``'s steps. Raises UnknownOperator where there is an operation without an operator here."""
        input_keys = tuple(self.key(var) for var in inputs)
        steps = [step for operation in block.operations if (step := self._step(operation)) is not None]
        output_keys = tuple(self.key(var) for var in outputs)
        made = {*input_keys, *(key for step in steps for key in step.keys)}
        captured = {*output_keys, *(key for step in steps for key in step.reads)} - made
        constants = {key: self.constants[key] for key in captured if key in self.constants}
        self.constants |= {key: value if isinstance(value, str) else tensor(value) for key, value in constants.items()}
        last_uses = _last_uses(steps, {*input_keys, *output_keys, *captured})
        return Steps(input_keys, tuple(sorted(captured)), tuple(steps), output_keys, last_uses)

    def key(self, var: Any) -> Key:
        """The number of a MIL variable."""
        return self._keys.setdefault(var, len(self._keys))

    def _step(self, operation: Any) -> Step | None:
        if operation.op_type == "const":
            self.constants[self.key(operation.outputs[0])] = operation.outputs[0].val
            return None
        step = self._bound(operation, self._operator(operation))
        if step.reads or step.blocks:
            return step
        self._fold(step, self.constants)
        return None

    def _bound(self, operation: Any, found: Operator) -> Step:
        outputs = operation.outputs
        blocks = tuple(self.block(block, block.inputs, block.outputs) for block in operation.blocks)
        fixed: dict[str, Any] = {}
        variable = []
        for name, source in _arguments(operation).items():
            if name not in found.parameters:
                continue
            if _is_constant(source, self.constants, self.key):
                value = converter(found.parameters[name])(_constant(source, self.constants, self.key))
                fixed[name] = value.half() if self._half and found.half and _is_half(source, value) else wide(value)
            else:
                keys = tuple(self.key(each) for each in source) if isinstance(source, tuple | list) else self.key(source)
                variable.append(_Argument(name, keys, found.parameters[name]))
        declared = tuple(Declared(var.name, dtype_of(var), _shape(var)) for var in outputs)
        fixed |= {name: value for name, value in (("opset", self._opset), ("declared", declared)) if name in found.parameters}
        reads = {key for each in variable for key in each.read()} | {key for block in blocks for key in block.captured}
        name, keys, call = outputs[0].name, tuple(self.key(var) for var in outputs), _caller(found, fixed, variable)
        return Step(found, name, self._layers.get(name, ""), fixed, call, frozenset(reads), keys, declared, blocks)

    def _operator(self, operation: Any) -> Operator:
        name = operation.op_type
        if name in OPERATORS:
            return OPERATORS[name]
        output = operation.outputs[0].name
        raise UnknownOperator(
            f"the operator {located(name, output, self._layers.get(output, ''))} cannot be evaluated here",
            why=f"known operators: {', '.join(sorted(OPERATORS))}",
            fix="run the package on a Mac, or rewrite that layer with other operators",
        )


class _Argument(NamedTuple):
    """A parameter, where its value or values are, and its annotation."""

    name: str
    source: Key | tuple[Key, ...]
    annotation: Any

    def read(self) -> tuple[Key, ...]:
        return (self.source,) if isinstance(self.source, int) else self.source

    def getter(self) -> Callable[[Values], Any]:
        source, convert = self.source, converter(self.annotation)
        if isinstance(source, int):
            return itemgetter(source) if self.annotation is Tensor else lambda values: convert(values[source])
        if self.annotation is Tensors and len(source) > 1:
            return itemgetter(*source)
        return lambda values: convert(tuple([values[key] for key in source]))


def _caller(found: Operator, fixed: dict[str, Any], variable: list[_Argument]) -> Callable[..., Any]:
    """``Step.call``. Values are tensors already where a tensor is read: such arguments go in as they are.

    In a program of small operators more time would go between them than into them; so those of tensors alone have a short way.
    """
    ready = partial(found.call, **fixed) if fixed else found.call
    sources = {each.name: each.source for each in variable if each.annotation is Tensor}
    first = tuple(found.parameters)[: len(variable)]
    if variable and set(first) == set(sources):
        fetch = itemgetter(*(sources[name] for name in first))
        return (lambda values: ready(*fetch(values))) if len(first) > 1 else (lambda values: ready(fetch(values)))
    getters = [(each.name, each.getter()) for each in variable]
    return lambda values, **blocks: ready(**{name: get(values) for name, get in getters}, **blocks)


def _arguments(operation: Any) -> dict[str, Any]:
    """What the operation is given, and MIL's defaults for the rest. Inner functions of control flow are no data."""
    given = {name: value for name, value in operation.inputs.items() if value is not None and not name.startswith("_")}
    defaults = {name: value for name, value in operation.default_inputs().items() if value is not None}
    return {**defaults, **given}


def _is_constant(source: Any, constants: Mapping[Key, Any], key: Callable[[Any], Key]) -> bool:
    parts = source if isinstance(source, tuple | list) else (source,)
    return all(not hasattr(part, "sym_type") or key(part) in constants for part in parts)


def _constant(source: Any, constants: Mapping[Key, Any], key: Callable[[Any], Key]) -> Any:
    if isinstance(source, tuple | list):
        return tuple(_constant(part, constants, key) for part in source)
    return constants[key(source)] if hasattr(source, "sym_type") else source


def _is_half(source: Any, value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(source, "sym_type") and dtype_of(source) == "fp16"


def dtype_of(var: Any) -> str:
    """MIL's name of a variable's type: ``fp16``, ``int32``, ``list``, ``state`` ..."""
    from coremltools.converters.mil.mil import types

    kind = var.sym_type
    if types.is_list(kind) or types.is_state(kind):
        return "list" if types.is_list(kind) else "state"
    return str(types.builtin_to_string(var.dtype))


def _shape(var: Any) -> tuple[int, ...] | None:
    from coremltools.converters.mil.mil import types

    if types.is_str(var.sym_type) or not (types.is_tensor(var.sym_type) or types.is_scalar(var.sym_type)):
        return None
    return tuple(size if isinstance(size, int) else -1 for size in map(_as_int, var.shape))


def _as_int(size: Any) -> Any:
    try:
        return int(size)
    except TypeError:  # a symbol
        return size


def _last_uses(steps: list[Step], kept: set[Key]) -> tuple[tuple[Key, ...], ...]:
    seen, found = set(kept), []
    made = {key for step in steps for key in step.keys}
    for step in reversed(steps):
        fresh = {key for key in (*step.reads, *step.keys) if key not in seen and key in made}
        seen |= fresh
        found.append(tuple(sorted(fresh)))
    return tuple(reversed(found))
