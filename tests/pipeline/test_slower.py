"""An artifact that is slower than its twin: told, and made again where it is asked for on its target's kind of CPU."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.bundle.bundle import Bundle
from edgeopt.core import Decision, Plan, TargetResult
from edgeopt.model.model import Model
from edgeopt.pipeline import replan
from edgeopt.support.progress import Event

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao


class Wide(nn.Module):
    """Depthwise convolutions with wide kernels, which ONNX Runtime computes faster in floats on every CPU so far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 10)
        self.body = nn.ModuleList(nn.Conv2d(32, 32, 7, padding=3, groups=32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.body:
            x = torch.relu(layer(x))
        return torch.as_tensor(self.head(x.mean((2, 3))))


def target(folder: Path, processor: str) -> str:
    """x86-fbgemm for CPUs of the kind ``processor``, or for none."""
    text = files("edgeopt.targets").joinpath("x86-fbgemm.toml").read_text(encoding="utf-8")
    said = f'processor = "{processor}"\n' if processor else ""
    text = text.replace('name = "x86-fbgemm"', 'name = "mine"').replace('processor = "x86-64-vnni"\n', said)
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def model() -> Model:
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(1, 3, 64, 64, generator=generator) for _ in range(8)]
    return Model(Wide().eval(), (data[0],), calibration=[(one,) for one in data])


def exported(
    folder: Path, processor: str, *, use_cache: bool = False, strict: bool = False, never_slower: bool = True
) -> tuple[Bundle, TargetResult]:
    bundle = edgeopt.export(
        model(), targets=[target(folder, processor)], out=folder / "out", use_cache=use_cache, strict_scheme=strict,
        never_slower=never_slower,
    )  # fmt: skip
    return bundle, next(one for one in bundle.manifest.results if one.target == "mine")


def of_time(result: TargetResult) -> tuple[Plan, Decision]:
    assert result.plan is not None
    return result.plan, next(one for one in result.plan.decisions if one.subject == "time")


def test_on_a_cpu_of_the_target_s_kind_it_gives_way_and_the_plan_has_every_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(replan, "SHARE", 10.0)
    bundle, result = exported(tmp_path, "any", use_cache=True)
    assert bundle.verify() == ()
    plan, decision = of_time(result)
    assert result.status == "ok" and next(one for one in result.verdicts if one.check == "speed").passed
    assert not plan.scheme.integer and plan.refused[0].scheme.integer
    assert "of the fp32 twin's time on a CPU of the target's kind" in plan.refused[0].reason
    assert decision.choice == plan.scheme.describe()
    for tried in ("u8 affine / s8 per-channel takes ", "depthwise convolutions in floats", "fp32 / s8 per-channel"):
        assert tried in decision.reason
    assert re.search(r"; fp32 (0\.9|1\.0)", decision.reason)
    assert "not tried" not in decision.reason
    assert any("was refused" in warning for warning in result.warnings)

    told: list[Event] = []
    again = edgeopt.export(
        model(), targets=[target(tmp_path, "any")], out=tmp_path / "again", never_slower=True, listen=told.append
    )
    assert any("nothing changed" in event.detail for event in told)
    assert again.manifest == bundle.manifest and again.verify() == ()


def test_what_there_is_no_time_for_is_said_and_floats_are_tried_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replan, "SHARE", 0.0)
    plan, decision = of_time(exported(tmp_path, "any")[1])
    assert plan.scheme == replan.FLOAT
    assert "not tried, beyond 0% of the export's time: u8 affine / s8 per-channel with depthwise" in decision.reason


def test_who_is_strict_keeps_the_scheme_and_is_told_what_it_costs(tmp_path: Path) -> None:
    _, result = exported(tmp_path, "any", strict=True)
    plan, decision = of_time(result)
    assert plan.scheme.integer and not plan.refused and "--strict-scheme keeps it" in decision.reason
    speed = next(one for one in result.verdicts if one.check == "speed")
    assert result.status == "ok" and not speed.passed
    assert any("slower than its fp32 twin" in one and "without --strict-scheme" in one for one in result.warnings)


def test_where_it_is_not_asked_for_no_time_decides_and_the_row_says_what_would(tmp_path: Path) -> None:
    _, result = exported(tmp_path, "any", never_slower=False)
    assert result.plan is not None and result.plan.scheme.integer
    assert not any(one.subject == "time" for one in result.plan.decisions)
    assert not next(one for one in result.verdicts if one.check == "speed").passed
    assert any("slower than its fp32 twin" in one and "--never-slower" in one for one in result.warnings)


def test_on_a_cpu_of_another_kind_it_stays_and_is_told_as_the_target_s_choice(tmp_path: Path) -> None:
    _, result = exported(tmp_path, "")
    assert result.plan is not None and result.plan.scheme.integer
    assert not any(one.subject == "time" for one in result.plan.decisions)
    speed = next(one for one in result.verdicts if one.check == "speed")
    assert speed.passed and speed.limit is None and speed.value is not None and speed.value > 1.05
    (warning,) = (one for one in result.warnings if "slower" in one)
    assert "not of the target's kind" in warning and "edgeopt bench BUNDLE --device NAME --target mine" in warning
