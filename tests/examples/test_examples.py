"""The examples' artifacts, run by their own runtimes, against the PyTorch model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import edgeopt
from edgeopt.core import QuantScheme, TargetResult
from edgeopt.targets import loader
from edgeopt.verify import verdicts
from tests.examples.conftest import load
from tests.examples.runtimes import Array, run_coreml, run_onnx, run_tflite, sqnr_db

TARGETS = loader.names()
FULLY_SUPPORTED = ("mobilenet_v2", "digits", "minilm")
# dB against the float model on the example input, by the activation's dtype.
LEAST_SQNR = {"float32": 60.0, "float16": 35.0}

RUNNERS = {"onnx": run_onnx, "tflite": run_tflite, "coreml": run_coreml}
Exported = Callable[[str], edgeopt.Bundle]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log


def least_sqnr(scheme: QuantScheme) -> float:
    """In dB; 8 where activations or weights have few bits."""
    return LEAST_SQNR.get(scheme.activation, 8.0) if scheme.activation == scheme.weight else 8.0


def results(bundle: edgeopt.Bundle, target: str) -> list[TargetResult]:
    return [result for result in bundle.manifest.results if result.target == target]


def float_outputs(model: edgeopt.Model) -> tuple[Array, ...]:
    module: Any = model.module
    with torch.no_grad():
        found = module(*model.example_inputs)
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else (found,)
    return tuple(part.numpy() for part in parts)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("example", FULLY_SUPPORTED)
def test_the_artifact_is_ok_and_computes_what_the_model_computes(example: str, target: str, exported: Exported) -> None:
    bundle, model = exported(example), load(example)
    made = results(bundle, target)
    assert {result.format for result in made} == set(loader.load(target).formats)
    for result in made:
        assert result.status == "ok", f"{result.error}: {result.reason}"
        assert not verdicts.failures(result.verdicts)
        assert result.calibrated
        assert result.artifact is not None
        assert result.plan is not None
        runner = RUNNERS[result.format]
        arrays = tuple(tensor.numpy() for tensor in model.example_inputs)
        found = runner(bundle.artifact_path(result), result.artifact, arrays)
        for reference, output in zip(float_outputs(model), found, strict=True):
            assert sqnr_db(reference, output) > least_sqnr(result.plan.scheme)


@pytest.mark.parametrize("example", FULLY_SUPPORTED)
def test_every_artifact_is_evaluated_like_the_model(example: str, exported: Exported) -> None:
    manifest = exported(example).manifest
    for result in manifest.results:
        assert result.accuracy.keys() == manifest.model.accuracy.keys()


def test_full_int8_takes_and_gives_int8(exported: Exported) -> None:
    for result in results(exported("mobilenet_v2"), "arm-xnnpack"):
        assert result.artifact is not None
        assert {spec.dtype for spec in result.artifact.inputs + result.artifact.outputs} == {"int8"}
        assert result.artifact.structure.quantize == result.artifact.structure.dequantize == 0


@pytest.mark.parametrize("target", ["portable-fp32", "arm-ort", "x86-fbgemm", "arm-xnnpack", "apple-ane-fp16"])
def test_a_recurrent_model_with_three_inputs_and_outputs_is_exported(target: str, exported: Exported) -> None:
    bundle = exported("silero_vad")
    for result in results(bundle, target):
        assert result.status == "ok", f"{result.error}: {result.reason}"
        assert result.artifact is not None
        assert [spec.name for spec in result.artifact.inputs] == ["chunk", "hidden", "cell"]
        assert [spec.name for spec in result.artifact.outputs] == ["probability", "next_hidden", "next_cell"]


def test_the_digits_pass_a_gate_of_one_point(tmp_path: Any) -> None:
    targets = ["portable-fp32", "x86-fbgemm", "arm-xnnpack"]
    bundle = edgeopt.export(load("digits"), targets=targets, max_drop=0.01, out=tmp_path / "digits")
    assert bundle.manifest.model.accuracy["accuracy"] > 0.98
    for result in bundle.manifest.results:
        assert result.status == "ok", result.reason
        assert result.accuracy["accuracy"] >= bundle.manifest.model.accuracy["accuracy"] - 0.01


def test_a_gate_that_no_artifact_can_pass_fails_with_both_numbers(tmp_path: Any) -> None:
    bundle = edgeopt.export(load("digits"), targets=["x86-fbgemm"], max_drop=-1.0, out=tmp_path / "digits")
    (result,) = results(bundle, "x86-fbgemm")
    assert result.status == "failed"
    assert result.error == "GateFailed"
    for accuracy in (bundle.manifest.model.accuracy["accuracy"], result.accuracy["accuracy"]):
        assert f"{accuracy:.3f}"[:4] in result.reason


def test_the_mobilenet_example_recognises_the_photos() -> None:
    model = load("mobilenet_v2")
    module: Any = model.module
    assert model.evaluate is not None
    with torch.no_grad():
        numbers = model.evaluate(lambda image: (module(torch.from_numpy(image)).numpy(),))
    assert numbers["top1"] >= 0.9
    assert np.isclose(numbers["top5"], 1.0)
