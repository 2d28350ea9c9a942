"""How far one set of outputs is from another, part by part: each output, and each channel where channels differ in scale.

One number over everything lets a loud part hide a silent one: boxes in pixels beside probabilities, a mask's constant beside
the scores that it leaves. Needs numpy only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Vector = NDArray[np.float64]
Outputs = Sequence[tuple[Array, ...]]
"""Outputs of a model: one tuple of arrays per sample."""

MAX_SQNR_DB = 200.0
"""Shown for outputs that are equal bit by bit: infinity has no place in JSON."""
UNLIKE_SCALES = 30.0
"""Channels are judged one by one where the scales of two of them differ by more than this."""
MOST_CHANNELS = 1024
FEWEST_ELEMENTS = 6
"""A channel with fewer numbers, over all samples, has no scale that could be told from chance."""
LEAST_SCALE = 1e-6
"""Of the loudest channel's scale: below it a channel is what float32 leaves of zero."""
CLASSES = -1
"""In the place of an axis: the values of an output of classes are its channels, each seen as the map of where it is."""
MASK = 1e4
"""What a number must at least be to count as a mask."""
HALF_LIMIT = 65504.0
"""The greatest float16: a mask beyond it may be infinity, or edgeopt's stand-in, in an artifact."""
STAND_IN = 2.9e4
MASK_STANDS_OUT = 100.0
"""How many times as large as every other number of its output a mask is."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the outputs: all of ``output``, or along ``axis`` of one sample the channels ``first`` to ``last``."""

    output: str
    axis: int | None = None
    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        if self.axis is None:
            return f"output {self.output}"
        if self.axis == CLASSES:
            return f"output {self.output}, class {self.first}"
        channels = f"{self.first}" if self.first == self.last else f"{self.first}..{self.last}"
        return f"output {self.output}, {'channel' if self.axis == 1 else f'index of axis {self.axis}'} {channels}"


Ratios = dict[tuple[int, int | None], Vector]
"""SQNR in dB by output and axis (None: the whole output), one for each channel."""


@dataclass(slots=True)
class OutputScales:
    """Which parts outputs have, by what the model gives on all kinds of inputs."""

    names: tuple[str, ...]
    parts: dict[tuple[int, int], Vector] = field(default_factory=dict)
    """The root mean square of each channel, by output and axis, where they are to be judged one by one beside the whole."""

    @classmethod
    def of(cls, names: tuple[str, ...], outputs: Outputs) -> "OutputScales":
        """``outputs``: of the model itself, on samples as unlike each other as there are."""
        found = cls(names)
        for index in range(len(names)):
            first = outputs[0][index]
            sums = {axis: _Power() for axis in (_axes(np.shape(first)) if _is_number(first) else ())}
            for sample in outputs:
                value, _ = _comparable(sample[index], sample[index])
                for axis, power in sums.items():
                    power.add(value, axis)
            for axis, power in sums.items():
                scale = np.sqrt(power.mean)
                least = LEAST_SCALE * scale.max()
                if power.count >= FEWEST_ELEMENTS and scale.max() > UNLIKE_SCALES * max(scale.min(), least):
                    found.parts[index, axis] = np.maximum(scale, least)
        return found


class _Power:
    """The mean square of each channel, summed up sample by sample."""

    def __init__(self) -> None:
        self.count = 0
        self._total: Vector = np.zeros(1)

    def add(self, value: Vector, axis: int | None) -> None:
        others = None if axis is None else tuple(other for other in range(value.ndim) if other != axis)
        self._total = self._total + np.sum(value**2, axis=others).reshape(-1)
        self.count += value.size // len(self._total)

    @property
    def mean(self) -> Vector:
        return np.asarray(self._total / max(self.count, 1))


def sqnr(scales: OutputScales, reference: Outputs, candidate: Outputs) -> Ratios:
    """10 log10(signal power / noise power) of every part, both over all samples.

    A channel's signal is its scale on all kinds of inputs, so that one which happens to be silent on these is not taken for
    lost. What the reference masks must be masked in the candidate, and the rest is judged without it.
    """
    found: Ratios = {}
    with np.errstate(all="ignore"):
        for index in range(len(scales.names)):
            pairs = [(r[index], c[index]) for r, c in zip(reference, candidate, strict=True)]
            axes = [None, *(axis for output, axis in scales.parts if output == index)]
            signal, noise = {axis: _Power() for axis in axes}, {axis: _Power() for axis in axes}
            for one, other in pairs:
                value, error = _comparable(one, other)
                for axis in axes:
                    signal[axis].add(value, axis)
                    noise[axis].add(error, axis)
            for axis in axes:
                power = signal[axis].mean if axis is None else scales.parts[index, axis] ** 2
                found[index, axis] = _decibel(power, noise[axis].mean)
            found[index, None] = np.minimum(found[index, None], _loud(pairs))
            if not _is_number(pairs[0][0]) and (by_class := _by_class(pairs)).size:
                found[index, CLASSES] = by_class
    return found


def _by_class(pairs: list[tuple[Array, Array]]) -> Vector:
    """SQNR of each class's map, ones where it is; MAX_SQNR_DB for those too rare to tell. Empty where numbers are no classes.

    A class that is rare may be lost whole while nearly all elements agree.
    """
    one, other = (np.concatenate([np.asarray(pair[side]).reshape(-1) for pair in pairs]) for side in (0, 1))
    if one.shape != other.shape or not one.size or one.min() < 0 or one.max() >= MOST_CHANNELS:
        return np.zeros(0)
    one, other = one.astype(np.int64), np.clip(other, -1, MOST_CHANNELS).astype(np.int64)
    there = np.bincount(one)
    missed = np.bincount(one[one != other], minlength=len(there))
    wrong = np.bincount(other[(one != other) & (other >= 0) & (other < len(there))], minlength=len(there))
    ratios = _decibel(there.astype(np.float64), (missed + wrong).astype(np.float64))
    return np.asarray(np.where(there >= FEWEST_ELEMENTS, ratios, MAX_SQNR_DB))


def _loud(pairs: list[tuple[Array, Array]]) -> Vector:
    """The same of a whole output whose masks are numbers like others: what looks like a mask may be a large result."""
    if not any(masked(one).any() for one, _ in pairs):
        return np.full(1, MAX_SQNR_DB)
    signal, noise = _Power(), _Power()
    for one, other in pairs:
        value = np.where(np.abs(_numbers(one)) >= HALF_LIMIT, 0, _numbers(one))
        signal.add(value, None)
        noise.add(np.where(np.abs(_numbers(one)) >= HALF_LIMIT, 0, value - _numbers(other)), None)
    return _decibel(signal.mean, noise.mean) if signal.mean.any() else np.full(1, MAX_SQNR_DB)


def worst(scales: OutputScales, ratios: Ratios) -> tuple[float, Part]:
    """The lowest ratio, and the part that has it, channels beside it that are as bad included."""
    (index, axis), values = min(ratios.items(), key=lambda item: float(item[1].min()))
    lowest = int(values.argmin())
    first = last = lowest
    if axis == CLASSES:
        return float(values[lowest]), Part(scales.names[index], axis, lowest, lowest)
    while first > 0 and values[first - 1] <= values[lowest] + 3:
        first -= 1
    while last + 1 < len(values) and values[last + 1] <= values[lowest] + 3:
        last += 1
    return float(values[lowest]), Part(scales.names[index], axis, first, last)


def constant(names: tuple[str, ...], reference: Outputs, candidate: Outputs) -> Iterator[tuple[str, float]]:
    """Outputs that are the same on every sample in ``candidate``, though not in ``reference``, and by how much of their
    scale they vary there."""
    for index, name in enumerate(names):
        given = np.stack([np.where(masked(sample[index]), 0, _numbers(sample[index])) for sample in reference])
        found = [np.asarray(sample[index]) for sample in candidate]
        if not given.size or any(not np.array_equal(found[0], other, equal_nan=_is_float(other)) for other in found[1:]):
            continue
        spread, scale = float(given.std(axis=0).max(initial=0)), float(np.sqrt(np.mean(given**2)))
        if scale and spread > 1e-3 * scale:
            yield name, spread / scale


def drowned(names: tuple[str, ...], reference: Outputs, candidate: Outputs) -> Iterator[str]:
    """Outputs whose changes from sample to sample are smaller than the candidate's error: an offset hides it."""
    for index, name in enumerate(names):
        if len(reference) < 2 or not _is_float(reference[0][index]):
            continue
        pairs = [_comparable(r[index], c[index]) for r, c in zip(reference, candidate, strict=True)]
        error = sum(float(np.sum(error**2)) for _, error in pairs)
        mean = sum(value for value, _ in pairs) / len(pairs)
        varies = sum(float(np.sum((value - mean) ** 2)) for value, _ in pairs)
        if 0 < varies <= error:
            yield name


def masked(reference: Array) -> NDArray[np.bool_]:
    """Which numbers switch elements off: infinities, and huge ones that stand out from all others of their output."""
    if not _is_float(reference):
        return np.zeros(np.shape(reference), bool)
    size = np.abs(np.asarray(reference, np.float64))
    huge = size >= MASK
    if not huge.any():
        return huge
    rest = float(size[~huge].max(initial=0))
    return huge & ((size >= max(MASK, MASK_STANDS_OUT * rest)) if (~huge).any() else ~np.isfinite(size))


def _comparable(reference: Array, candidate: Array) -> tuple[Vector, Vector]:
    """The reference, and the candidate's error, as numbers; both 0 where a mask is kept.

    Where a mask is lost the error is NaN, which is no signal at all. Classes and booleans have an error of the reference's own
    root mean square wherever they differ: they have no distance.
    """
    one, other = _numbers(reference), _numbers(candidate)
    if one.shape != other.shape:
        return one, np.full_like(one, np.nan)
    if not one.size:
        return one, one
    if not _is_number(reference):
        return one, np.where(one == other, 0, np.sqrt(np.mean(one**2)) or 1.0)
    hidden = masked(reference)
    if not hidden.any():
        return one, one - other
    with np.errstate(all="ignore"):
        near = np.abs(other - one) <= 0.1 * np.abs(one)
        beyond = (np.abs(one) >= HALF_LIMIT) & (np.abs(other) >= STAND_IN)
        kept = (np.sign(one) == np.sign(other)) & (near | beyond)
        return np.where(hidden, 0, one), np.where(hidden, np.where(kept, 0, np.nan), one - other)


def unmasked(reference: Array, candidate: Array) -> tuple[Vector, Vector]:
    """Both as numbers, 0 where the reference masks."""
    hidden = masked(reference)
    return np.where(hidden, 0, _numbers(reference)), np.where(hidden, 0, _numbers(candidate))


def _numbers(value: Array) -> Vector:
    return np.asarray(value, np.float64)


def _is_number(value: Array) -> bool:
    """Whether values have a distance: floats, and integers of 8 and 16 bits, as images and sound have; not classes."""
    dtype = np.asarray(value).dtype
    return dtype != np.bool_ and not (np.issubdtype(dtype, np.integer) and dtype.itemsize > 2)


def _is_float(value: Array) -> bool:
    return bool(np.issubdtype(np.asarray(value).dtype, np.floating))


def _axes(shape: tuple[int, ...]) -> list[int]:
    return [axis for axis, size in enumerate(shape) if 1 < size <= MOST_CHANNELS]


def _decibel(signal: Vector, noise: Vector) -> Vector:
    with np.errstate(all="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, MAX_SQNR_DB, np.where(np.isfinite(noise) & (signal > 0), ratio, -MAX_SQNR_DB))
    return np.asarray(np.clip(np.where(np.isnan(ratio), -MAX_SQNR_DB, ratio), -MAX_SQNR_DB, MAX_SQNR_DB))
