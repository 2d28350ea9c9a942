"""The scan finds what each layer is worth, within its time, and leaves the model as it was."""

import time
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.compress.advice.sensitivity import Sensitivity, scan
from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.low_rank.low_rank import LowRank
from edgeopt.compress.technique import Context
from edgeopt.core import from_json, to_json
from edgeopt.errors import CompressionError, EvaluationError
from edgeopt.report.sensitivity_plot import write_sensitivity

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def net(norm: bool = False) -> nn.Sequential:
    """Layer 0 has two channels that matter and two that are nothing; layer 2 needs all of its four."""
    first, second, last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None])
        second.weight.copy_(torch.eye(4)[[1, 3, 1, 3], :, None, None])
        last.weight.fill_(0.25)
        for layer in (first, second, last):
            assert layer.bias is not None
            layer.bias.zero_()
    behind: nn.Module = nn.ReLU()
    if norm:
        behind = nn.BatchNorm2d(4)
        nn.init.constant_(behind.bias, 1.0)
    return nn.Sequential(first, behind, second, nn.ReLU(), last).eval()


def context(delay: float = 0.0) -> Context:
    """The score is 1 less the mean error against what the untouched net gives for ones: 1."""

    def evaluate(predict: Any) -> dict[str, float]:
        time.sleep(delay)
        found = predict(np.ones((1, 1, 4, 4), np.float32))[0]
        return {"agreement": 1 - float(np.abs(found - 1).mean()), "another": 0.0}

    return Context(example_inputs=(torch.ones(1, 1, 4, 4),), evaluate=evaluate)


def test_what_a_layer_s_least_channels_are_worth() -> None:
    module = net()
    before = deepcopy(module.state_dict())
    found = scan(module, context(), amounts=(0.5, 0.75))
    assert (found.metric, found.base) == ("agreement", pytest.approx(1.0))
    assert {point.layer for point in found.points} == {"0", "2"}
    assert found.drop("0", 0.5) == pytest.approx(0)
    assert found.drop("0", 0.75) == pytest.approx(0.5)
    assert found.drop("2", 0.5) == pytest.approx(0.5)
    assert found.least_sensitive(0.5) == ("0", "2")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert from_json(Sensitivity, to_json(found)) == found


def test_the_layers_that_work_hardest_come_first_and_the_outputs_stay() -> None:
    wide = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    asked = Context(example_inputs=(torch.randn(1, 8),), evaluate=lambda predict: {"x": 1.0})
    assert list(scan(wide, asked, amounts=(0.5,)).macs) == ["2", "0"]


def test_a_batch_norm_behind_a_silent_channel_is_silent_too() -> None:
    """With its shift left, a channel that is nothing would become a constant of one."""
    module = net(norm=True)
    with torch.no_grad():
        base = float(module(torch.ones(1, 1, 4, 4)).mean())
    evaluate: Any = lambda predict: {"mean": float(predict(np.ones((1, 1, 4, 4), np.float32))[0].mean())}  # noqa: E731
    found = scan(module, Context(example_inputs=(torch.ones(1, 1, 4, 4),), evaluate=evaluate), amounts=(0.75,))
    assert found.base == pytest.approx(base)
    assert found.drop("0", 0.75) == pytest.approx(base / 2)


def test_the_time_is_kept_and_what_was_not_reached_is_named() -> None:
    found = scan(net(), context(delay=0.2), amounts=(0.25, 0.5, 0.75), seconds=0.1)
    (point,) = found.points
    assert {point.layer, *found.unscanned} == {"0", "2"}


@pytest.mark.slow
def test_a_technique_s_own_cut_is_scanned_layer_by_layer() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3)).eval()
    asked = Context(
        example_inputs=(torch.ones(1, 1, 9, 9),),
        evaluate=lambda predict: {"mean": float(predict(np.ones((1, 1, 9, 9), np.float32))[0].mean())},
    )
    found = scan(module, asked, Channels(), amounts=(0.5, 0.75))
    assert found.technique == "channels"
    assert {point.layer for point in found.points} | set(found.left) == {"0", "2"}
    assert any(point.score != pytest.approx(found.base) for point in found.points)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"amounts": (1.0,)}, "cannot be scanned"),
        ({"amounts": ()}, "cannot be scanned"),
        ({"technique": LowRank()}, "no setting 'amount'"),
    ],
)
def test_what_cannot_be_scanned(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        scan(net(), context(), **arguments)


def test_a_model_without_a_layer_before_its_outputs() -> None:
    with pytest.raises(CompressionError, match="no layer to scan"):
        scan(nn.Linear(4, 2), Context(example_inputs=(torch.randn(1, 4),), evaluate=lambda predict: {"x": 1.0}))


def test_an_evaluate_that_fails_is_named() -> None:
    def broken(predict: Any) -> dict[str, float]:
        raise KeyError("labels")

    with pytest.raises(EvaluationError, match="labels"):
        scan(net(), Context(example_inputs=(torch.ones(1, 1, 4, 4),), evaluate=broken))


def test_the_plot_shows_every_scanned_layer_and_is_the_same_each_time(tmp_path: Path) -> None:
    found = scan(net(), context(), amounts=(0.5, 0.75))
    write_sensitivity(found, tmp_path / "a.svg")
    write_sensitivity(found, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == (tmp_path / "b.svg").read_text()
    assert "<!-- agreement 1.000 untouched -->" in text
    assert "<!-- 0.500 -->" in text
