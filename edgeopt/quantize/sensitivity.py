"""What the integers of each operator cost the model, each alone in integers, and what leaves a model at all.

Measured by the simulation (:mod:`edgeopt.quantize.simulated`); after Nagel et al., 2021, arXiv:2106.08295, section 3.7.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.fx import Node

from edgeopt.capture.operator_kinds import PASS_THROUGH, is_float
from edgeopt.quantize.graph import Op
from edgeopt.quantize.noise import MOST_DB, Noise
from edgeopt.quantize.simulated import Simulation, Values, but

Noises = tuple[Noise, ...]
"""Of each of the model's outputs."""


def alone(simulation: Simulation, samples: Sequence[tuple[Tensor, ...]]) -> dict[Op, Noises]:
    """The model's outputs with one operator in integers and the others in floats, for each integer one that changes values.

    Summed over ``samples``, flat inputs. The order is the graph's.
    """
    behind = {op: simulation.behind(op) for op in simulation.decided.integer if op.kind not in PASS_THROUGH}
    found: dict[Op, Noises] = {}
    for sample in samples:
        exact = simulation.run(sample, ())
        wanted = given(simulation, exact)
        for op, changed in behind.items():
            here = noises(wanted, given(simulation, simulation.run(sample, (op,), but(exact, changed))))
            found[op] = added(found[op], here) if op in found else here
    return found


def given(simulation: Simulation, values: Values) -> list[Tensor]:
    """What leaves the model, as :func:`judged` has it."""
    return [values[node] for node in judged(simulation)]


def noises(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Noises:
    """Of each value that leaves the model."""
    return tuple(Noise.of(one, other) for one, other in zip(wanted, found, strict=True))


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
