"""What the integers of each operator cost the model, each alone in integers, and what leaves a model at all.

Measured by the simulation (:mod:`edgeopt.quantize.simulated`); after Nagel et al., 2021, arXiv:2106.08295, section 3.7.
"""

import math
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


def alone(simulation: Simulation, samples: Sequence[tuple[Tensor, ...]]) -> dict[Op, Noises]:
    """The model's outputs with one operator in integers and the others in floats, for each integer one that changes values.

    Summed over ``samples``, flat inputs. The order is the graph's.
    """
    found: dict[Op, Noises] = {}
    for sample in samples:
        exact = simulation.run(sample, ())
        for op in simulation.decided.integer:
            if op.kind in PASS_THROUGH:
                continue
            behind = simulation.behind(op)
            values = simulation.run(sample, (op,), {node: value for node, value in exact.items() if node not in behind})
            here = noises(simulation, exact, values)
            found[op] = added(found[op], here) if op in found else here
    return found


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
