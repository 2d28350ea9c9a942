"""Whether a program computes what the user's module computes, but for rounding: each output, and each channel, by itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeopt.capture.unlike import Sample
from edgeopt.capture.witness import Witness, moved
from edgeopt.user_code import summary

Run = Callable[..., Sequence[Tensor]]
TOLERANCE = 1e-3
"""Largest error of float32 programs, relative to the root mean square of the channel it is in (60 dB)."""
ROOM = 16.0
"""How much farther than the module itself moves, when its weights and inputs move by one rounding, a program may be."""
_PERTURBATIONS = 3
_MOST_CHANNELS = 1024
_FAINTEST = 0.05
"""A channel fainter than this share of what it is on the example counts as that loud: on zeros there is only rounding."""
_MASK = 1e30  # such values are masks: they must be the same, and no other value is measured by them


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
    left_out: list[Sample] = field(default_factory=list)
    """Samples of cases that turned out to say nothing."""
    _moved: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=dict)
    _perturbed: list[Witness] = field(default_factory=list)

    def leave_out(self, case: Case) -> None:
        """Judges no program by ``case`` any more."""
        self.cases = [kept for kept in self.cases if kept is not case]
        self.left_out.append(case.sample)

    def deviation(self, run: Run) -> Deviation | None:
        """The first output that differs by more than rounding; None where there is none."""
        for case in self.cases:
            try:
                found = run(*(value.clone() for value in case.sample))
            except Exception as error:
                return Deviation(case, 0, f" is not there: {summary(error)}")
            for index, (value, wanted) in enumerate(zip(found, case.wanted, strict=True)):
                said = self._differs(case, index, value, wanted)
                if said:
                    return Deviation(case, index, said)
        return None

    def _differs(self, case: Case, index: int, value: Tensor, wanted: Tensor) -> str:
        """In words, how much an output differs; empty where rounding explains it."""
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
        for found in self._channels(errors, scales, self._noise(case, index, wanted)):
            if bool(found.over.any()):
                channel = int(found.over.nonzero()[0, 0])
                where = f", channel {channel} of axis {found.axis}" if found.axis is not None else ""
                error, scale = float(found.error[channel]), float(found.scale[channel])
                return f"{where}: off by {error:.3g} where values are about {scale:.3g}"
        return ""

    def _channels(self, error: Tensor, scales: tuple[Tensor, Tensor], noise: Tensor) -> Iterator[_Channels]:
        """The channels along every axis that may hold some."""
        axes: list[int | None] = [axis for axis, size in enumerate(error.shape) if 1 < size <= _MOST_CHANNELS]
        for axis in axes or [None]:
            errors, here, usual, moves = (_by_channel(value, axis) for value in (error, *scales, noise))
            if errors.numel():
                scale = torch.maximum(_root_mean_square(here), _FAINTEST * _root_mean_square(usual))
                over = errors.amax(1) > self.tolerance * scale + ROOM * moves.amax(1)
                yield _Channels(axis, over, errors.amax(1), scale)

    def _noise(self, case: Case, index: int, wanted: Tensor) -> Tensor:
        """How far each element moves when the module's weights and inputs move by one rounding."""
        if case.label not in self._moved:
            self._perturbed = self._perturbed or [self.witness.perturbed(seed) for seed in range(_PERTURBATIONS)]
            self._moved[case.label] = [witness(*_moved(case.sample, seed)) for seed, witness in enumerate(self._perturbed)]
        values = [outputs[index].double() for outputs in self._moved[case.label]]
        if any(value.shape != wanted.shape for value in values):  # a size that depends on values: nothing can be said of each
            return torch.full_like(wanted, torch.inf)
        return torch.stack([(value - wanted).abs() for value in values]).amax(0).nan_to_num(0.0)


def _moved(sample: Sample, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return tuple(moved(value, generator) if value.is_floating_point() else value for value in sample)


def _plain(wanted: Tensor) -> Tensor:
    """Where values are neither infinite nor masks."""
    return torch.isfinite(wanted) & (wanted.abs() < _MASK)


def _scale(wanted: Tensor) -> Tensor:
    return torch.where(_plain(wanted), wanted, 0.0)


def _by_channel(value: Tensor, axis: int | None) -> Tensor:
    """[channels, elements of each]."""
    return value.reshape(1, -1) if axis is None else value.movedim(axis, 0).reshape(value.shape[axis], -1)


def _root_mean_square(rows: Tensor) -> Tensor:
    return rows.square().mean(1).sqrt()
