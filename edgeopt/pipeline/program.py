"""The programs that workers lower: made when first asked for, saved once, shared by every job that starts from the same one."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import torch
from torch.export import ExportedProgram

from edgeopt import registry
from edgeopt.capture import Captured, name_inputs
from edgeopt.capture.operator_kinds import HEAVY
from edgeopt.core import Decision
from edgeopt.errors import ConversionError, NotApplicable
from edgeopt.model.model import Calibration
from edgeopt.model.user_code import cause
from edgeopt.pipeline.jobs import DENSE, Job, calibrated_values
from edgeopt.pipeline.plan import Chosen, chosen_by, chosen_of, remedies
from edgeopt.quantize import sparse24
from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.calibrate import Calibrated, calibrate
from edgeopt.quantize.costs import OperatorCosts
from edgeopt.quantize.equalization import Equalizer
from edgeopt.quantize.gradients import Weighed, weighed
from edgeopt.quantize.held_out import Sample
from edgeopt.quantize.mixed import Search
from edgeopt.quantize.palettized import palettize
from edgeopt.quantize.planner import Quantization
from edgeopt.quantize.rounding import Moments, moments_of
from edgeopt.quantize.simulated import Simulation, simulation_of
from edgeopt.quantize.statistics import Recorder, Statistics
from edgeopt.quantize.weights import quantize_weights
from edgeopt.support.files import writing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one integer program is made from; ``equalized``: how many values of it were scaled."""

    program: ExportedProgram
    statistics: Statistics
    moments: Moments
    equalized: int = 0
    weighed: Weighed | None = None
    """How ``statistics`` got weights, or why not; None where none were asked for."""

    def simulated(self, job: Job, kept: Collection[str] = ()) -> Simulation:
        """What ``job``'s program computes, with ``kept`` in floats, operators by the names of their outputs."""
        settings, reasons = (job.profile, job.scheme, job.io_float), dict.fromkeys(kept, "asked for")
        return simulation_of(self.program, self.statistics, *settings, self.moments, reasons)

    def remedies(self, decided: Quantization) -> tuple[Decision, ...]:
        """What was done to the weights, as a plan says it."""
        return remedies(decided, self.equalized, self.moments.samples, self.weighed)


@dataclass(slots=True)
class Programs:
    """Saves programs below ``folder``; asked from any thread, works with torch in one at a time."""

    captured: Captured
    folder: Path
    equalizer: Equalizer | None = None
    """Of the captured program, for integer programs; None: these are made from the captured one."""
    _variants: dict[str, ExportedProgram] = field(default_factory=dict)
    _statistics: dict[str, Statistics] = field(default_factory=dict)
    _samples: list[Sample] = field(default_factory=list)
    _moments: Moments | None = None
    _weighed: Weighed | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _float: dict[str, Path] = field(default_factory=dict)
    _count: int = 0
    _promised: "dict[tuple[str, str], Future[tuple[Path, Chosen]]]" = field(default_factory=dict)

    def calibrated(self, found: Calibrated) -> None:
        """Statistics and samples, from which integer and sparse programs are made."""
        self._statistics, self._samples = dict(found.statistics), found.kept

    def calibrate(self, data: Calibration | None, jobs: Collection[Job], progress: Callable[[int], None]) -> Calibrated:
        """What ``jobs``, and those that may take their places, need of one pass over ``data``, kept for their programs."""
        jobs = [replace(job, scheme=scheme) for job in jobs for scheme in (job.scheme, *job.left)]
        module = self.captured.program.module(check_guards=False)
        integer = any(job.scheme.integer for job in jobs)
        if data is not None and any(job.scheme.integer and job.quality != "fast" for job in jobs):
            self.equalizer = Equalizer(self.captured.program)
        found = calibrate(
            {DENSE: module},
            self.captured.signature,
            self.captured.example,
            data,
            progress,
            keep=integer or any(job.profile.sparsity for job in jobs),
            wanted=calibrated_values(module, jobs),
            turn=self.turn,
            equalizer=self.equalizer,
        )
        self.calibrated(found)
        return found

    @property
    def samples(self) -> list[Sample]:
        """Some of those that were calibrated on, where they are kept."""
        return self._samples

    def turn(self) -> threading.Lock:
        """To hold around whatever runs the model in this process: while torch.export works it turns oneDNN off for every thread
        (torch 2.13, export/_trace.py, _ignore_backend_decomps), and convolutions round otherwise without it.
        """
        return self._lock

    def promise(self, job: Job, ahead: Executor) -> None:
        """Lets ``ahead``, of one thread, make what :meth:`saved` will be asked for: no worker waits for it."""
        self._promised[_key(job)] = ahead.submit(self._made, job)

    def saved(self, job: Job) -> tuple[Path, Chosen]:
        """The ``.pt2`` file that ``job`` lowers, and what was chosen while it was quantized."""
        promised = self._promised.pop(_key(job), None)
        return self._made(job) if promised is None else promised.result()

    def _made(self, job: Job) -> tuple[Path, Chosen]:
        with self._lock, torch.no_grad():
            program = self._variant(job)
            if job.scheme.quantized and not job.scheme.integer:
                return self._with_small_weights(program, job)
            if not job.scheme.integer:
                if job.variant not in self._float:
                    self._float[job.variant] = self._save(program)
                return self._float[job.variant], Chosen()
            quantized, decided, against_data = self._quantized(job)
            refuse_without_integers(job, decided)
            name_inputs(quantized, self.captured.signature.specs)
            return self._save(quantized), chosen_by(decided, self.captured, against_data)

    def search(self, job: Job) -> Search:
        """For operators of ``job`` to keep in floats. To be used with :meth:`turn` held."""
        start = self.prepared(job)
        with torch.no_grad():
            return Search(lambda kept: start.simulated(job, kept), self._samples, OperatorCosts(job.profile).gain)

    def _with_small_weights(self, program: ExportedProgram, job: Job) -> tuple[Path, Chosen]:
        """Only its weights are quantized."""
        with _refused(job):
            if job.scheme.palette_bits:
                small, left = palettize(program, job.scheme)
            else:
                small, left = quantize_weights(program, self.captured.example, job.scheme)
        name_inputs(small, self.captured.signature.specs)
        return self._save(small), chosen_of(left)

    def prepared(self, job: Job) -> Prepared:
        """What ``job``'s integers are made from: the equalized program, where weights were not made against data already."""
        program = self._variant(job)
        if job.variant != DENSE:
            return Prepared(program, self._statistics[job.variant], Moments())
        if self.equalizer is not None:
            program = self.equalizer.program
        if job.quality == "fast":
            return Prepared(program, self._statistics[DENSE], Moments())
        with _refused(job):
            self._moments = self._moments or moments_of(program, self._samples)
            self._weighed = self._weighed or weighed(program, self._statistics[DENSE], self._samples)
        equalized = 0 if self.equalizer is None else self.equalizer.values
        return Prepared(program, self._weighed.statistics, self._moments, equalized, self._weighed)

    def _quantized(self, job: Job) -> tuple[ExportedProgram, Quantization, tuple[Decision, ...]]:
        start, example = self.prepared(job), self.captured.example
        with _refused(job):
            fold = registry.converter(job.format).folds_weights
            settings = (job.profile, job.scheme, job.io_float)
            found, decided = quantize(
                start.program, example, start.statistics, *settings, fold, start.moments, dict(job.kept),
                self._samples if job.quality == "best" else (),
            )  # fmt: skip
        return found, decided, start.remedies(decided) if job.variant == DENSE else ()

    def _variant(self, job: Job) -> ExportedProgram:
        """The dense program, or one pruned as the profile asks with statistics of its own from the kept samples."""
        if job.profile.sparsity is None:
            return self.captured.program
        if job.variant not in self._variants:
            pruned = sparse24.prune(self.captured.program, job.profile.sparsity, self._samples)
            recorder = Recorder(pruned.module(check_guards=False))
            for sample in self._samples:
                recorder.run(*sample)
            self._variants[job.variant] = pruned
            self._statistics[job.variant] = recorder.statistics
        return self._variants[job.variant]

    def _save(self, program: ExportedProgram) -> Path:
        self._count += 1
        path = self.folder / f"program_{self._count}.pt2"
        archive = BytesIO()  # into a file on a full disk torch would end this process
        torch.export.save(program, archive)
        with writing(path):
            path.write_bytes(archive.getbuffer())
        return path


def _key(job: Job) -> tuple[str, str]:
    return job.name, repr(job.scheme)


@contextmanager
def _refused(job: Job) -> Iterator[None]:
    """What PT2E and torch raise inside costs this job only. The traceback goes to the export's log."""
    try:
        yield
    except Exception as error:
        _log.exception("%s cannot be quantized", job.name)
        fix = "leave this target out, and report the model with the bundle's log"
        raise ConversionError(f"{job.name} cannot be quantized", why=cause(error), fix=fix) from error


def refuse_without_integers(job: Job, decided: Quantization) -> None:
    """Raises NotApplicable where no layer with weights is computed in integers."""
    if any(op.kind in HEAVY or op.kind == "embedding" for op in decided.integer):
        return
    reasons = Counter(f"{kept.operator}: {kept.reason}" for kept in decided.kept_float)
    raise NotApplicable(
        f"no layer of this model can be computed in integers on {job.profile.name}",
        why="; ".join(reason for reason, _ in reasons.most_common(3)) or "it has no layer with weights",
        fix="use a floating-point target instead, such as portable-fp32",
    )
