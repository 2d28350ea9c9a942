"""What runs inside a worker process: one conversion, one check, one loaded artifact, one timing. Plain data in and out."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import registry, verify
from edgeopt.converters.interface import Array, Examined, Predictor
from edgeopt.core import from_data, to_data
from edgeopt.targets.schema import TargetProfile

PROGRAM_SAMPLES = 4
"""Samples on which the artifact is compared with the PyTorch program: its fake-quantized form is slow in eager mode."""
TIMING_SECONDS = 0.6
MIN_RUNS, MAX_RUNS, WARM_UP_RUNS = 15, 300, 3


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Lowers the program at ``program`` to ``out``; the artifact's facts, the same for every target that shares it."""
    converter = registry.converter(request["format"])
    profile = from_data(TargetProfile, request["profile"])
    converter.convert(
        Path(request["program"]),
        profile,
        Path(request["out"]),
        io_float=request["io_float"],
        output_names=tuple(request["output_names"]),
    )
    anyone = replace(profile, operators=replace(profile.operators, table=None))  # what a device supports is its own target's
    return inspect(request | {"profile": to_data(anyone)}) | {"tool_versions": converter.tool_versions()}


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
    """The artifact at ``out`` against its program and the float model, on the samples in ``references``.

    ``numbers``, and ``findings``: what went wrong inside it, in words.
    """
    predictor = registry.converter(request["format"]).load(Path(request["out"]), threads=1)
    samples, model_outputs = read_references(Path(request["references"]))
    artifact_outputs, findings = _examined(predictor, samples)
    few = samples[:PROGRAM_SAMPLES]
    program_outputs = _run_program(Path(request["program"]), few) if request["quantized"] else model_outputs[: len(few)]
    numbers = {
        "sqnr_program": verify.sqnr_db(program_outputs, artifact_outputs[: len(few)]),
        "sqnr_quantization": verify.sqnr_db(model_outputs[: len(few)], program_outputs),
        "sqnr_float": verify.sqnr_db(model_outputs, artifact_outputs),
        "cosine_float": verify.cosine(model_outputs, artifact_outputs),
        "max_abs_error": verify.max_abs_error(model_outputs, artifact_outputs),
        "top1_agreement": verify.top1_agreement(model_outputs, artifact_outputs),
    }
    return {"numbers": numbers, "findings": list(findings)}


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
    """The artifact at ``out`` on its runtime, for the user's ``evaluate``."""
    predictor = registry.converter(request["format"]).load(Path(request["out"]), threads=request["threads"])
    return lambda arrays: predictor(*arrays)


def time_against_twin(request: dict[str, Any]) -> dict[str, Any]:
    """Median times in ms of the artifact at ``out`` and of its twin, one after the other in turns: both see the same noise."""
    converter = registry.converter(request["format"])
    samples, _ = read_references(Path(request["references"]))
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


def write_references(path: Path, samples: list[tuple[Array, ...]], outputs: list[tuple[Array, ...]]) -> None:
    """Samples and the float model's outputs on them, as one .npz without pickles."""
    arrays = {f"input_{i}_{j}": array for i, sample in enumerate(samples) for j, array in enumerate(sample)}
    arrays |= {f"output_{i}_{j}": array for i, sample in enumerate(outputs) for j, array in enumerate(sample)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_references(path: Path) -> tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]:
    """What :func:`write_references` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return _nested(stored, "input"), _nested(stored, "output")


def _nested(stored: Any, kind: str) -> list[tuple[Array, ...]]:
    result: list[list[Array]] = []
    for name in stored.files:  # in the order they were written
        if name.startswith(f"{kind}_"):
            index = int(name.split("_")[1])
            if index == len(result):
                result.append([])
            result[index].append(stored[name])
    return [tuple(sample) for sample in result]


def _run_program(path: Path, samples: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    import torch

    from edgeopt.converters.program import load_program

    module = load_program(path).exported.module(check_guards=False)
    with torch.no_grad():
        return [tuple(output.numpy() for output in module(*map(torch.from_numpy, sample))) for sample in samples]
