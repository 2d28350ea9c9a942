"""The measurements, in the order in which they tell most: each layer's own noise, then what reaches the model's outputs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.fx import Node

from edgeopt.diagnosis.noise import Errors, Parts
from edgeopt.diagnosis.sources import Source, sources_of
from edgeopt.diagnosis.watching import Watched, channel_axis, clip_of
from edgeopt.quantize.noise import Noise
from edgeopt.quantize.ranges import QParams
from edgeopt.quantize.sensitivity import judged
from edgeopt.quantize.simulated import Grids, Simulation, Values, but, on_grid

Sample = tuple[Tensor, ...]
T = TypeVar("T")
ALIKE_DB = 1.0
WATCHED_SHARE = 0.15
"""Of the time, for runs of the float model alone that see its values."""


@dataclass(slots=True)
class Own:
    """Noise in a source's own result: of all it does, its weights, what it reads, its result."""

    everything: Noise
    weights: Noise | None
    inputs: Noise | None
    result: Noise


@dataclass(slots=True)
class Measured:
    """One source and what is known of it; errors are sums over the samples of :class:`Measurements`."""

    source: Source
    own: Own
    watched: Watched
    alone: Errors | None = None
    without: Errors | None = None


@dataclass(slots=True)
class Measurements:
    """Of one simulation on held-out ``samples``, one method after the other for as long as there is time."""

    simulation: Simulation
    samples: Sequence[Sample]
    parts: Parts
    each: list[Measured]
    """In the order of what each costs, as far as that is known."""
    floats: dict[Node, Watched]
    done: int = 0
    """Samples on which all was measured."""
    signal: Errors = field(default_factory=lambda: np.zeros(0))
    whole: Errors = field(default_factory=lambda: np.zeros(0))
    _first: "tuple[Values, Values] | None" = None
    _behind: dict[Node, frozenset[Node]] = field(default_factory=dict)

    @classmethod
    def begun(
        cls, simulation: Simulation, samples: Sequence[Sample], names: Mapping[Node, str], floats: Sequence[Node], until: float
    ) -> "Measurements":
        """With each source's own noise on the first sample.

        ``names``: the model's own for its outputs. ``floats``: values of layers in float that are watched too.
        """
        sources = sources_of(simulation)
        watched = {node: Watched() for node in (*(source.value for source in sources), *floats)}
        nodes = judged(simulation)
        outputs, exact = [], Values()
        watch_until = time.monotonic() + WATCHED_SHARE * (until - time.monotonic())
        for sample in samples:
            values = simulation.run(sample, ())
            exact = exact or values
            outputs.append(tuple(values[node].numpy() for node in nodes))
            for node, seen in watched.items():
                _watch(simulation, node, seen, values)
            if time.monotonic() > watch_until:
                break
        parts = Parts.of(nodes, tuple(names.get(node, node.name) for node in nodes), outputs)
        each = [Measured(one, _own(simulation, one, samples[0], exact), watched[one.value]) for one in sources]
        each.sort(key=lambda one: min(noise.db for noise in (one.own.result, one.own.weights) if noise is not None))
        integer = simulation.run(samples[0], simulation.decided.integer)
        found = cls(simulation, samples, parts, each, {node: watched[node] for node in floats}, _first=(exact, integer))
        found.signal, found.whole = parts.signal(exact), parts.error(exact, integer)
        return found

    def first(self, until: float) -> None:
        """On the first sample: what each costs alone, those that look worst first, then what the worst would give back."""
        self.alone(until)
        self._give_back(until)

    def alone(self, until: float) -> None:
        """What each costs alone on the first sample, and their order by that."""
        assert self._first is not None
        exact, _ = self._first
        for one in self.each:
            if one.alone is None:
                one.alone = self._alone(one.source, self.samples[0], exact)
            if time.monotonic() > until:
                break
        self.sort()

    def _give_back(self, until: float) -> None:
        assert self._first is not None
        exact, integer = self._first
        for one in self.each:
            if one.alone is None or time.monotonic() > until:
                return
            one.without = self._without(one.source, self.samples[0], exact, integer)
        self._first, self.done = None, 1

    def more(self, until: float) -> None:
        """On further samples; one for which the time does not suffice counts for nothing."""
        for sample in self.samples[1:] if self.done == 1 else ():
            if not self._one_more(sample, until):
                break
        self.sort()

    def would(self, grids: Mapping[Node, QParams], until: float) -> dict[Node, tuple[float, str]]:
        """The model's worst part, dB, on the first sample, with one value rounded and all else in floats.

        Of as many values as there is time for.
        """
        found: dict[Node, tuple[float, str]] = {}
        exact = self.simulation.run(self.samples[0], ())
        for node, grid in grids.items():
            if time.monotonic() > until:
                break
            known = but(exact, self.simulation.behind_all((node,)))
            values = self.simulation.run(self.samples[0], (), known, {node: grid})
            found[node] = self.parts.worst(self.parts.signal(exact), self.parts.error(exact, values))
        return found

    def sort(self) -> None:
        """The worst first: by what leaves the model with each alone; what is not measured keeps its order behind."""
        places = {node: place for place, node in enumerate(self.simulation.module.graph.nodes)}
        known = [(self.worst(one.alone)[0], places[one.source.value], one) for one in self.each if one.alone is not None]
        self.each = [*by_cost(known), *(one for one in self.each if one.alone is None)]

    def worst(self, error: Errors) -> tuple[float, str]:
        """As :meth:`Parts.worst`, of sums over all samples."""
        return self.parts.worst(self.signal, error)

    def _one_more(self, sample: Sample, until: float) -> bool:
        exact, integer = self.simulation.run(sample, ()), self.simulation.run(sample, self.simulation.decided.integer)
        found: list[tuple[Errors, Errors]] = []
        for one in self.each:
            if time.monotonic() > until:
                return False
            found.append((self._alone(one.source, sample, exact), self._without(one.source, sample, exact, integer)))
        for one, (alone, without) in zip(self.each, found, strict=True):
            assert one.alone is not None and one.without is not None
            one.alone, one.without = one.alone + alone, one.without + without
        self.signal = self.signal + self.parts.signal(exact)
        self.whole = self.whole + self.parts.error(exact, integer)
        self.done += 1
        return True

    def _alone(self, source: Source, sample: Sample, exact: Values) -> Errors:
        known = but(exact, self._reached(source, source.changes))
        ops = () if source.op is None else (source.op,)
        return self.parts.error(exact, self.simulation.run(sample, ops, known, source.alone))

    def _without(self, source: Source, sample: Sample, exact: Values, integer: Values) -> Errors:
        changed = self.simulation.behind_all({*source.changes, *source.without})
        others = [op for op in self.simulation.decided.integer if op is not source.op]
        found = self.simulation.run(sample, others, but(integer, changed), source.without)
        return self.parts.error(exact, found)

    def _reached(self, source: Source, changes: set[Node]) -> frozenset[Node]:
        if source.value not in self._behind:
            self._behind[source.value] = frozenset(self.simulation.behind_all(changes))
        return self._behind[source.value]


def by_cost(known: "list[tuple[float, int, T]]") -> "list[T]":
    """Lowest ratio first; of those alike the first in the program, since what is behind it may have it from there.

    ``known``: ratio in dB, place in the program, and what is ordered.
    """
    ordered = sorted(known, key=lambda one: one[:2])
    found: list[T] = []
    while ordered:
        alike = [one for one in ordered if one[0] <= ordered[0][0] + ALIKE_DB]
        ordered = ordered[len(alike) :]
        found += [item for _, _, item in sorted(alike, key=lambda one: one[1])]
    return found


def grid_of(simulation: Simulation, node: Node) -> QParams | None:
    """What ``node`` is rounded to as it is made; None where it stays in float."""
    is_rounded = node in simulation.decided.outputs or not any(node is op.output for op in simulation.decided.integer)
    return simulation.decided.scales.values.get(node) if is_rounded else None


def _own(simulation: Simulation, source: Source, sample: Sample, exact: Values) -> Own:
    """Run on its own nodes alone: everything else is known."""
    wanted, grid, op = exact[source.value], grid_of(simulation, source.value), source.op
    result = Noise.of(wanted, on_grid(wanted, grid)) if grid is not None else Noise.of(wanted, wanted)
    if op is None:
        return Own(result, None, None, result)
    known = but(exact, source.changes)

    def changed(bare: bool, grids: Grids) -> Noise:
        return Noise.of(wanted, simulation.run(sample, (replace(op, weight=None) if bare else op,), known, grids)[op.output])

    floats: dict[Node, Any] = {op.output: None}
    weights = None if op.weight is None else changed(False, {**floats, **dict.fromkeys(op.operands)})
    return Own(changed(False, {}), weights, changed(True, floats), result)


def _watch(simulation: Simulation, node: Node, seen: Watched, values: Values) -> None:
    if (value := values[node]).numel():
        seen.add(value, channel_axis(node, value), grid_of(simulation, node), clip_of(node))
