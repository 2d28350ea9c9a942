"""Outputs that are ranked, on the real runtimes: scores beside boxes in pixels keep their levels, logits do not tie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeopt
from edgeopt.core import TargetResult
from edgeopt.model.model import Model
from tests.examples.runtimes import run_coreml, run_onnx, run_tflite, sqnr_db
from tests.quantize.detectors import HEADS, Classifier, Detector, detector, images, parts_v8

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log
RUNS: dict[str, Callable[..., Any]] = {"onnx": run_onnx, "tflite": run_tflite, "coreml": run_coreml}
TARGETS = ("arm-xnnpack", "x86-fbgemm", "apple-ane")
LEAST_DB = 20.0


def exported(net: nn.Module, folder: Path, io_float: bool, *targets: str) -> dict[str, TargetResult]:
    model = Model(net.eval(), (images(1)[0],), calibration=lambda: [(one,) for one in images(40)], name="net")
    bundle = edgeopt.export(model, targets=targets, out=folder / "bundle", io_float=io_float, use_cache=False)
    return {one.target: one for one in bundle.manifest.results if one.target in targets}


def outputs(folder: Path, result: TargetResult) -> np.ndarray:
    """The first output for images that were not seen."""
    assert result.status == "ok" and result.artifact is not None
    path = folder / "bundle" / result.artifact.path
    found = [RUNS[result.format](path, result.artifact, (one.numpy(),))[0] for one in images(12, seed=2)]
    return np.concatenate(found)


def wanted(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([net(one).numpy() for one in images(12, seed=2)])


def said(result: TargetResult) -> dict[str, str]:
    assert result.plan is not None
    return {one.subject: one.choice for one in result.plan.decisions}


def ties(logits: np.ndarray) -> int:
    """Rows in which more than one class is first."""
    return int(((logits == logits.max(1, keepdims=True)).sum(1) > 1).sum())


@pytest.mark.parametrize("io_float", [True, False], ids=["floats out", "default"])
@pytest.mark.parametrize("name", HEADS)
def test_scores_beside_boxes_in_pixels_keep_their_levels(name: str, io_float: bool, tmp_path: Path) -> None:
    net, parts = detector(name), HEADS[name][2]
    reference = parts(wanted(net))
    assert np.abs(reference["boxes"]).max() > 100 * reference["scores"].mean()  # else there is nothing to lose
    for result in exported(net, tmp_path, io_float, *TARGETS if io_float else ("arm-xnnpack",)).values():
        found = parts(outputs(tmp_path, result))
        assert {part: sqnr_db(reference[part], found[part]) > LEAST_DB for part in found} == dict.fromkeys(found, True)
        likely = reference["scores"] > 0.01
        assert likely.any() and (found["scores"][likely] > 0).all()
        subject = ("parts of output output", "kept apart, in float") if io_float else ("output output", "float32")
        assert subject in said(result).items()


@pytest.mark.parametrize("convolutional", [False, True], ids=["linear", "convolution"])
def test_logits_are_floats_where_floats_are_wanted_and_the_weights_stay_small(convolutional: bool, tmp_path: Path) -> None:
    net = Classifier(convolutional).eval()
    found = exported(net, tmp_path, True, *TARGETS)
    reference = wanted(net)
    for target, result in found.items():
        logits = outputs(tmp_path, result)
        assert sqnr_db(reference, logits) > LEAST_DB
        if not convolutional or target == "apple-ane":  # elsewhere a convolution gives integers
            assert len(np.unique(logits)) > 2000 and ties(logits) == 0
            assert said(result).get("last layers") == "float results: fc" or target == "x86-fbgemm"
        assert result.artifact is not None and result.artifact.bytes < 2.2 * sum(p.numel() for p in net.parameters()) + 12_000


def test_integer_logits_reach_what_the_model_reaches(tmp_path: Path) -> None:
    net = Classifier().eval()
    (result,) = exported(net, tmp_path, False, "arm-xnnpack").values()
    assert result.artifact is not None
    (spec,) = result.artifact.outputs
    assert spec.dtype == "int8" and spec.scale is not None and spec.zero_point is not None
    with torch.no_grad():
        greatest = max(float(net(one).max()) for number, one in enumerate(images(40), 1) if number % 10)
    assert (127 - spec.zero_point) * spec.scale >= greatest - spec.scale
    assert said(result)["ranges"].startswith("up to the greatest value seen")


def test_two_outputs_have_a_scale_each_and_are_integers(tmp_path: Path) -> None:
    net = Detector(84, lambda raw: parts_v8(raw * 0.5 + 2))  # scores that are not rare: one scale holds them
    (result,) = exported(net, tmp_path, False, "arm-xnnpack").values()
    assert result.status == "ok" and result.artifact is not None
    boxes, scores = result.artifact.outputs
    assert boxes.dtype == scores.dtype == "int8"
    assert boxes.scale is not None and scores.scale is not None and boxes.scale > 50 * scores.scale
