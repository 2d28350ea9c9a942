"""Draws networks: operators are composed where their constraints hold, and each is run at once, which gives its shape.

After NNSmith (Liu et al., 2023, arXiv:2207.13066), whose solver of shapes is replaced by PyTorch itself.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.network import Input, Network, Step

GREATEST = 2e3
"""Values beyond it are no news in float16."""
MOST_ELEMENTS = 6000
Test = Callable[[Tensor], bool]


class Unfit(Exception):
    """No value fits the operator's constraints."""


@dataclass
class Draw:
    """The network so far, with the values it has on one sample."""

    random: random.Random
    inputs: list[Input]
    steps: list[Step]
    values: dict[int, Any]
    seed: int

    def value(self, *ranks: int, dtype: torch.dtype = torch.float32, where: Test = lambda value: True) -> int:
        """Some value of one of ``ranks`` (any where none is given); late and unused ones come more often."""
        used = {each for step in self.steps for each in step.inputs}
        fitting = [
            (key, (1 + position) * (1 if key in used else 3))
            for position, (key, value) in enumerate(self.values.items())
            if isinstance(value, Tensor) and value.dtype == dtype and (not ranks or value.dim() in ranks) and where(value)
        ]
        if not fitting:
            raise Unfit
        return self.random.choices([key for key, _ in fitting], [weight for _, weight in fitting])[0]

    def shape(self, key: int) -> tuple[int, ...]:
        return tuple(self.values[key].shape)

    def like(self, key: int) -> int:
        """Another value, or the same one, of ``key``'s shape."""
        return self.value(where=lambda value: tuple(value.shape) == self.shape(key))

    def axis(self, key: int, first: int = 0) -> int:
        """An axis of a value, counted from either end."""
        rank = len(self.shape(key))
        if rank <= first:
            raise Unfit
        axis = self.random.randrange(first, rank)
        return axis - rank if self.chance(0.4) else axis

    def choice(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def whole(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def step(self, call: str, *inputs: int, layer: str = "", shares: int | None = None, **settings: Any) -> Step:
        """A step whose operator and id :func:`draw` fills in."""
        plain = {
            name: value if isinstance(value, str | int | float | None) else repr(value) for name, value in settings.items()
        }
        return Step(-1, "", call, inputs, layer, plain, shares)


Operator = Callable[[Draw], Step]
OPERATORS: dict[str, tuple[Operator, float]] = {}


def operator(weight: float = 1.0) -> Callable[[Operator], Operator]:
    """Names a function that draws a step as an operator; ``weight`` is how often it is tried."""

    def named(function: Operator) -> Operator:
        OPERATORS[function.__name__] = (function, weight)
        return function

    return named


def draw(seed: int, most: int = 9) -> Network:
    """The network of ``seed``, of up to ``most`` steps (and the parts of tuples)."""
    import tests.fuzz.operators  # noqa: F401  the catalogue fills OPERATORS

    chance = random.Random(seed)
    inputs = _inputs(chance)
    state = Draw(chance, inputs, [], {}, seed)
    state.values = dict(zip((each.id for each in inputs), Network(tuple(inputs), (), (0,), seed).samples(1)[0], strict=True))
    names, weights = list(OPERATORS), [weight if most > 1 else 1.0 for _, weight in OPERATORS.values()]
    wanted, tries = chance.randint(min(3, most), most), 0
    while len(state.steps) < wanted and tries < 60:
        tries += 1
        _grow(state, chance.choices(names, weights)[0])
    return _finished(state)


def _inputs(chance: random.Random) -> list[Input]:
    batch = chance.choice((1, 1, 1, 1, 2, 3))
    kinds: list[Callable[[int], Input]] = [
        lambda i: Input(i, (batch, chance.choice((1, 3, 4, 6)), chance.choice((6, 9, 12)), chance.choice((6, 8, 11)))),
        lambda i: Input(i, (batch, chance.choice((3, 5, 8)), chance.choice((4, 6, 12)))),
        lambda i: Input(i, (batch, chance.choice((5, 8, 16)))),
        lambda i: Input(i, (batch, chance.choice((4, 7))), "int64", below=chance.choice((5, 11))),
        lambda i: Input(i, (batch, chance.choice((4, 7))), "bool"),
    ]
    count = chance.choices((1, 2, 3), (6, 3, 1))[0]
    found = [chance.choices(kinds, (5, 3, 2, 1.5, 0.3 if i else 0))[0](i) for i in range(count)]
    scales = [(1.0, 0.0)] * 4 + [(0.2, 0.5), (30.0, 0.0), (3.0, 5.0)]
    return [replace(e, **dict(zip(("scale", "offset"), chance.choice(scales), strict=True))) for e in found]


def _grow(state: Draw, name: str) -> None:
    try:
        step = OPERATORS[name][0](state)
    except Unfit:
        return
    step = replace(step, id=len(state.inputs) + len(state.steps), op=name)
    try:
        value = run_step(state, step)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return  # PyTorch refuses these settings for these shapes
    parts = list(_parts(value))
    if not parts or not all(map(_useful, parts)):
        return
    state.steps.append(step)
    state.values[step.id] = value
    if not isinstance(value, Tensor):
        _take_parts(state, step, value)


def run_step(state: Draw, step: Step) -> Any:
    """What ``step`` gives on the values so far."""
    reads = tuple(dict.fromkeys(step.inputs))
    steps = [step]
    if step.shares is not None:
        owner = next(each for each in state.steps if each.id == step.shares)
        steps = [replace(owner, inputs=(), call="None"), step]
    inputs = tuple(Input(key, (), "float32") for key in reads)
    module = Network(inputs, tuple(steps), (step.id,), state.seed).module()
    with torch.no_grad():
        return module(*(_copied(state.values[key]) for key in reads))[0]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _parts(value: Any) -> Any:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _parts(each)


def _useful(value: Tensor) -> bool:
    if not 0 < value.numel() <= MOST_ELEMENTS or value.dim() > 5:
        return False
    if not value.is_floating_point():
        return True
    if not bool(torch.isfinite(value).all()) or float(value.abs().max()) > GREATEST:
        return False
    return value.numel() < 4 or float(value.std()) > 1e-4 * float(value.abs().mean())


def _take_parts(state: Draw, step: Step, value: Any) -> None:
    """Some of the parts of a tuple become values of their own."""
    paths = list(_paths(value, ""))
    for path in state.random.sample(paths, min(len(paths), state.random.randint(1, 3))):
        part = Step(len(state.inputs) + len(state.steps), "item", f"{{0}}{path}", (step.id,))
        state.steps.append(part)
        state.values[part.id] = run_step(state, part)


def _paths(value: Any, path: str) -> Any:
    if isinstance(value, Tensor):
        yield path
    else:
        for index, each in enumerate(value):
            yield from _paths(each, f"{path}[{index}]")


def _finished(state: Draw) -> Network:
    """Unused values are the outputs, with at times an inner value or an input among them."""
    used = {each for step in state.steps for each in step.inputs}
    tensors = [key for key, value in state.values.items() if isinstance(value, Tensor)]
    inputs = {each.id for each in state.inputs}
    ends = [key for key in tensors if key not in used and key not in inputs] or tensors[-1:]
    outputs = state.random.sample(ends, min(len(ends), 4))
    if state.chance(0.15):
        outputs.append(state.choice([key for key in tensors if key not in inputs] or tensors))
    if state.chance(0.04):
        outputs.append(state.choice(tensors))
    return Network(tuple(state.inputs), tuple(state.steps), tuple(outputs), state.seed).used()
