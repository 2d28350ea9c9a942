#!/usr/bin/env python3
"""How much accuracy INT8 keeps: edgeopt's artifacts beside what other quantizers make of the same float files, as a table.

    .venv/bin/python scripts/bench_quality.py --images 200        # on other copies of the photos than those calibrated on

MobileNetV2 of examples/, each artifact as it is written: ONNX Runtime with its optimisations off, LiteRT, and edgeopt's
evaluator of ML programs. Peers: onnxruntime's quantize_static and ai-edge-quantizer, from edgeopt's own fp32 twins, calibrated
on the same images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import mobilenet_v2  # noqa: E402  this checkout's

from edgeopt import registry  # noqa: E402

Array = NDArray[np.float32]
Predict = Callable[[Array], Array]
CALIBRATED = 200
FEW = 32
"""For calibrators that keep every value in memory."""
TARGETS = ("x86-fbgemm", "x86-fbgemm-avx2", "arm-ort", "arm-xnnpack", "apple-ane")


def held_out(count: int) -> tuple[list[Array], list[int]]:
    """Copies of the photos, mirrored, shifted and re-lit otherwise than those of the calibration, and their labels."""
    random = np.random.default_rng(1)
    photos = mobilenet_v2.photos()
    images, labels = [], []
    for index in range(count):
        image, label = photos[index % len(photos)]
        image = np.roll(image[:, :, :: random.choice((-1, 1))], random.integers(-24, 24, 2), (1, 2))
        image = image * random.uniform(0.75, 1.15) + random.uniform(-0.15, 0.15)
        images.append(np.ascontiguousarray(image, np.float32)[None])
        labels.append(label)
    return images, labels


def calibration(count: int) -> Iterator[Array]:
    """The example's own calibration images."""
    for index, (image,) in enumerate(mobilenet_v2.calibration()):
        if index == count:
            return
        yield image.numpy()


def exported(folder: Path, quality: str) -> tuple[Path, float]:
    """A bundle with every integer target and the twins, and the seconds it took."""
    targets = [word for name in TARGETS for word in ("--target", name)]
    command = [sys.executable, "-m", "edgeopt.cli", "export", str(ROOT / "examples/mobilenet_v2.py:model"), *targets]
    own = {"EDGEOPT_EXAMPLE_SAMPLES": str(CALIBRATED), "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    out = folder / quality
    command += ["--float-io", "--quality", quality, "--no-cache", "--out", str(out)]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"edgeopt export ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return out, time.monotonic() - start


def onnx_as_written(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: np.asarray(session.run(None, {name: image})[0])


def predictor(path: Path, fmt: str) -> Predict:
    """What computes ``path`` as it is written."""
    if fmt == "onnx":
        return onnx_as_written(path)
    loaded = registry.converter(fmt).load(path, threads=2)
    return lambda image: np.asarray(loaded(image)[0], np.float32)


def by_onnxruntime(twin: Path, out: Path, method: str, count: int, reduce_range: bool = False) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = calibration(count)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self._images, None)
            return None if image is None else {"x": image}

    prepared = out.with_name(f"prepared-{out.name}")
    quant_pre_process(str(twin), str(prepared))
    quantize_static(
        str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
    )  # fmt: skip
    return out


def by_ai_edge_quantizer(twin: Path, out: Path) -> Path:
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.utils import tfl_interpreter_utils

    made = quantizer.Quantizer(str(twin), recipe.static_wi8_ai8())
    (signature,) = tfl_interpreter_utils.create_tfl_interpreter(str(twin)).get_signature_list().items()
    key, ends = signature
    data = {key: [{ends["inputs"][0]: image} for image in calibration(CALIBRATED)]}
    made.quantize(made.calibrate(data)).export_model(str(out), overwrite=True)
    return out


def judged(predict: Predict, images: list[Array], labels: list[int], wanted: NDArray[np.float64]) -> tuple[float, float, float]:
    """Top-1 and agreement, in percent, and SQNR in dB."""
    found = np.concatenate([predict(image) for image in images]).astype(np.float64)
    best = found.argmax(1)
    noise = float(np.square(wanted - found).sum())
    sqnr = 10 * np.log10(float(np.square(wanted).sum()) / noise) if noise else float("inf")
    return 100 * float(np.mean(best == labels)), 100 * float(np.mean(best == wanted.argmax(1))), float(sqnr)


def peers(twins: dict[str, Path], folder: Path) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    onnx, tflite = twins["onnx"], twins["tflite"]
    for method, count in (("MinMax", CALIBRATED), ("Percentile", FEW), ("Entropy", FEW)):
        yield f"ONNX Runtime, {method}", "onnx", lambda m=method, c=count: by_onnxruntime(onnx, folder / f"{m}.onnx", m, c)  # type: ignore[misc]
    reduced = folder / "reduced.onnx"
    yield "ONNX Runtime, MinMax, reduce_range", "onnx", lambda: by_onnxruntime(onnx, reduced, "MinMax", CALIBRATED, True)
    yield "ai-edge-quantizer, static_wi8_ai8", "tflite", lambda: by_ai_edge_quantizer(tflite, folder / "aeq.tflite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="how many to judge on")
    parser.add_argument("--quality", nargs="+", default=["balanced"], help="of edgeopt's artifacts")
    asked = parser.parse_args()
    images, labels = held_out(asked.images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print("| made by | top-1 % | agreement % | SQNR dB | MB | s |\n|---|---|---|---|---|---|", flush=True)
        wanted, twins = None, dict[str, Path]()
        for quality in asked.quality:
            bundle, seconds = exported(folder, quality)
            results = json.loads((bundle / "manifest.json").read_text())["results"]
            made = [(r["target"], r["format"], bundle / r["artifact"]["path"]) for r in results if r["artifact"]]
            twins = {fmt: path for target, fmt, path in made if target == "portable-fp32"}
            if wanted is None:
                wanted = np.concatenate([onnx_as_written(twins["onnx"])(image) for image in images]).astype(np.float64)
                row("float", judged(onnx_as_written(twins["onnx"]), images, labels, wanted), twins["onnx"], None)
            for target, fmt, path in made:
                if target in TARGETS:
                    numbers = judged(predictor(path, fmt), images, labels, wanted)
                    row(f"edgeopt {quality}, {target}", numbers, path, seconds / len(TARGETS))
        assert wanted is not None
        for name, fmt, make in peers(twins, folder):
            start = time.monotonic()
            path = make()
            seconds = time.monotonic() - start
            row(name, judged(predictor(path, fmt), images, labels, wanted), path, seconds)


def row(name: str, numbers: tuple[float, float, float], path: Path, seconds: float | None) -> None:
    top1, agreement, sqnr = numbers
    files: list[Any] = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    size = sum(each.stat().st_size for each in files) / 1e6
    took = "" if seconds is None else f"{seconds:.0f}"
    print(f"| {name} | {top1:.1f} | {agreement:.1f} | {sqnr:.1f} | {size:.1f} | {took} |", flush=True)


if __name__ == "__main__":
    main()
