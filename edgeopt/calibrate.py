"""One streaming pass over the user's calibration data: statistics for every target, and samples held out for the proof.

Every tenth sample (of few: the last) is never calibrated on; at most sixteen of those are kept to verify artifacts with.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgeopt.calling import Signature
from edgeopt.errors import CalibrationError, EdgeoptError, NotFiniteError
from edgeopt.model import Calibration
from edgeopt.quantize.statistics import Recorder, Statistics
from edgeopt.user_code import cause

HOLD_OUT_EVERY = 10
HELD_OUT_MOST = 16
KEPT_MOST = 64
KEPT_BYTES = 1 << 28

Sample = tuple[Tensor, ...]


@dataclass(slots=True)
class Calibrated:
    """Statistics per program variant, samples for verification, and a digest of all data that was seen."""

    statistics: dict[str, Statistics]
    held_out: list[Sample]
    digest: str
    samples: int
    described: str
    kept: list[Sample] = field(default_factory=list)
    """Some of the recorded samples, spread evenly over all, for what needs data in memory (pruning)."""

    @property
    def real(self) -> bool:
        """Whether the user gave data; else everything made from this is marked uncalibrated."""
        return self.samples > 0


def calibrate(
    programs: dict[str, GraphModule],
    signature: Signature,
    example: Sample,
    data: Calibration | None,
    progress: Callable[[int], None] = lambda count: None,
    keep: bool = False,
    wanted: Collection[str] | None = None,
) -> Calibrated:
    """Runs every program in ``programs`` (by variant name) on the data; with ``keep``, some samples stay in memory.

    ``wanted``: names of the values to record, all where None.

    Raises CalibrationError where there is no sample or reading one raises, InputError where one does not fit the model,
    NotFiniteError where one holds NaN or infinity.
    """
    recorders = {name: Recorder(module, wanted) for name, module in programs.items()}
    if data is None:
        return _uncalibrated(recorders, example)
    digest = hashlib.sha256()
    held_out: list[Sample] = []
    kept = _Kept(keep)
    count = 0
    for sample, is_held_out in _assigned(samples(data, signature)):
        _update(digest, sample)
        if is_held_out:
            held_out = [*held_out, sample][:HELD_OUT_MOST]
        else:
            _record(recorders, sample)
            kept.add(sample)
        count += 1
        progress(count)
    statistics = {name: recorder.statistics for name, recorder in recorders.items()}
    described = f"{count} samples"
    return Calibrated(statistics, held_out or perturbed(example), digest.hexdigest(), count, described, kept.samples)


def _assigned(stream: Iterator[Sample]) -> Iterator[tuple[Sample, bool]]:
    """Every sample, in order, and whether it is held out: each tenth, or the last of two to nine."""
    pending: Sample | None = None
    count = 0
    for sample in stream:
        if pending is not None:
            yield pending, False
        count += 1
        pending = sample
        if count % HOLD_OUT_EVERY == 0:
            yield sample, True
            pending = None
    if pending is not None:
        yield pending, 1 < count < HOLD_OUT_EVERY


class _Kept:
    """At most KEPT_MOST samples and KEPT_BYTES bytes, every n-th of all: n doubles whenever there are too many."""

    def __init__(self, wanted: bool) -> None:
        self.samples: list[Sample] = []
        self._wanted, self._every, self._count = wanted, 1, 0

    def add(self, sample: Sample) -> None:
        if self._wanted and self._count % self._every == 0:
            self.samples.append(sample)
            size = sum(value.nbytes for value in sample)
            if len(self.samples) > max(2, min(KEPT_MOST, KEPT_BYTES // max(size, 1))):
                self.samples = self.samples[::2]
                self._every *= 2
        self._count += 1


def samples(data: Calibration, signature: Signature) -> Iterator[Sample]:
    """The user's batches as flat, checked samples of the example's shape; larger batches are split."""
    for count, sample in enumerate(_split(data, signature)):
        for spec, value in zip(signature.specs, sample, strict=True):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NotFiniteError(f"calibration sample {count} holds NaN or infinity in {spec.name}", fix="clean the data")
        yield sample


def _split(data: Calibration, signature: Signature) -> Iterator[Sample]:
    count = 0
    batches = _batches(data)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except EdgeoptError:
            raise
        except Exception as error:
            raise CalibrationError(f"the calibration data raised after {count} samples", why=cause(error)) from error
        for sample in signature.split(batch, f"calibration sample {count}"):
            yield sample
            count += 1
    if not count:
        raise CalibrationError(
            "the calibration data is empty", fix="give at least one batch (some hundred are usual), or leave --calibration out"
        )


def digest_of(data: Calibration, signature: Signature) -> str:
    """The digest that :func:`calibrate` gives for the same data, without running any program or checking it for NaN."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=1) as hashing:  # one sample is hashed while the user's code makes the next
        pending: Future[None] | None = None
        for sample in _split(data, signature):
            if pending is not None:
                pending.result()
            pending = hashing.submit(_update, digest, sample)
    return digest.hexdigest()


def can_be_read_again(data: Calibration) -> bool:
    """Whether a second pass sees the same data: a function or a collection can, a generator object cannot."""
    return callable(data) or iter(data) is not data


def perturbed(example: Sample, count: int = 4) -> list[Sample]:
    """The example with 5 % noise on its floats (fixed seed): inputs to compare on where no data is held out."""
    generator = torch.Generator().manual_seed(0)

    def noisy(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        spread = value.std(correction=0) if value.numel() > 1 else value.abs()
        return value + 0.05 * spread * torch.randn(value.shape, generator=generator)

    return [tuple(noisy(value) for value in example) for _ in range(count)]


def _batches(data: Calibration) -> Iterator[Any]:
    try:
        return iter(data() if callable(data) else data)
    except Exception as error:
        raise CalibrationError(
            "the calibration data cannot be read", why=cause(error), fix="give an iterable of batches"
        ) from error


def _record(recorders: dict[str, Recorder], sample: Sample) -> None:
    for recorder in recorders.values():
        recorder.run(*sample)


def _update(digest: Any, sample: Sample) -> None:
    for value in sample:
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _uncalibrated(recorders: dict[str, Recorder], example: Sample) -> Calibrated:
    _record(recorders, example)
    statistics = {name: recorder.statistics for name, recorder in recorders.items()}
    digest = hashlib.sha256(b"uncalibrated")
    _update(digest, example)
    return Calibrated(statistics, perturbed(example), digest.hexdigest(), 0, "uncalibrated: the example input only", [example])
