"""Mixed precision: the cheapest operators to keep in floats so that the model's outputs are as near as they are asked to be.

Operators are taken in the order of the noise that their integers alone make at the model's worst output
(:mod:`edgeopt.quantize.sensitivity`), and of that noise for the time that their integers save; what an operator gains where all
others stay in integers was a poor guide. How many are needed is found by bisection, the program decided anew and simulated each
time; what turns out not to be needed is put back. Nothing depends on how fast this computer is.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import HEAVY, elements, macs
from edgeopt.quantize.graph import Op
from edgeopt.quantize.noise import MOST_DB
from edgeopt.quantize.sensitivity import Noises, added, alone, given, noises, worst
from edgeopt.quantize.simulated import Simulation

Sample = tuple[Tensor, ...]
JUDGED = 8
"""Samples that tell how near a mixture is: a whole run each, some ten times."""
MEASURED, MEASURED_MACS = 4, 3e11
"""Samples that tell what each operator buys, a run each for every operator: as many as fit the work, one at least."""
FLOAT_BYTES = 3
"""What a weight takes more in float32 than in 8 bits."""
PUT_BACK = 24
"""Operators that are tried back in integers: a simulation each."""


@dataclass(frozen=True, slots=True)
class Bought:
    """One operator in floats, by the name of its output: what its integers alone leave of the model's output, in dB."""

    name: str
    layer: str
    alone: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """``kept`` in floats, the dearest noise first; ``db``: how near the model's worst output is then, simulated."""

    kept: tuple[Bought, ...]
    db: float
    cost: float
    """Of the time that integers save, the share that is given away."""


class Search:
    """Finds mixtures of one program for one target.

    ``simulate`` decides and simulates with some operators, by name, in floats; ``cost`` of one operator is what its integers
    save. A mixture takes some forty simulations.
    """

    def __init__(
        self,
        simulate: Callable[[Collection[str]], Simulation],
        samples: Sequence[Sample],
        cost: Callable[[Op], float],
    ) -> None:
        self._simulate, self._samples = simulate, _spread(samples, JUDGED)
        base = simulate(())
        self._exact = [given(base, base.run(sample, ())) for sample in self._samples]
        self._costs = {op.output.name: max(cost(op), 1.0) for op in base.decided.integer}
        work = sum(macs(op.head) for op in base.decided.integer if op.kind in HEAVY) * len(base.decided.integer)
        count = max(1, min(MEASURED, int(MEASURED_MACS / max(work, 1))))
        self._alone = {op.output.name: (op, worst(made)) for op, made in alone(base, _spread(samples, count)).items()}
        self._known: dict[frozenset[str], float] = {}

    def db(self, kept: Collection[str]) -> float:
        """How near the worst output is with ``kept`` in floats; MOST_DB where nothing is left in integers."""
        key = frozenset(kept)
        if key not in self._known:
            self._known[key] = self._nearness(self._simulate(key))
        return self._known[key]

    def _nearness(self, simulation: Simulation) -> float:
        integer = simulation.decided.integer
        if not integer:
            return MOST_DB
        found: Noises = ()
        for sample, exact in zip(self._samples, self._exact, strict=True):
            here = noises(exact, given(simulation, simulation.run(sample, integer)))
            found = added(found, here) if found else here
        return worst(found)

    def cheapest(self, least_db: float) -> Mixture | None:
        """The cheapest mixture found that is as near as ``least_db``; None where only all of them in floats would do."""
        found = [names for order in self._orders() if (names := self._reaching(order, least_db)) is not None]
        if not found:
            return None
        mixture = self._mixture(self._without_idle(min(found, key=self._cost_of), least_db))
        return mixture if mixture.db < MOST_DB else None

    def within(self, room: float) -> Mixture | None:
        """Layers whose weights take ``room`` more bytes in floats at most, by the noise that each byte takes away."""
        extra = {name: elements(op.weight) * FLOAT_BYTES for name, (op, _) in self._alone.items() if op.weight is not None}
        kept: list[str] = []
        for name in sorted(extra, key=lambda name: 10 ** (-self._alone[name][1] / 10) / extra[name], reverse=True):
            if extra[name] <= room:
                kept, room = [*kept, name], room - extra[name]
        mixture = self._mixture(kept) if kept else None
        return mixture if mixture is not None and mixture.db > self.db(()) else None

    def _orders(self) -> list[list[str]]:
        """Names, by noise, by noise for their cost, and between the two."""
        noise = {name: 10 ** (-db / 10) for name, (_, db) in self._alone.items()}

        def order(weight: float) -> list[str]:
            return sorted(noise, key=lambda name: noise[name] / self._costs[name] ** weight, reverse=True)

        return [order(weight) for weight in (0.0, 0.5, 1.0)]

    def _reaching(self, order: list[str], least_db: float) -> list[str] | None:
        low, high = 0, len(order)
        if self.db(order) < least_db:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.db(order[:middle]) >= least_db else (middle + 1, high)
        return order[:high]

    def _without_idle(self, kept: list[str], least_db: float) -> list[str]:
        """``kept`` less what can go back to integers, the dearest tried first."""
        for name in sorted(kept[:-1], key=self._costs.__getitem__, reverse=True)[:PUT_BACK]:
            fewer = [one for one in kept if one != name]
            if self.db(fewer) >= least_db:
                kept = fewer
        return kept

    def _mixture(self, names: Sequence[str]) -> Mixture:
        found = {name: self._alone[name] for name in names}
        kept = sorted((Bought(name, layer_of(op.head), db) for name, (op, db) in found.items()), key=lambda one: one.alone)
        return Mixture(tuple(kept), self.db(names), self._cost_of(names))

    def _cost_of(self, names: Sequence[str]) -> float:
        return sum(self._costs[name] for name in names) / sum(self._costs.values())


def _spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    return list(samples[:: -(-len(samples) // most) or 1])[:most]
