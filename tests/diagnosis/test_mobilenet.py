"""Faults planted in MobileNetV2 are named within a minute, from its 200 calibration samples."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.diagnosis.findings import Blame
from tests.environments import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SECONDS = 60.0


def original() -> edgeopt.Model:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from examples.mobilenet_v2 import model

    return model()


def stretched_weight(model: edgeopt.Model) -> str:
    """A projection's weights of an input channel that is always 0: the same function in float."""
    block = model.module.features[12].conv  # type: ignore[union-attr]
    peaks: list[Tensor] = []
    hook = block[1][2].register_forward_hook(lambda _, __, result: peaks.append(result.amax((0, 2, 3))))
    with torch.no_grad():
        for batch in model.calibration():  # type: ignore[operator,misc]
            model.module(*batch)  # type: ignore[operator]
        hook.remove()
        unused = int(torch.stack(peaks).amax(0).argmin())
        block[2].weight[:, unused] = 50 * block[2].weight.abs().max()
    return "features.12.conv.2"


def outlier_channel(model: edgeopt.Model) -> str:
    """One channel of a residual stream is 100 times as large, and all that reads it takes it for as much smaller."""
    features = model.module.features  # type: ignore[union-attr]
    with torch.no_grad():
        for block in (features[14], features[15], features[16]):
            norm: nn.BatchNorm2d = block.conv[3]
            norm.weight[7] *= 100
            norm.bias[7] *= 100
        for block in (features[15], features[16], features[17]):
            block.conv[0][0].weight[:, 7] /= 100
    return "features.14.conv.2"


@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-xnnpack"])
@pytest.mark.parametrize("plant", [stretched_weight, outlier_channel])
def test_the_planted_layer_is_first(plant: Callable[[edgeopt.Model], str], target: str) -> None:
    model = original()
    model.evaluate = None
    layer = plant(model)
    found = edgeopt.blame(model, target=target, seconds=SECONDS)
    assert found.layers[0].layer == layer, [(one.layer, one.alone) for one in found.layers[:5]]
    assert "examples/mobilenet_v2.py, line" in found.layers[0].line
    assert found.seconds < 1.5 * SECONDS  # on a machine that does other work too


def test_a_relu6_that_stands_at_its_clip_is_named_whatever_it_costs() -> None:
    model = original()
    model.evaluate = None
    with torch.no_grad():
        model.module.features[9].conv[0][1].bias += 20.0  # type: ignore[union-attr]
    found: Blame = edgeopt.blame(model, target="x86-fbgemm", seconds=SECONDS)
    named = sorted((one for one in found.layers if one.odd), key=lambda one: -one.oddness)
    saturated = next(one for one in named if one.layer == "features.9.conv.0.0")
    assert saturated.saturated is not None and saturated.saturated > 0.9
    assert any("stand at its own clip" in said for said in saturated.odd)
    assert saturated in named[:8]
