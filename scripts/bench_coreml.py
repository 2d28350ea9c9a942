#!/usr/bin/env python3
"""How long the Core ML evaluator takes, as a multiple of PyTorch eager on the same model: median of turns, one thread.

.venv/bin/python scripts/bench_coreml.py                          # the examples
.venv/bin/python scripts/bench_coreml.py examples/minilm.py:model
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import edgeopt
import edgeopt.coreml
from edgeopt.capture import capture
from edgeopt.model.references import load_model, stem

EXAMPLES = tuple(
    f"examples/{name}.py:model" for name in ("mobilenet_v2", "fashion_mnist", "minilm", "silero_vad", "japanese_vowels")
)
TARGETS = ("apple-ane", "apple-ane-fp16", "apple-ane-w8")
TURNS = 21


def milliseconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians over turns in which each runs once: all see the same noise."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def measured(reference: str, out: Path) -> None:
    """Exports the model and prints a line per package and precision."""
    model = load_model(reference)
    bundle = edgeopt.export(model, targets=TARGETS, out=out)
    captured = capture(model)

    def eager() -> object:
        with torch.inference_mode():
            return model.module(*captured.example)

    runs: dict[str, Callable[[], object]] = {"PyTorch eager": eager}
    for result in bundle.manifest.results:
        if result.format != "coreml" or result.artifact is None:
            continue
        for precision in ("float16", "float32"):
            package = edgeopt.coreml.load(bundle.artifact_path(result), precision=precision)
            inputs = {spec.name: np.asarray(value) for spec, value in zip(package.inputs, captured.example, strict=True)}
            runs[f"{result.target}, {precision}"] = lambda package=package, inputs=inputs: package(**inputs)
    found = milliseconds(runs)
    for name, time_ms in found.items():
        print(f"{stem(reference)}: {name}: {time_ms:.2f} ms, {time_ms / found['PyTorch eager']:.2f} of eager", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", nargs="*", default=EXAMPLES, metavar="MODEL", help="as edgeopt export takes them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for reference in arguments.references:
        with tempfile.TemporaryDirectory() as folder:
            measured(reference, Path(folder) / "bundle")


if __name__ == "__main__":
    main()
