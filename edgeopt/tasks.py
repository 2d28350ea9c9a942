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

from edgeopt import registry, verify
from edgeopt.converters.interface import Array, Converter, Examined, Predictor
from edgeopt.converters.program import first_line, load_program
from edgeopt.converters.proving import prover
from edgeopt.converters.refusing import Unnamed, named
from edgeopt.core import from_data, to_data
from edgeopt.errors import EdgeoptError
from edgeopt.reference_file import References
from edgeopt.targets.schema import TargetProfile

PROGRAM_SAMPLES = 4
"""Samples on which the artifact is compared with the PyTorch program: its fake-quantized form is slow in eager mode."""
TIMING_SECONDS = 0.6
MIN_RUNS, MAX_RUNS, WARM_UP_RUNS = 15, 300, 3


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Lowers the program at ``program`` to ``out``; the artifact's facts, the same for every target that shares it."""
    converter = registry.converter(request["format"])
    profile = from_data(TargetProfile, request["profile"])
    names = tuple(request["output_names"])
    with _named(request, converter, profile):
        converter.convert(
            Path(request["program"]), profile, Path(request["out"]), io_float=request["io_float"], output_names=names
        )
    anyone = replace(profile, operators=replace(profile.operators, table=None))  # what a device supports is its own target's
    return inspect(request | {"profile": to_data(anyone)}) | {"tool_versions": converter.tool_versions()}


@contextmanager
def _named(request: dict[str, Any], converter: Converter, profile: TargetProfile) -> Iterator[None]:
    """Around what may refuse the program or its artifact without a word of which operator: each is tried by itself then."""
    try:
        yield
    except Unnamed as error:
        with TemporaryDirectory() as folder:
            out = Path(folder) / f"operator{converter.suffix}"

            def attempt(program: Path) -> None:
                outputs = len(load_program(program).exported.graph_signature.user_outputs)
                names = tuple(f"out_{number}" for number in range(outputs))
                converter.convert(program, profile, out, io_float=True, output_names=names)
                if converter.runs_here:
                    predictor = converter.load(out, threads=1)
                    with _running():
                        predictor.raw(*(np.ones(spec.shape, spec.dtype) for spec in predictor.inputs))

            raise named(error, Path(request["program"]), attempt, Path(folder)) from error


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


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Inputs, outputs and structure of the artifact at ``out``, judged by ``profile``'s operator table."""
    converter = registry.converter(request["format"])
    inputs, outputs, structure = converter.inspect(Path(request["out"]), from_data(TargetProfile, request["profile"]))
    return {
        "inputs": [to_data(spec) for spec in inputs],
        "outputs": [to_data(spec) for spec in outputs],
        "structure": to_data(structure),
    }


def check(request: dict[str, Any]) -> dict[str, Any]:
    """The artifact at ``out`` against its program and the user's own module, on the samples in ``references``: a Proof."""
    converter, path = registry.converter(request["format"]), Path(request["out"])
    known = References.read(Path(request["references"]))
    scales = verify.Scales.of(known.names, [*known.outputs, *known.unlike_outputs])
    with _named(request, converter, from_data(TargetProfile, request["profile"])):
        chosen = prover(converter, path, threads=1)
        with _running():
            outputs, findings = _examined(chosen.predictor, known.samples)
            unlike = [chosen.predictor(*sample) for sample in known.unlike]
    numbers, parts = verify.compare(scales, known.outputs, outputs)
    few = known.samples[:PROGRAM_SAMPLES]
    model = known.outputs[: len(few)]
    program = _run_program(Path(request["program"]), few) if request["quantized"] else model
    lowering, lowered_parts = verify.lowered(scales, model, program, outputs[: len(few)])
    if unlike and request["exact"]:  # float16 may overflow there, and integers end where their ranges do
        numbers["sqnr_unlike"] = verify.sqnr_db(*verify.ordered(known.unlike, known.unlike_outputs, unlike))
    proof = verify.Proof(
        compared=chosen.compared,
        numbers=numbers | lowering,
        parts=parts | lowered_parts,
        constant=verify.never_changing(known.names, (known.outputs, outputs), (known.unlike_outputs, unlike)),
        findings=(*findings, *(verify.drowned(known.names, known.outputs, outputs) if request["real"] else ())),
        difference=chosen.difference,
    )
    if chosen.difference:
        here = [converter.load(path, threads=1)(*sample) for sample in known.samples]
        proof = replace(proof, here=verify.compare(scales, known.outputs, here)[0])
    data: dict[str, Any] = to_data(proof)
    return data


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
    """The artifact at ``out``, for the user's ``evaluate``: as its target computes it, as far as this machine can tell."""
    converter = registry.converter(request["format"])
    predictor = prover(converter, Path(request["out"]), threads=request["threads"]).predictor
    return lambda arrays: predictor(*arrays)


def time_against_twin(request: dict[str, Any]) -> dict[str, Any]:
    """Median times in ms of the artifact at ``out`` and of its twin, one after the other in turns: both see the same noise."""
    converter = registry.converter(request["format"])
    samples = References.read(Path(request["references"])).samples
    pair = [_Timed(converter.load(Path(request[name]), threads=request["threads"]), samples[0]) for name in ("out", "twin")]
    for timed in pair:
        for _ in range(WARM_UP_RUNS):
            timed.run()
        timed.milliseconds.clear()
    started = time.perf_counter()
    while len(pair[0].milliseconds) < MAX_RUNS and (
        len(pair[0].milliseconds) < MIN_RUNS or time.perf_counter() - started < TIMING_SECONDS
    ):
        for timed in pair:
            timed.run()
    own, twin = (statistics.median(timed.milliseconds) for timed in pair)
    return {"median_ms": own, "twin_ms": twin, "runs": len(pair[0].milliseconds), "threads": request["threads"]}


class _Timed:
    """One predictor with its input ready and the times of its runs."""

    def __init__(self, predictor: Predictor, sample: tuple[Array, ...]) -> None:
        self._predictor, self._inputs = predictor, predictor.prepare(*sample)
        self.milliseconds: list[float] = []

    def run(self) -> None:
        started = time.perf_counter_ns()
        self._predictor.raw(*self._inputs)
        self.milliseconds.append((time.perf_counter_ns() - started) / 1e6)


def _run_program(path: Path, samples: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    import torch

    module = load_program(path).exported.module(check_guards=False)
    with torch.no_grad():
        return [tuple(output.numpy() for output in module(*map(torch.from_numpy, sample))) for sample in samples]
