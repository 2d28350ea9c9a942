"""One streaming pass over the user's calibration data: statistics for every target, and samples held out for the proof.

Every tenth sample (of few: the last) is never calibrated on; some of those are kept to verify artifacts with.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgeopt.capture import Captured, failing_layer
from edgeopt.errors import CalibrationError, ForwardError, NotFiniteError
from edgeopt.model.model import Calibration
from edgeopt.model.rebatching import Rebatching
from edgeopt.model.signature import Signature
from edgeopt.model.user_code import cause, reported_as, summary, users_line
from edgeopt.quantize.equalization import Equalizer
from edgeopt.quantize.held_out import KEPT_BYTES, HeldOut, Kept, Sample
from edgeopt.quantize.statistics import Recorder, Statistics

HOLD_OUT_EVERY = 10
WATCHED = 32
"""Samples that an equalizer sees, kept until it has."""
OUTSIDE = 4.0
"""How many times the greatest calibrated magnitude of an input its example may reach without a word."""
FAR_INSIDE = 64.0
"""How many times an example's the calibrated magnitude may be: 8 bits leave 2 to an input that much smaller."""

_END = object()


@dataclass(slots=True)
class Calibrated:
    """Statistics per program variant, samples for verification, and a digest of all data that was seen."""

    statistics: dict[str, Statistics]
    held_out: list[Sample]
    digest: str
    samples: int
    described: str
    held_out_of: int = 0
    """How many samples of the data were held out, of which ``held_out`` are kept; 0 where these are none of the data."""
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
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    equalizer: Equalizer | None = None,
) -> Calibrated:
    """Runs every program in ``programs`` (by variant name) on the data; with ``keep``, some samples stay in memory.

    ``wanted``: names of the values to record, all where None. ``turn``: around each run of a program. ``equalizer``: watches
    the first samples; what it makes of its program is then recorded in the place of each of ``programs``.

    Raises CalibrationError where there is no sample or reading one raises, InputError where one does not fit the model,
    NotFiniteError where one holds NaN or infinity.
    """
    if data is None:
        return _uncalibrated({name: Recorder(module, wanted) for name, module in programs.items()}, example)
    recording = _Recording(programs, wanted, equalizer)
    digest = hashlib.sha256()
    held_out, kept = HeldOut(), Kept(keep)
    rebatching = Rebatching(signature)
    count = 0
    for sample, is_held_out in _assigned(_finite(_samples(_batches(data), rebatching), signature)):
        _update(digest, sample)
        if not is_held_out:
            with turn():
                recording.add(sample, f"calibration sample {count}")
            kept.add(sample)
        else:
            held_out.add(sample)
        count += 1
        progress(count)
    if not recording.begun:
        with turn():
            recording.begin()
    statistics = recording.statistics()
    described = _described(count, rebatching)
    proving = held_out.samples() or perturbed(example)
    return Calibrated(statistics, proving, digest.hexdigest(), count, described, held_out.count, kept.samples)


def _described(count: int, rebatching: Rebatching) -> str:
    """For people: how many samples, and what became of batches that had another size than the example."""
    size = "x".join(map(str, rebatching.signature.specs[0].shape))
    joined = f", batches joined along their first axis to the example's {size}" if rebatching.joined else ""
    rows = "row, which fills" if rebatching.left == 1 else f"{rebatching.left} rows, which fill"
    left = f"; the last {rows} none, left out" if rebatching.left else ""
    return f"{count} samples{joined}{left}"


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


def _finite(stream: Iterator[Sample], signature: Signature) -> Iterator[Sample]:
    for count, sample in enumerate(stream):
        for spec, value in zip(signature.specs, sample, strict=True):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NotFiniteError(f"calibration sample {count} holds NaN or infinity in {spec.name}", fix="clean the data")
        yield sample


def _samples(batches: Iterator[Any], rebatching: Rebatching) -> Iterator[Sample]:
    """The user's batches as flat, checked samples of the example's shape; larger batches are cut, smaller ones joined."""
    count = 0
    while True:
        with reported_as(partial(_raised, count)):
            batch = next(batches, _END)
        if batch is _END:
            break
        for sample in rebatching.add(batch, f"calibration sample {count}"):
            # Samples are kept without the rest of their batch, and a generator may fill the same array again for each.
            yield tuple(value.cpu().clone() for value in sample)
            count += 1
    if not count:
        raise _empty(rebatching)


def _raised(count: int, error: BaseException) -> CalibrationError:
    fix = "it must give every batch without an error: try it in a loop of its own"
    return CalibrationError(f"the calibration data raised after {count} samples", why=cause(error), fix=fix)


def _empty(rebatching: Rebatching) -> CalibrationError:
    """Nothing came, or too little for one sample."""
    if not rebatching.shapes:
        why = "it gave no batch; a generator gives its batches once, and a function is called more than once"
        fix = "give at least one batch (some hundred are usual), from a function that begins anew; or leave --calibration out"
        return CalibrationError("the calibration data is empty", why=why, fix=fix)
    came = ", ".join("x".join(map(str, shape)) for shape in rebatching.shapes)
    rows = f"{rebatching.left} row{'' if rebatching.left == 1 else 's'}"
    why = f"{rows} came (the last batch: {came}), and one sample takes {rebatching.signature.describe()}"
    fix = "give more batches, or example inputs with a smaller first axis"
    return CalibrationError("the calibration data fills no sample", why=why, fix=fix)


def digest_of(data: Calibration, signature: Signature, progress: Callable[[int], None] = lambda count: None) -> str | None:
    """The digest that :func:`calibrate` gives for the same data, without running any program or checking it for NaN.

    None where reading it here would take it away from :func:`calibrate`.
    """
    batches = _read_again(data)
    if batches is None:
        return None
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=1) as hashing:  # one sample is hashed while the user's code makes the next
        pending: Future[None] | None = None
        for count, sample in enumerate(_samples(batches, Rebatching(signature)), 1):
            if pending is not None:
                pending.result()
            pending = hashing.submit(_update, digest, sample)
            progress(count)
    return digest.hexdigest()


def _read_again(data: Calibration) -> Iterator[Any] | None:
    """The batches, where a second pass sees the same ones: of a collection, or a function that gives a new iterator each time.

    None for a generator object, and for a function that gives the same one again.
    """
    found = _iterable(data)
    batches = _iterator(found)
    if batches is not found:
        return batches
    return batches if callable(data) and _iterable(data) is not found else None


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
    return _iterator(_iterable(data))


def _iterable(data: Calibration) -> Any:
    with reported_as(_unreadable):
        return data() if callable(data) else data


def _iterator(found: Any) -> Iterator[Any]:
    with reported_as(_unreadable):
        return iter(found)


def _unreadable(error: BaseException) -> CalibrationError:
    fix = "give an iterable of batches, or a function that takes no arguments and returns one"
    return CalibrationError("the calibration data cannot be read", why=cause(error), fix=fix)


class _Recording:
    """The statistics of all samples. While an equalizer watches the first ones they wait: its program is what is recorded."""

    def __init__(self, programs: dict[str, GraphModule], wanted: Collection[str] | None, equalizer: Equalizer | None) -> None:
        self._programs, self._wanted = programs, wanted
        self._equalizer = equalizer if equalizer is not None and equalizer.wanted else None
        self._waiting: list[Sample] = []
        self._recorders: dict[str, Recorder] = {}
        if self._equalizer is None:
            self.begin()

    @property
    def begun(self) -> bool:
        """Whether no sample waits any more."""
        return bool(self._recorders)

    def add(self, sample: Sample, what: str) -> None:
        """Runs every program on ``sample``; what one raises names ``what`` and the layer."""
        if self._recorders:
            for name, recorder in self._recorders.items():
                with raising_on(self._programs[name], sample, what):
                    recorder.run(*sample)
            return
        assert self._equalizer is not None
        with raising_on(next(iter(self._programs.values())), sample, what):
            self._equalizer.watch(*sample)
        self._waiting.append(sample)
        if len(self._waiting) >= min(WATCHED, KEPT_BYTES // max(sum(value.nbytes for value in sample), 1)):
            self.begin()

    def begin(self) -> None:
        """Records what has waited; from now on each sample at once."""
        if self._equalizer is not None:
            equalized = self._equalizer.equalized().module(check_guards=False)
            self._programs = dict.fromkeys(self._programs, equalized)
        self._recorders = {name: Recorder(module, self._wanted) for name, module in self._programs.items()}
        for sample in self._waiting:
            for recorder in self._recorders.values():
                recorder.run(*sample)
        self._waiting.clear()

    def statistics(self) -> dict[str, Statistics]:
        """By the name of each program."""
        return {name: recorder.statistics for name, recorder in self._recorders.items()}


@contextmanager
def raising_on(program: GraphModule, sample: Sample, what: str) -> Iterator[None]:
    """Around a run of the model on one sample of the user's data: what it raises names ``what`` and the layer."""

    def raised(error: BaseException) -> ForwardError:
        layer, line = failing_layer(program, sample)
        where = " at ".join(filter(None, (f" in layer {layer}" if layer else "", users_line(error) or line)))
        fix = "look at this sample's values: an index beyond a table, a length that another input does not have"
        return ForwardError(f"the model raised on {what}{where}", why=summary(error), fix=fix)

    with reported_as(raised):
        yield


def _update(digest: Any, sample: Sample) -> None:
    for value in sample:
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _uncalibrated(recorders: dict[str, Recorder], example: Sample) -> Calibrated:
    for recorder in recorders.values():
        recorder.run(*example)
    statistics = {name: recorder.statistics for name, recorder in recorders.items()}
    digest = hashlib.sha256(b"uncalibrated")
    _update(digest, example)
    return Calibrated(
        statistics, perturbed(example), digest.hexdigest(), 0, "uncalibrated: the example input only", kept=[example]
    )


def outside(found: Calibrated, captured: Captured) -> Iterator[str]:
    """A warning for each input whose example is of another scale than what calibration saw: integers have that one."""
    for statistics in list(found.statistics.values())[:1]:
        for spec, value in zip(captured.signature.specs, captured.example, strict=True):
            known = statistics.get(spec.name)
            if known is None or not value.is_floating_point() or not value.numel():
                continue
            seen, own = max(abs(known.minimum), abs(known.maximum)), float(value.abs().max())
            if own > OUTSIDE * seen or 0 < FAR_INSIDE * own < seen:
                yield (
                    f"calibration saw input {spec.name} in [{known.minimum:.3g}, {known.maximum:.3g}], the example reaches"
                    f" {own:.3g}: integers are made for that range; calibrate on what the device will see"
                )
