"""Whether a program computes what the user's module computes, but for rounding: each output, and each channel, by itself."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeopt.capture.rounding import MASK, OtherRounding, moved
from edgeopt.capture.unlike import Sample
from edgeopt.capture.witness import Witness
from edgeopt.model.user_code import summary

Run = Callable[..., Sequence[Tensor]]
TOLERANCE = 1e-3
"""Largest error of float32 programs, relative to the root mean square of the channel it is in (60 dB)."""
ROOM = 16.0
"""How much farther than the module itself moves, when its weights and inputs move by one rounding, a program may be."""
_PERTURBATIONS = (3, 6)
"""How many times it is moved. Before it is said to differ, as many times what its operators give is moved too: differences
that cancel out within the module do not show otherwise."""
_MOST_CHANNELS = 1024
_FAINTEST = 0.05
"""A channel fainter than this share of what it is on the example counts as that loud: on zeros there is only rounding."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input, and what the user's module gives for it."""

    label: str
    sample: Sample
    wanted: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where a program differs most from the module."""

    case: Case
    output: int
    found: str

    def describe(self, names: Sequence[str]) -> str:
        """``output logits, channel 3 of axis 1: off by 2.4 where values are about 0.8, on the example``."""
        name = names[self.output] if self.output < len(names) else str(self.output)
        return f"output {name}{self.found}, on {self.case.label}"


@dataclass(frozen=True, slots=True)
class _Channels:
    """The channels along one axis (None: the whole tensor is one): which differ too much, errors and usual sizes."""

    axis: int | None
    over: Tensor
    error: Tensor
    scale: Tensor


@dataclass(slots=True)
class Reference:
    """The user's module on some inputs; programs are compared with it."""

    witness: Witness
    cases: list[Case]
    tolerance: float = TOLERANCE
    says_nothing: Callable[[Sample], bool] = lambda sample: False
    """Whether the module's answer to an input, where a program gives another, is none that could be kept."""
    left_out: list[Sample] = field(default_factory=list)
    """Samples of cases that turned out to say nothing: they judge no program any more."""
    _moved: defaultdict[str, list[tuple[Tensor, ...]]] = field(default_factory=lambda: defaultdict(list))

    def deviation(self, run: Run) -> Deviation | None:
        """The first output that differs by more than rounding; None where there is none."""
        for case in tuple(self.cases):
            try:
                found = run(*(value.clone() for value in case.sample))
            except Exception as error:
                return Deviation(case, 0, f" is not there: {summary(error)}")
            for index, (value, wanted) in enumerate(zip(found, case.wanted, strict=True)):
                if not self._differs(case, index, value, wanted, _PERTURBATIONS[:1]):
                    continue
                if self.says_nothing(case.sample):
                    self.cases = [kept for kept in self.cases if kept is not case]
                    self.left_out.append(case.sample)
                    break
                if said := self._differs(case, index, value, wanted, _PERTURBATIONS):
                    return Deviation(case, index, said)
        return None

    def _differs(self, case: Case, index: int, value: Tensor, wanted: Tensor, perturbations: Sequence[int]) -> str:
        """In words, how much an output differs; empty where rounding explains it, after so many ``perturbations``."""
        if value.shape != wanted.shape:
            return f" has shape {tuple(value.shape)} instead of {tuple(wanted.shape)}"
        value, wanted = value.double(), wanted.double()
        other = ~torch.isclose(value, wanted, rtol=1e-5, equal_nan=True) & ~_plain(wanted)
        if bool(other.any()):
            return f" holds {value[other][0]:.6g} instead of {wanted[other][0]:.6g} in {int(other.sum())} places"
        errors = torch.where(_plain(wanted), (value - wanted).abs(), 0.0).nan_to_num(torch.inf, torch.inf)
        usual = self.cases[0].wanted[index]
        scales = (_scale(wanted), _scale((usual if usual.shape == wanted.shape else wanted).double()))
        if not any(bool(found.over.any()) for found in self._channels(errors, scales, torch.zeros_like(errors))):
            return ""
        over: list[_Channels] = []
        for count in perturbations:
            noise = self._noise(case, index, wanted, count)
            over = [found for found in self._channels(errors, scales, noise) if bool(found.over.any())]
            if not over:
                return ""
        return _worst(over[0])

    def _channels(self, error: Tensor, scales: tuple[Tensor, Tensor], noise: Tensor) -> Iterator[_Channels]:
        """The channels along every axis that may hold some."""
        axes: list[int | None] = [axis for axis, size in enumerate(error.shape) if 1 < size <= _MOST_CHANNELS]
        for axis in axes or [None]:
            errors, here, usual, moves = (_by_channel(value, axis) for value in (error, *scales, noise))
            if errors.numel():
                scale = torch.maximum(_root_mean_square(here), _FAINTEST * _root_mean_square(usual))
                over = errors.amax(1) > self.tolerance * scale + ROOM * moves.amax(1)
                yield _Channels(axis, over, errors.amax(1), scale)

    def _noise(self, case: Case, index: int, wanted: Tensor, count: int) -> Tensor:
        """How far each element moves when the module's weights and inputs move by one rounding, ``count`` times."""
        moves = self._moved[case.label]
        for seed in range(len(moves), count):
            with OtherRounding(seed) if seed >= _PERTURBATIONS[0] else nullcontext():
                moves.append(self.witness.perturbed(seed)(*_moved(case.sample, seed)))
        values = [outputs[index].double() for outputs in moves]
        if any(value.shape != wanted.shape for value in values):  # a size that depends on values: nothing can be said of each
            return torch.full_like(wanted, torch.inf)
        return torch.stack([(value - wanted).abs() for value in values]).amax(0).nan_to_num(0.0)


def _worst(found: _Channels) -> str:
    channel = int(found.over.nonzero()[0, 0])
    where = f", channel {channel} of axis {found.axis}" if found.axis is not None else ""
    return f"{where}: off by {float(found.error[channel]):.3g} where values are about {float(found.scale[channel]):.3g}"


def _moved(sample: Sample, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return tuple(moved(value, generator) if value.is_floating_point() else value for value in sample)


def _plain(wanted: Tensor) -> Tensor:
    """Where values are neither infinite nor masks: those must be the same, and no other value is measured by them."""
    return torch.isfinite(wanted) & (wanted.abs() < MASK)


def _scale(wanted: Tensor) -> Tensor:
    return torch.where(_plain(wanted), wanted, 0.0)


def _by_channel(value: Tensor, axis: int | None) -> Tensor:
    """[channels, elements of each]."""
    return value.reshape(1, -1) if axis is None else value.movedim(axis, 0).reshape(value.shape[axis], -1)


def _root_mean_square(rows: Tensor) -> Tensor:
    return rows.square().mean(1).sqrt()
