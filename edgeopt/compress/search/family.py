"""A family of networks: the user's ``build(width=..., depth=..., resolution=...)`` and the choices for each argument.

Any names will do; ``resolution`` is special: images are resized to it before they reach the network, in training and
evaluation, as a device's camera pipeline does. A whole number is the height in pixels, a fraction a share of the example's.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch
from edgeopt.model.user_code import cause

Choice = bool | int | float | str
Architecture = dict[str, Choice]
Build = Callable[..., nn.Module]
Space = Mapping[str, Sequence[Choice]]
RESOLUTION = "resolution"


@dataclass(frozen=True, slots=True)
class Family:
    """``build`` with the checked choices of every argument, numbers in ascending order."""

    build: Build
    choices: dict[str, tuple[Choice, ...]]

    @classmethod
    def of(cls, build: Build, space: Space) -> "Family":
        """Raises CompressionError for a space without choices, or with anything but numbers, texts and truth values."""
        if not space or not all(space.values()):
            empty = ", ".join(name for name, choices in space.items() if not choices)
            why = f"{empty} has no choices" if empty else "no argument has any choices"
            raise CompressionError("there is nothing to search", why=why, fix='give choices, such as {"width": (0.5, 1.0)}')
        for name, choices in space.items():
            for choice in choices:
                if not isinstance(choice, bool | int | float | str) or choice in (math.inf, -math.inf) or choice != choice:
                    fix = "give numbers, texts or truth values, and let build make the rest of them"
                    raise CompressionError(f"{name} cannot be {choice!r} in a search", fix=fix)
        resolutions = space.get(RESOLUTION, ())
        if len({type(one) for one in resolutions}) > 1 or any(isinstance(one, bool | str) or one <= 0 for one in resolutions):
            fix = "give heights in pixels (whole numbers), or shares of the example's size (fractions)"
            raise CompressionError(f"the resolution cannot be one of {', '.join(map(repr, resolutions))}", fix=fix)
        return cls(build, {name: _ordered(choices) for name, choices in space.items()})

    def __len__(self) -> int:
        return math.prod(map(len, self.choices.values()))

    def all(self) -> Iterator[Architecture]:
        """Every architecture, the largest first."""
        for values in product(*(choices[::-1] for choices in self.choices.values())):
            yield dict(zip(self.choices, values, strict=True))

    @property
    def largest(self) -> Architecture:
        """The last choice of each argument."""
        return {name: choices[-1] for name, choices in self.choices.items()}

    @property
    def smallest(self) -> Architecture:
        """The first choice of each argument."""
        return {name: choices[0] for name, choices in self.choices.items()}

    def make(self, architecture: Architecture) -> nn.Module:
        """The network itself; it takes inputs of its own resolution. Raises CompressionError where ``build`` raises."""
        given = {name: value for name, value in architecture.items() if name != RESOLUTION or _takes_resolution(self.build)}
        try:
            found = self.build(**given)
        except Exception as error:
            raise CompressionError(f"build raised for {described(architecture)}", why=cause(error), fix=_TAKES) from error
        if not isinstance(found, nn.Module):
            what = f"build gave a {type(found).__name__} for {described(architecture)}"
            raise CompressionError(what, fix="it must return a torch.nn.Module")
        return found


_TAKES = "build is called with the names of the space, such as build(width=0.5, depth=2); leave out what it cannot make"


class Resized(nn.Module):
    """``module`` fed with images of any size: bilinear with antialiasing, as image libraries do it. For training only."""

    def __init__(self, module: nn.Module, resolution: Choice) -> None:
        super().__init__()
        self.module = module
        self._resolution = resolution

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """float [N, C, H, W] are resized; all other arguments pass."""
        args, kwargs = resized((args, kwargs), self._resolution)
        return self.module(*args, **kwargs)


def fed(module: nn.Module, architecture: Architecture) -> nn.Module:
    """``module`` as the user's data, of full size, can train and evaluate it."""
    return Resized(module, architecture[RESOLUTION]) if RESOLUTION in architecture else module


def example_of(example_inputs: Batch, architecture: Architecture) -> Batch:
    """The example inputs at the architecture's own resolution."""
    return resized(example_inputs, architecture[RESOLUTION]) if RESOLUTION in architecture else example_inputs


def resized(batch: Any, resolution: Choice) -> Any:
    """Every float tensor [N, C, H, W] in ``batch`` at ``resolution``: a height (int), or a share of its own (float)."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
            return value
        height, width = value.shape[2:]
        share = float(resolution) if isinstance(resolution, float) else int(resolution) / height
        size = [max(1, round(height * share)), max(1, round(width * share))]
        if size == [height, width]:
            return value
        return nn.functional.interpolate(value, size, mode="bilinear", antialias=True)

    return pytree.tree_map(one, batch)


def described(architecture: Architecture) -> str:
    """``width 0.5, depth 2``."""
    return ", ".join(f"{name} {value}" for name, value in architecture.items())


def key(architecture: Architecture) -> tuple[tuple[str, Choice], ...]:
    """What identifies it, whatever the order of its arguments."""
    return tuple(sorted(architecture.items()))


def _ordered(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    unique = tuple(dict.fromkeys(choices))
    numbers = [choice for choice in unique if isinstance(choice, int | float)]
    return tuple(sorted(numbers)) if len(numbers) == len(unique) else unique


def _takes_resolution(build: Build) -> bool:
    parameters = signature(build).parameters
    return RESOLUTION in parameters or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
