"""``edgeopt blame``: the program that an export would quantize, prepared in the same way, and taken apart layer by layer."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from edgeopt.capture import Captured, capture, layer_of
from edgeopt.diagnosis.explained import Explained, kept_in_float, watchable, worst_layers
from edgeopt.diagnosis.findings import Blame, Scores
from edgeopt.diagnosis.measuring import Measurements
from edgeopt.errors import EvaluationError, NotApplicable
from edgeopt.model import evaluation
from edgeopt.model.model import Calibration, Model
from edgeopt.pipeline.jobs import Job, float_io
from edgeopt.pipeline.program import Prepared, Programs, refuse_without_integers
from edgeopt.pipeline.references import program_run
from edgeopt.pipeline.torch_threads import one_torch_thread
from edgeopt.quantize.calibrate import Calibrated
from edgeopt.quantize.graph import Op
from edgeopt.quantize.simulated import Grids, Simulation
from edgeopt.support.progress import Listener, event, ignore, reading
from edgeopt.support.scratch import scratch
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile

DEFAULT_SECONDS = 60.0
READING_SHARE, FIRST_SHARE = 0.4, 0.85
"""Of the time, after which no further calibration sample is read, and the first sample is measured no further."""
NEEDED_SHARE = 0.9
"""Of the time, after which nothing more is begun."""
WORST = 3
_MORE = "a longer --time reads and measures more"


def blame(
    model: Model,
    target: str,
    seconds: float = DEFAULT_SECONDS,
    io_float: bool = False,
    listen: Listener = ignore,
    started: float | None = None,
) -> Blame:
    """What each layer costs ``model`` in the integers of ``target``, and why, in about ``seconds`` from ``started`` on.

    ``started``: by time.monotonic(). Makes no file. Where time is short, less is measured, and the findings say so.

    Raises NotApplicable where the target computes nothing of the model in integers, and as an export does.
    """
    clock = _Clock(time.monotonic() if started is None else started, seconds)
    job = _job(loader.load(target), io_float)
    with scratch() as folder, one_torch_thread(), torch.no_grad():
        listen(event("model", "capture"))
        captured = capture(model)
        programs = Programs(captured, folder)
        listen(event("model", "calibrate"))
        data = None if model.calibration is None else _Within(model.calibration, clock.at(READING_SHARE))
        calibrated = programs.calibrate(data, [job], reading(listen))
        listen(event(job.name, "quantize"))
        start = programs.prepared(job)
        simulation = start.simulated(job)
        refuse_without_integers(job, simulation.decided)
        listen(event(job.name, "measure"))
        work = _Work(model, job, captured, calibrated, start, simulation, clock)
        return work.blame(data is not None and data.cut)


def _job(profile: TargetProfile, io_float: bool) -> Job:
    """Of the target's first format and the scheme that it prefers. Raises NotApplicable where that has no integers."""
    scheme = profile.schemes[0]
    if not scheme.integer:
        small = "its weights alone are made small, and" if scheme.quantized else "and"
        why = f"its scheme is {scheme.describe()}: {small} nothing is computed in 8 bits"
        fix = "ask for an integer target, such as arm-xnnpack; what this one loses is the SQNR that edgeopt export measures"
        raise NotApplicable(f"{profile.name} has no integers to blame", why=why, fix=fix)
    return Job(profile, profile.formats[0], scheme, float_io(profile, io_float))


@dataclass(frozen=True, slots=True)
class _Clock:
    start: float
    seconds: float

    def at(self, share: float) -> float:
        return self.start + share * self.seconds


@dataclass(slots=True)
class _Within:
    """Calibration data that ends when the time does."""

    data: Calibration
    until: float
    cut: bool = False

    def __call__(self) -> Iterator[Any]:
        found = self.data() if callable(self.data) else self.data
        return self._batches(iter(found))

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            yield batch
            if time.monotonic() > self.until:
                self.cut = True
                return


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    job: Job
    captured: Captured
    calibrated: Calibrated
    start: Prepared
    simulation: Simulation
    clock: _Clock

    def blame(self, cut: bool) -> Blame:
        simulation, calibrated = self.simulation, self.calibrated
        kept = kept_in_float(simulation, self.job.profile)
        names = {node: spec.name for node, spec in zip(_given(simulation), self.captured.outputs, strict=True)}
        until = self.clock.at(NEEDED_SHARE)
        measured = Measurements.begun(simulation, calibrated.held_out, names, watchable(kept), until)
        measured.first(self.clock.at(FIRST_SHARE))
        would = measured.would({one.op.output: one.grid for one in kept if one.grid is not None}, until)
        scores = self._scores(measured, until)
        measured.more(until)
        layers = self._explained().layers(measured, kept, would)
        whole, part = measured.worst(measured.whole)
        rounded = sum(simulation.rounded(op) is not None for op in simulation.decided.integer)
        unmeasured = sum(not one.in_float and (one.alone is None or one.without is None) for one in layers)
        return Blame(
            model=self.model.name,
            target=self.job.profile.name,
            format=self.job.format,
            scheme=self.job.scheme,
            calibrated=calibrated.real,
            calibration=calibrated.described,
            samples=max(measured.done, 1),
            whole=whole,
            part=part,
            layers=layers,
            done=self.start.remedies(replace(simulation.decided, rounded=rounded)),
            scores=scores,
            notes=tuple(self._notes(cut, scores, unmeasured)),
            seconds=time.monotonic() - self.clock.start,
            unmeasured=unmeasured,
        )

    def _explained(self) -> Explained:
        selectable = "float32" in self.job.profile.io.selectable and not self.job.io_float
        state, samples = dict(self.captured.program.state_dict), self.calibrated.samples
        return Explained(self.simulation, self.job.profile, state, samples, selectable)

    def _notes(self, cut: bool, scores: Scores | None, unmeasured: int) -> Iterator[str]:
        if not self.calibrated.real:
            yield "UNCALIBRATED: ranges come from the example input alone, and samples are the example with noise"
        if cut:
            yield f"calibrated on the {self.calibrated.samples} samples that were read in time, an export on all: {_MORE}"
        if unmeasured:
            yield f"{unmeasured} layers were not measured in full in time: {_MORE}"
        if self.model.evaluate is not None and (scores is None or scores.without_worst is None):
            yield f"evaluate did not end in time for all that it was asked: {_MORE}"
        others = ", then ".join(scheme.describe() for scheme in self.job.left)
        if others:
            yield f"where its checks refuse {self.job.scheme.describe()}, an export gives way to {others}"

    def _scores(self, measured: Measurements, until: float) -> Scores | None:
        """The user's number for the floats, the integers, and these with the worst layers in floats, as far as time allows."""
        model = self._number(program_run(self.captured), "the float model", until)
        if model is None:
            return None
        metric, number = model
        every, worst = self.simulation.decided.integer, worst_layers(measured, WORST)
        others = [op for op in every if all(op is not source.op for source in worst)]
        grids = {node: grid for source in worst for node, grid in source.without.items()}
        integers = self._number(self._run(every, {}), "the integers", until)
        rest = self._number(self._run(others, grids), "the integers but for the worst", until) if integers else None
        return Scores(
            metric=metric,
            model=number,
            integers=integers[1] if integers else None,
            without_worst=rest[1] if rest else None,
            worst=tuple(layer_of(source.head) for source in worst),
        )

    def _number(self, run: evaluation.Run, subject: str, until: float) -> tuple[str, float] | None:
        """The first number; None without ``evaluate`` or without the time for it."""
        if self.model.evaluate is None:
            return None

        def bounded(arrays: tuple[evaluation.Array, ...]) -> tuple[evaluation.Array, ...]:
            if time.monotonic() > until:
                raise _OutOfTime("there is no time left")
            return run(arrays)

        try:
            found = evaluation.evaluate(self.model.evaluate, bounded, self.captured.signature.specs, subject)
        except _OutOfTime:
            return None
        return next(iter(found.items()))

    def _run(self, ops: Collection[Op], grids: Grids) -> evaluation.Run:
        given = _given(self.simulation)

        def run(arrays: tuple[evaluation.Array, ...]) -> tuple[evaluation.Array, ...]:
            values = self.simulation.run(tuple(torch.from_numpy(np.asarray(array)) for array in arrays), ops, None, grids)
            return tuple(values[node].numpy() for node in given)

        return run


class _OutOfTime(EvaluationError):
    """Raised through the user's evaluate."""


def _given(simulation: Simulation) -> list[Node]:
    """The model's outputs in their order, one that is given twice included."""
    (given,) = simulation.module.graph.output_node().args
    return [node for node in (given if isinstance(given, tuple | list) else [given]) if isinstance(node, Node)]
