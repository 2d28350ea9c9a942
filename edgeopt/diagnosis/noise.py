"""How much noise reaches each part of what leaves the model, summed up sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from edgeopt.quantize.noise import MOST_DB
from edgeopt.quantize.simulated import Values
from edgeopt.verify.parts import UNLIKE_SCALES, Array, OutputScales, Part

Errors = NDArray[np.float64]
"""Sums of squares, one number for each part."""
LEAST_ELEMENTS = 16
"""A channel of fewer numbers, over all samples, is too little to be judged apart from the others."""
MOST_COLUMNS = 64
"""An output [rows, columns] of more has scores of classes, and those that are never chosen matter to nobody."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One part: all of output ``index``, or ``channels`` along ``axis`` of it, whose scales are alike."""

    index: int
    name: str
    axis: int | None = None
    channels: tuple[int, ...] = ()

    def __str__(self) -> str:
        first, last = (self.channels[0], self.channels[-1]) if self.channels else (0, 0)
        if self.axis is None or last - first + 1 == len(self.channels):
            return str(Part(self.name, self.axis, first, last))
        return f"output {self.name}, {len(self.channels)} channels from {first} to {last}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is judged: the floats that leave the model, whole, and channels of unlike scales apart.

    Boxes in pixels would hide what becomes of the scores beside them: docs/trust.md.
    """

    nodes: tuple[Node, ...]
    judged: tuple[Judged, ...]

    @classmethod
    def of(cls, nodes: tuple[Node, ...], names: tuple[str, ...], outputs: Sequence[tuple[Array, ...]]) -> "Parts":
        """``outputs``: the values of ``nodes`` in the float model, of some samples."""
        found = [Judged(index, name) for index, name in enumerate(names)]
        for (index, axis), scale in OutputScales.of(names, outputs).parts.items():
            first = outputs[0][index]
            is_scores = np.ndim(first) == 2 and len(scale) > MOST_COLUMNS
            if not is_scores and len(outputs) * (np.size(first) // len(scale)) >= LEAST_ELEMENTS:
                quieter = np.log(scale.max() / scale) // np.log(UNLIKE_SCALES)
                groups = (np.flatnonzero(quieter == step) for step in np.unique(quieter))
                found += [Judged(index, names[index], axis, tuple(map(int, group))) for group in groups]
        return cls(nodes, tuple(found))

    def signal(self, exact: Values) -> Errors:
        """The power of one sample."""
        return self._powers([_square(exact[node]) for node in self.nodes])

    def error(self, exact: Values, found: Values) -> Errors:
        """The power of what one sample was changed by. Elements that are equal differ by nothing, infinite ones too."""
        return self._powers([_changed(exact[node], found[node]) for node in self.nodes])

    def worst(self, signal: Errors, error: Errors) -> tuple[float, str]:
        """The lowest ratio, dB, and the part that has it; the best there is where nothing is judged."""
        if not self.judged:
            return MOST_DB, ""
        ratios = decibel(signal, error)
        return float(ratios.min()), str(self.judged[int(ratios.argmin())])

    def shares(self, signal: Errors, whole: Errors, each: Sequence[Errors]) -> list[float]:
        """Of each of ``each`` its share of their sum, in the part that ``whole`` harms most."""
        if not self.judged:
            return [0.0] * len(each)
        part = int(decibel(signal, whole).argmin())
        powers = [float(np.nan_to_num(errors[part], posinf=1e30)) for errors in each]
        return [power / max(sum(powers), 1e-30) for power in powers]

    def _powers(self, squares: list[Array]) -> Errors:
        return np.asarray([self._power(squares[part.index], part) for part in self.judged], np.float64)

    def _power(self, squares: Array, part: Judged) -> float:
        chosen = squares if part.axis is None else np.take(squares, part.channels, part.axis)
        return float(np.sum(chosen))


def decibel(signal: Errors, noise: Errors) -> Errors:
    """Of each part; at most MOST_DB, and minus that where nothing is left."""
    with np.errstate(all="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, MOST_DB, np.where(np.isfinite(noise) & (signal > 0), ratio, -MOST_DB))
    return np.asarray(np.clip(np.nan_to_num(ratio, nan=-MOST_DB), -MOST_DB, MOST_DB))


def _square(value: Tensor) -> Array:
    numbers = value.double().numpy()
    return np.asarray(np.where(np.isfinite(numbers), numbers, 0.0) ** 2)


def _changed(wanted: Tensor, found: Tensor) -> Array:
    one, other = wanted.double().numpy(), found.double().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.where(one == other, 0.0, one - other) ** 2)
