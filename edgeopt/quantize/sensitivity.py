"""What the integers of each operator cost the model: each alone in integers, and each alone in floats among integers.

Measured on what leaves the model, by the simulation (:mod:`edgeopt.quantize.simulated`); after Nagel et al., 2021,
arXiv:2106.08295, section 3.7. What both say together matters: an operator that costs much alone may gain nothing in floats
where another one behind it loses as much.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from edgeopt.capture.operator_kinds import PASS_THROUGH, is_float
from edgeopt.quantize.graph import Op
from edgeopt.quantize.simulated import Simulation, Values

MOST_DB = 120.0
"""An error smaller than that is none, in float32."""


@dataclass(slots=True)
class Noise:
    """Sums of squares over samples: of values, and of what they were changed by."""

    power: float = 0.0
    error: float = 0.0

    @classmethod
    def of(cls, wanted: Tensor, found: Tensor) -> "Noise":
        """Elements that are equal differ by nothing, infinite ones too."""
        wanted, found = wanted.double(), found.double()
        changed = torch.where(wanted == found, torch.zeros((), dtype=wanted.dtype), wanted - found)
        return cls(float(wanted[wanted.isfinite()].square().sum()), float(changed.square().sum()))

    def __add__(self, other: "Noise") -> "Noise":
        return Noise(self.power + other.power, self.error + other.error)

    @property
    def db(self) -> float:
        """The signal-to-quantization-noise ratio; at most MOST_DB, and minus that where nothing is left."""
        if self.error == 0:
            return MOST_DB
        if not math.isfinite(self.error) or self.power == 0:
            return -MOST_DB
        return max(-MOST_DB, min(MOST_DB, 10 * math.log10(self.power / self.error)))


Noises = tuple[Noise, ...]
"""Of each of the model's outputs."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Of one operator: ``own``, its result where it alone is in integers; ``alone``, the model's outputs then; ``without``,
    these where all others are in integers.
    """

    op: Op
    own: Noise
    alone: Noises
    without: Noises

    def __add__(self, other: "Sensitivity") -> "Sensitivity":
        return Sensitivity(self.op, self.own + other.own, added(self.alone, other.alone), added(self.without, other.without))


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """``whole``: the model's outputs with all operators in integers. ``unmeasured``: operators for which there was no time."""

    whole: Noises
    each: tuple[Sensitivity, ...]
    samples: int
    unmeasured: tuple[Op, ...] = ()


def sensitivities(simulation: Simulation, samples: Sequence[tuple[Tensor, ...]], seconds: float = math.inf) -> Sensitivities:
    """Of every integer operator that changes values, over as many of ``samples`` as ``seconds`` allow.

    Of the first sample as many operators as there is time for are measured, of others all or none. The order is the graph's.
    """
    until = time.monotonic() + seconds
    ops = [op for op in simulation.decided.integer if op.kind not in PASS_THROUGH]
    found = Sensitivities((), (), 0, tuple(ops))
    for sample in samples:
        exact, integer = simulation.run(sample, ()), simulation.run(sample, simulation.decided.integer)
        each: list[Sensitivity] = []
        for op in ops:
            if each and time.monotonic() > until:
                break
            each.append(_measured(simulation, sample, exact, integer, op))
        whole = noises(simulation, exact, integer)
        if found.samples == 0:
            found = Sensitivities(whole, tuple(each), 1, tuple(ops[len(each) :]))
        elif len(each) == len(ops):
            both = tuple(one + other for one, other in zip(found.each, each, strict=True))
            found = Sensitivities(added(found.whole, whole), both, found.samples + 1)
        if time.monotonic() > until:
            break
    return found


def _measured(simulation: Simulation, sample: tuple[Tensor, ...], exact: Values, integer: Values, op: Op) -> Sensitivity:
    behind = simulation.behind(op)
    others = [other for other in simulation.decided.integer if other is not op]
    alone = simulation.run(sample, (op,), {node: value for node, value in exact.items() if node not in behind})
    without = simulation.run(sample, others, {node: value for node, value in integer.items() if node not in behind})
    own = Noise.of(exact[op.output], alone[op.output])
    return Sensitivity(op, own, noises(simulation, exact, alone), noises(simulation, exact, without))


def noises(simulation: Simulation, exact: Values, found: Values) -> Noises:
    """Of each value that :func:`judged` names."""
    return tuple(Noise.of(exact[node], found[node]) for node in judged(simulation))


def judged(simulation: Simulation) -> tuple[Node, ...]:
    """The floats that leave the model; of an output of integers (a class, a box's number) those that it was made from."""
    found: dict[Node, None] = {}
    waiting = list(simulation.outputs)
    for node in waiting:
        if node.op == "get_attr":
            continue
        if is_float(node):
            found[node] = None
        else:
            waiting += node.all_input_nodes
    return tuple(found)


def added(one: Noises, other: Noises) -> Noises:
    """Each to each."""
    return tuple(first + second for first, second in zip(one, other, strict=True))


def worst(found: Noises) -> float:
    """The lowest ratio, dB."""
    return min((noise.db for noise in found), default=MOST_DB)
