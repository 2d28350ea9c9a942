"""What runs inside a worker process: one conversion, one check, one loaded artifact, one timing. Plain data in and out."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgeopt import registry
from edgeopt.converters.interface import Array, Converter, Examined, Predictor
from edgeopt.converters.program import first_line, load_program
from edgeopt.converters.refusing import Unnamed, named
from edgeopt.core import Latency, from_data, to_data
from edgeopt.errors import EdgeoptError
from edgeopt.pipeline.requests import CheckRequest, ConvertRequest, Facts, InspectRequest, PredictRequest, TimeRequest
from edgeopt.support.stats import median_known
from edgeopt.targets.schema import TargetProfile
from edgeopt.verify import verdicts
from edgeopt.verify.agreement import Clock, Counts, steps
from edgeopt.verify.prover import prover
from edgeopt.verify.reference_outputs import Further, ReferenceOutputs

PROGRAM_SAMPLES = 4
"""Samples on which the artifact is compared with the PyTorch program: its fake-quantized form is slow in eager mode."""
TIMING_SECONDS = 0.6
MIN_RUNS, MAX_RUNS, WARM_UP_RUNS = 15, 300, 3


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a :class:`ConvertRequest`: the facts are the same for every target that shares the artifact."""
    asked = from_data(ConvertRequest, request)
    converter = registry.converter(asked.format)
    with _named(asked, converter):
        converter.convert(
            asked.program, asked.profile, asked.out, io_float=asked.io_float, output_names=asked.output_names
        )  # fmt: skip
    anyone = replace(
        asked.profile, operators=replace(asked.profile.operators, table=None)
    )  # operators are judged for each target
    return _facts(converter, anyone, asked.out)


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Answers an :class:`InspectRequest`."""
    asked = from_data(InspectRequest, request)
    return _facts(registry.converter(asked.format), asked.profile, asked.out)


def _facts(converter: Converter, profile: TargetProfile, out: Path) -> dict[str, Any]:
    inputs, outputs, structure = converter.inspect(out, profile)
    facts = Facts(inputs=inputs, outputs=outputs, structure=structure, tool_versions=converter.tool_versions())
    data: dict[str, Any] = to_data(facts)
    return data


@contextmanager
def _named(asked: ConvertRequest | CheckRequest, converter: Converter) -> Iterator[None]:
    """Around what may refuse the program or its artifact without a word of which operator: each is tried by itself then."""
    try:
        yield
    except Unnamed as error:
        with TemporaryDirectory() as folder:
            out = Path(folder) / f"operator{converter.suffix}"

            def attempt(program: Path) -> None:
                outputs = len(load_program(program).exported.graph_signature.user_outputs)
                names = tuple(f"out_{number}" for number in range(outputs))
                converter.convert(program, asked.profile, out, io_float=True, output_names=names)
                if converter.runs_here:
                    predictor = converter.load(out, threads=1)
                    with _running():
                        predictor.raw(*(np.ones(spec.shape, spec.dtype) for spec in predictor.inputs))

            raise named(error, asked.program, attempt, Path(folder)) from error


@contextmanager
def _running() -> Iterator[None]:
    """What a runtime raises when it computes is a refusal of an operator, as what it raises when it reads the file."""
    try:
        yield
    except (EdgeoptError, MemoryError):
        raise
    except Exception as error:  # runtimes raise anything
        fix = "rewrite that layer with other operators, or leave this target out, and report the model"
        raise Unnamed("the runtime", what="to compute the file", why=first_line(error), fix=fix) from error


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a :class:`CheckRequest`: the artifact against its program and the user's own module, on the samples kept."""
    asked = from_data(CheckRequest, request)
    converter, path = registry.converter(asked.format), asked.out
    known = ReferenceOutputs.read(asked.references)
    scales = verdicts.OutputScales.of(known.names, [*known.outputs, *known.unlike_outputs])
    with _named(asked, converter):
        chosen = prover(converter, path, threads=1)
        with _running():
            clock = Clock()
            outputs, findings = _examined(chosen.predictor, known.samples)
            runs = [(chosen.predictor, outputs)]
            if chosen.difference:
                kernels = converter.load(path, threads=1)
                runs.append((kernels, [kernels(*sample) for sample in known.samples]))
            counts = _counted(asked, known, runs, clock.seconds())
            unlike = [chosen.predictor(*sample) for sample in known.unlike]
    found = [verdicts.compare(scales, known.outputs, run, count) for (_, run), count in zip(runs, counts, strict=True)]
    numbers, parts = _lowered(asked, scales, known, outputs)
    if unlike and asked.exact:  # float16 may overflow there, and integers end where their ranges do
        numbers["sqnr_unlike"] = verdicts.sqnr_db(*verdicts.ordered(known.unlike, known.unlike_outputs, unlike))
    proof = verdicts.Proof(
        compared=chosen.compared,
        numbers=found[0][0] | numbers,
        parts=found[0][1] | parts,
        constant=verdicts.never_changing(known.names, (known.outputs, outputs), (known.unlike_outputs, unlike)),
        findings=(*findings, *(verdicts.drowned(known.names, known.outputs, outputs) if asked.real else ())),
        difference=chosen.difference,
        here=found[1][0] if chosen.difference else {},
        samples=counts[0].samples if asked.held_out else 0,
        rows=counts[0].rows if asked.held_out else 0,
    )
    data: dict[str, Any] = to_data(proof)
    return data


def _lowered(
    asked: CheckRequest, scales: verdicts.OutputScales, known: ReferenceOutputs, outputs: list[tuple[Array, ...]]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Numbers and parts of the artifact against the program that it was lowered from."""
    few = known.samples[:PROGRAM_SAMPLES]
    model = known.outputs[: len(few)]
    program = _run_program(asked.program, few) if asked.quantized else model
    return verdicts.lowered(scales, model, program, outputs[: len(few)])


def _counted(
    asked: CheckRequest, known: ReferenceOutputs, runs: list[tuple[Predictor, list[tuple[Array, ...]]]], first_s: float
) -> list[Counts]:
    """How often each predictor chooses the model's class: on the samples that it gave ``outputs`` for, and on further ones."""
    counts = [Counts.of(known.outputs, outputs) for _, outputs in runs]
    done = len(known.samples)
    with Further.of(asked.references) as further:
        for index in steps(done + further.count, done, first_s, asked.further_s):
            sample, model = further[index - done]
            for count, (predictor, _) in zip(counts, runs, strict=True):
                count.add(model, predictor(*sample))
    return counts


def _examined(predictor: Predictor, samples: list[tuple[Array, ...]]) -> tuple[list[tuple[Array, ...]], tuple[str, ...]]:
    if not isinstance(predictor, Examined):
        return [predictor(*sample) for sample in samples], ()
    outputs: list[tuple[Array, ...]] = []
    findings: tuple[str, ...] = ()
    for sample in samples:
        found, findings = predictor.examine(*sample)
        outputs.append(found)
    return outputs, findings


def predict(request: dict[str, Any]) -> Callable[[tuple[Array, ...]], tuple[Array, ...]]:
    """Answers a :class:`PredictRequest` for ``evaluate``: as the target computes it, as far as this machine can tell."""
    asked = from_data(PredictRequest, request)
    predictor = prover(registry.converter(asked.format), asked.out, threads=asked.threads).predictor
    return lambda arrays: predictor(*arrays)


def time_against_twin(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a :class:`TimeRequest`: medians of artifact and twin, run in turns, so that both see the same noise.

    It ends as soon as both medians are known; on a machine that does other things it goes on until its time is over.
    """
    asked = from_data(TimeRequest, request)
    converter = registry.converter(asked.format)
    samples = ReferenceOutputs.read(asked.references).samples
    pair = [_Timed(converter.load(path, threads=asked.threads), samples[0]) for path in (asked.out, asked.twin)]
    for timed in pair:
        for _ in range(WARM_UP_RUNS):
            timed.run()
        timed.nanoseconds.clear()
    until = time.perf_counter() + TIMING_SECONDS
    while len(pair[0].nanoseconds) < MIN_RUNS or (
        len(pair[0].nanoseconds) < MAX_RUNS and time.perf_counter() < until and not all(timed.known() for timed in pair)
    ):
        for timed in pair:
            timed.run()
    own, twin = (statistics.median(timed.nanoseconds) / 1e6 for timed in pair)
    latency = Latency(median_ms=own, twin_ms=twin, runs=len(pair[0].nanoseconds), threads=asked.threads)
    data: dict[str, Any] = to_data(latency)
    return data


class _Timed:
    """One predictor with its input ready and the times of its runs."""

    def __init__(self, predictor: Predictor, sample: tuple[Array, ...]) -> None:
        self._predictor, self._inputs = predictor, predictor.prepare(*sample)
        self.nanoseconds: list[int] = []

    def run(self) -> None:
        started = time.perf_counter_ns()
        self._predictor.raw(*self._inputs)
        self.nanoseconds.append(time.perf_counter_ns() - started)

    def known(self) -> bool:
        """Asked after every fifth run only: it sorts them all."""
        return len(self.nanoseconds) % 5 == 0 and median_known(self.nanoseconds)


def _run_program(path: Path, samples: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    import torch

    module = load_program(path).exported.module(check_guards=False)
    with torch.no_grad():
        return [tuple(output.numpy() for output in module(*map(torch.from_numpy, sample))) for sample in samples]
