"""How near a model stays to itself when it moves by one rounding, and what that excuses."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.capture import capture
from edgeopt.verify.parts import MAX_SQNR_DB
from edgeopt.verify.reference_outputs import ReferenceOutputs
from edgeopt.verify.steadiness import steadiness


class Steps(nn.Module):
    """Scores, as they are or whether their hundred millionths are odd."""

    def __init__(self, floor: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.floor = nn.Linear(64, 4096), floor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).softmax(-1) * 1e8
        return y.floor() % 2 if self.floor else y


def steady(module: nn.Module) -> float:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    captured = capture(edgeopt.Model(module, (x,)))
    return steadiness(captured, ReferenceOutputs(("y",), [(x.numpy(),)], [(captured.witness(x)[0].numpy(),)]))


@pytest.mark.filterwarnings("ignore")  # of torch and torchao
def test_smooth_networks_stay_near_and_floors_fall_the_other_way() -> None:
    assert 100 < steady(Steps(floor=False)) < MAX_SQNR_DB
    assert 15 < steady(Steps(floor=True)) < 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
def test_floors_that_fall_the_other_way_are_said_and_fail_no_artifact(tmp_path: Path) -> None:
    data = [(torch.randn(8, 64),) for _ in range(12)]
    model = edgeopt.Model(Steps(floor=True), data[0], calibration=data)
    bundle = edgeopt.export(model, targets=["portable-fp32"], out=tmp_path / "out", jobs=1, use_cache=False)
    for result in bundle.manifest.results:
        assert result.status == "ok", result.reason
        sqnr = next(verdict for verdict in result.verdicts if verdict.check == "sqnr_float")
        assert sqnr.value is not None and sqnr.value < 60 and sqnr.limit is not None and sqnr.limit < 60
        assert any("differs from itself" in warning for warning in result.warnings)
