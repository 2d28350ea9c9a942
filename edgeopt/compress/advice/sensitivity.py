"""How much each layer's loss of channels costs: a scan over layers and amounts, bounded in time, the largest layers first.

found = scan(module, Context(example_inputs=image, evaluate=evaluate), seconds=60)
found.drop("features.3", 0.5)                       # what half of its channels are worth
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from edgeopt.compress.advice.architecture import WeightedLayer, inspect
from edgeopt.compress.advice.silencing import Silenced
from edgeopt.compress.common.scoring import score
from edgeopt.compress.technique import Context, Technique
from edgeopt.core import data_class
from edgeopt.errors import CompressionError

AMOUNTS = (0.25, 0.5, 0.75)
SENSITIVITY_SCHEMA_VERSION = 1
Cut = Callable[[str, float], "nn.Module | str"]
"""A module with one layer cut by a share, or why that layer stays as it is."""


@data_class
class Point:
    """The score after a share ``amount`` of one layer was taken away, with nothing trained."""

    layer: str
    amount: float
    score: float


@data_class
class Sensitivity:
    """``metric`` of the untouched model is ``base``; ``macs``: of every layer considered, in the order of the scan.

    ``unscanned``: layers for which the time did not suffice. ``left``: those that cannot be cut, and why.
    """

    schema_version: int = SENSITIVITY_SCHEMA_VERSION
    technique: str
    metric: str
    base: float
    amounts: tuple[float, ...]
    points: tuple[Point, ...]
    macs: dict[str, int]
    unscanned: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def drop(self, layer: str, amount: float) -> float:
        """What the score loses there. Raises KeyError where it was not scanned."""
        found = {(point.layer, point.amount): point.score for point in self.points}
        return self.base - found[layer, amount]

    def least_sensitive(self, amount: float) -> tuple[str, ...]:
        """The layers scanned at ``amount``, from the one that costs least."""
        scanned = [point for point in self.points if point.amount == amount]
        return tuple(point.layer for point in sorted(scanned, key=lambda point: -point.score))


def scan(
    module: nn.Module,
    context: Context,
    technique: Technique | None = None,
    *,
    amounts: Sequence[float] = AMOUNTS,
    seconds: float = 60.0,
    program: ExportedProgram | None = None,
) -> Sensitivity:
    """The score of ``context.evaluate`` with each layer alone cut by each of ``amounts``, until ``seconds`` are used up.

    Without ``technique`` the output channels of the smallest L1 norm are silenced in a copy, a quick stand-in for removing
    them (Li et al., 2017, arXiv:1608.08710). With one (any that has ``amount`` and ``exclude``) its settings are used, and all
    other layers are excluded. At least one point is made, however long it takes. ``program``: the module's canonical one, where
    it is captured already.

    Raises CompressionError where there is no evaluate, no layer to scan, or the technique lacks one of the two settings, and
    EvaluationError where evaluate fails.
    """
    clock = _Clock(time.monotonic(), seconds)
    if not amounts or not all(0 < amount < 1 for amount in amounts):
        raise CompressionError(f"the amounts {tuple(amounts)} cannot be scanned", fix="give shares above 0 and below 1")
    layers = _considered(module, context, program)
    cut = Silenced(module, context) if technique is None else _applied(module, context, technique, layers)
    metric, base = _score(module, context)
    points: list[Point] = []
    left, unscanned = dict[str, str](), []
    for layer in layers:
        context.tell(f"scanning {layer.name}")
        found = _curve(layer.name, cut, context, amounts, clock)
        if isinstance(found, str):
            left[layer.name] = found
        elif not found:
            unscanned.append(layer.name)
        else:
            points += found
    return Sensitivity(
        technique="silenced channels" if technique is None else type(technique).__name__.lower(), metric=metric, base=base,
        amounts=tuple(amounts), points=tuple(points), left=left, unscanned=tuple(unscanned), seconds=round(clock.spent, 3),
        macs={layer.name: layer.macs for layer in layers},
    )  # fmt: skip


@dataclass
class _Clock:
    """Whether another point fits into the time: each is taken to last as long as the longest so far."""

    started: float
    seconds: float
    longest: float = 0.0
    points: int = 0

    @property
    def spent(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_up(self) -> bool:
        return self.points > 0 and self.spent + self.longest > self.seconds

    def point(self, made: float) -> None:
        self.points += 1
        self.longest = max(self.longest, made)


def _considered(module: nn.Module, context: Context, program: ExportedProgram | None) -> list[WeightedLayer]:
    """The layers that work, the hardest working first; not the last to run, whose channels are the model's outputs."""
    found = inspect(module, context.example_inputs, program).layers
    layers = [layer for layer in found if layer.macs and layer.kind != "recurrent"][:-1]
    if not layers:
        why = "it has no convolution or linear layer before its outputs"
        raise CompressionError("the model has no layer to scan", why=why, fix="scan a model of more than one layer")
    return sorted(layers, key=lambda layer: -layer.macs)


def _curve(layer: str, cut: Cut, context: Context, amounts: Sequence[float], clock: _Clock) -> list[Point] | str:
    """The points that fit into the time; or why the layer stays."""
    points = []
    for amount in amounts:
        if clock.is_up:
            break
        began = time.monotonic()
        module = cut(layer, amount)
        if isinstance(module, str):
            return module
        points.append(Point(layer=layer, amount=amount, score=_score(module, context)[1]))
        clock.point(time.monotonic() - began)
    return points


def _applied(module: nn.Module, context: Context, technique: Technique, layers: list[WeightedLayer]) -> Cut:
    settings: Any = technique
    for name in ("amount", "exclude"):
        if not hasattr(settings, name):
            what = f"{type(technique).__name__} cannot be scanned layer by layer"
            raise CompressionError(what, why=f"it has no setting {name!r}", fix="scan with Channels, or without a technique")

    def cut(layer: str, amount: float) -> nn.Module | str:
        others = tuple(other.name for other in layers if other.name != layer)
        done = replace(settings, amount=amount, exclude=(*settings.exclude, *others)).apply(module, context)
        found = {change.layer: change for change in done.record.layers}
        if layer in found and found[layer].action == "changed":
            made: nn.Module = done.module
            return made
        return found[layer].reason if layer in found else "the technique does not consider it"

    return cut


def _score(module: nn.Module, context: Context) -> tuple[str, float]:
    return next(iter(score(module, context.evaluate, context.example_inputs).items()))
