"""Artifacts on their runtimes with nothing of edgeopt between: what the manifest says about inputs and outputs must do."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeopt.coreml
from edgeopt.converters.onnx import kernels
from edgeopt.core import Artifact, TensorSpec

Array = NDArray[Any]


def run_onnx(path: Path, artifact: Artifact, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """With this CPU's kernels; as the file is written where these saturate, as the target's do not."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if kernels.kernels():
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {spec.name: array for spec, array in zip(artifact.inputs, arrays, strict=True)}
    return tuple(session.run([spec.name for spec in artifact.outputs], feed))


def run_tflite(path: Path, artifact: Artifact, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """By the signature's names, integers quantized and dequantized with the manifest's scale and zero point."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    feed = {spec.name: quantized(array, spec) for spec, array in zip(artifact.inputs, arrays, strict=True)}
    found = runner(**feed)
    return tuple(dequantized(found[spec.name], spec) for spec in artifact.outputs)


def run_coreml(path: Path, artifact: Artifact, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    found = edgeopt.coreml.load(path)(**{spec.name: array for spec, array in zip(artifact.inputs, arrays, strict=True)})
    return tuple(found[spec.name] for spec in artifact.outputs)


def quantized(array: Array, spec: TensorSpec) -> Array:
    if spec.scale is None or spec.zero_point is None:
        return array.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    rounded = np.rint(array / np.float32(spec.scale)) + spec.zero_point
    return np.asarray(np.clip(rounded, limits.min, limits.max), spec.dtype)


def dequantized(array: Array, spec: TensorSpec) -> Array:
    if spec.scale is None or spec.zero_point is None:
        return array
    return (array.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)


def sqnr_db(reference: Array, found: Array) -> float:
    """Signal to quantization noise: 10 log10(sum r^2 / sum (r - f)^2)."""
    noise = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))
