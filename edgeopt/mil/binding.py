"""Binding: a block of MIL operations becomes steps, each an operator's function with its constant arguments already made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeopt.errors import UnknownOperator, did_you_mean
from edgeopt.mil.operator import OPERATORS, Declared, Operator, located
from edgeopt.mil.values import converter

Key = int
"""A value's number. MIL's names may occur again in other blocks."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: ``call(**fixed, **variable)``."""

    operator: Operator
    name: str
    layer: str
    fixed: dict[str, Any]
    variable: tuple[tuple[str, Key | tuple[Key, ...], Callable[[Any], Any]], ...]
    """Parameter, where its value or values are, and what makes the argument of it."""
    keys: tuple[Key, ...]
    declared: tuple[Declared, ...]
    blocks: tuple["Steps", ...]

    def __str__(self) -> str:
        return f"the operator {located(self.operator.name, self.name, self.layer)}"

    def uses(self) -> Iterator[Key]:
        """The values it reads, those read within its blocks included."""
        for _, source, _ in self.variable:
            yield from (source,) if isinstance(source, int) else source
        for block in self.blocks:
            yield from block.outputs
            for step in block.steps:
                yield from step.uses()


@dataclass(frozen=True, slots=True)
class Steps:
    """A block: its steps in order, where its inputs go and where its outputs are."""

    inputs: tuple[Key, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Key, ...]
    last_uses: tuple[tuple[Key, ...], ...]
    """By step: values that nothing reads any more."""


class Binder:
    """Binds the blocks of one program. ``fold`` computes a step whose arguments are all constant, once and for all."""

    def __init__(
        self, opset: int, layers: Mapping[str, str], fold: Callable[[Step, Mapping[Key, Any]], tuple[Any, ...]]
    ) -> None:
        self.constants: dict[Key, Any] = {}
        self._opset, self._layers, self._fold = opset, layers, fold
        self._keys: dict[Any, Key] = {}

    def block(self, block: Any, inputs: Any, outputs: Any) -> Steps:
        """``block``'s steps. Raises UnknownOperator where there is an operation without an operator here."""
        input_keys = tuple(self.key(var) for var in inputs)
        steps = [step for operation in block.operations if (step := self._step(operation)) is not None]
        output_keys = tuple(self.key(var) for var in outputs)
        return Steps(input_keys, tuple(steps), output_keys, _last_uses(steps, {*input_keys, *output_keys}))

    def key(self, var: Any) -> Key:
        """The number of a MIL variable."""
        return self._keys.setdefault(var, len(self._keys))

    def _step(self, operation: Any) -> Step | None:
        if operation.op_type == "const":
            self.constants[self.key(operation.outputs[0])] = operation.outputs[0].val
            return None
        step = self._bound(operation, self._operator(operation))
        if step.variable or step.blocks:
            return step
        self.constants.update(zip(step.keys, self._fold(step, self.constants), strict=True))
        return None

    def _bound(self, operation: Any, found: Operator) -> Step:
        outputs = operation.outputs
        blocks = tuple(self.block(block, block.inputs, block.outputs) for block in operation.blocks)
        fixed: dict[str, Any] = {}
        variable = []
        for name, source in _arguments(operation).items():
            if name not in found.parameters:
                continue
            convert = converter(found.parameters[name])
            if _is_constant(source, self.constants, self.key):
                fixed[name] = convert(_constant(source, self.constants, self.key))
            else:
                keys = tuple(self.key(each) for each in source) if isinstance(source, tuple | list) else self.key(source)
                variable.append((name, keys, convert))
        declared = tuple(Declared(var.name, dtype_of(var), _shape(var)) for var in outputs)
        fixed |= {name: value for name, value in (("opset", self._opset), ("declared", declared)) if name in found.parameters}
        name, keys = outputs[0].name, tuple(self.key(var) for var in outputs)
        return Step(found, name, self._layers.get(name, ""), fixed, tuple(variable), keys, declared, blocks)

    def _operator(self, operation: Any) -> Operator:
        name = operation.op_type
        if name in OPERATORS:
            return OPERATORS[name]
        output = operation.outputs[0].name
        raise UnknownOperator(
            f"the operator {located(name, output, self._layers.get(output, ''))} cannot be evaluated here",
            why=f"known operators: {', '.join(sorted(OPERATORS))}",
            fix=did_you_mean(name, OPERATORS) or "run the package on a Mac, or rewrite that layer with other operators",
        )


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


def dtype_of(var: Any) -> str:
    """MIL's name of a variable's type: ``fp16``, ``int32``, ``list``, ``state`` ..."""
    from coremltools.converters.mil.mil import types

    kind = var.sym_type
    if types.is_list(kind) or types.is_state(kind):
        return "list" if types.is_list(kind) else "state"
    return str(types.builtin_to_string(var.dtype))


def _shape(var: Any) -> tuple[int, ...] | None:
    from coremltools.converters.mil.mil import types

    if not (types.is_tensor(var.sym_type) or types.is_scalar(var.sym_type)):
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
        fresh = {key for key in (*step.uses(), *step.keys) if key not in seen and key in made}
        seen |= fresh
        found.append(tuple(sorted(fresh)))
    return tuple(reversed(found))
