"""Gates on how near an artifact is: layers in floats where integers miss them, told in plan, table and reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edgeopt
from edgeopt.core import TargetResult
from edgeopt.errors import GateFailed
from tests.quantize.test_mixed import Planted

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao
TARGETS = ("x86-fbgemm", "arm-xnnpack", "apple-ane")


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 8, 12, 12, generator=generator) for _ in range(20)]


def export(out: Path, targets: tuple[str, ...] = TARGETS, module: Any = None, **options: Any) -> Iterator[TargetResult]:
    data = batches()
    bundle = edgeopt.export(
        (module or Planted(2, 4)).eval(), data[0], out=out, targets=targets, calibration=data, use_cache=False, **options
    )
    return (result for result in bundle.manifest.results if result.target != "portable-fp32")


def test_each_format_keeps_the_planted_layers_in_floats_and_says_so(tmp_path: Path) -> None:
    before = {result.target: result for result in export(tmp_path / "before")}
    for result in export(tmp_path / "after", min_sqnr=32.0):
        verdict = next(one for one in result.verdicts if one.check == "min_sqnr")
        assert result.status == "ok" and verdict.passed and verdict.limit == 32 and verdict.value is not None
        assert result.plan is not None and result.plan.scheme.integer and not result.plan.refused
        kept = {one.layer: one.reason for one in result.plan.kept_float}
        assert {"layers.2", "layers.4"} <= kept.keys() and "layers.3" not in kept
        assert "min_sqnr" in kept["layers.2"] and "dB of the output" in kept["layers.2"]
        one = before[result.target]
        assert one.plan is not None and one.plan.float_macs is not None and result.plan.float_macs is not None
        assert one.plan.float_macs < 0.1 < 0.3 < result.plan.float_macs < 0.7


def test_a_gate_that_integers_cannot_meet_gives_way_or_fails_with_what_was_tried(tmp_path: Path) -> None:
    found = {result.target: result for result in export(tmp_path, ("x86-fbgemm", "apple-ane"), min_sqnr=60.0)}
    failed, other = found["x86-fbgemm"], found["apple-ane"]
    assert (failed.status, failed.error) == ("failed", GateFailed.__name__)
    assert "min_sqnr" in failed.reason and "limit 60" in failed.reason
    assert "in floats" in failed.reason
    assert other.status == "ok" and other.plan is not None and other.plan.scheme.activation == "float16"
    assert "in floats" in other.plan.refused[0].reason


def test_agreement_can_be_asked_for_and_is_refused_where_nothing_chooses_a_class(tmp_path: Path) -> None:
    (result,) = export(tmp_path / "classes", ("x86-fbgemm",), min_agreement=1.0)
    verdict = next(one for one in result.verdicts if one.check == "min_agreement")
    assert result.status == "ok" and verdict.value == 1.0

    (result,) = export(tmp_path / "maps", ("x86-fbgemm",), module=torch.nn.Conv2d(8, 8, 3), min_agreement=1.0)
    assert (result.status, result.error) == ("failed", "EvaluationError")
    assert "--min-agreement has nothing to judge" in result.reason


def test_the_user_s_own_number_decides_where_it_is_asked(tmp_path: Path) -> None:
    wanted = [Planted(2, 4).eval()(batch) for batch in batches()]

    def evaluate(predict: Any) -> dict[str, float]:
        errors = [
            float(torch.tensor(predict(batch.numpy())[0]).sub(one).norm() / one.norm())
            for batch, one in zip(batches(), wanted, strict=True)
        ]
        return {"nearness": 1 - sum(errors) / len(errors)}

    (before,) = export(tmp_path / "before", ("x86-fbgemm",), evaluate=evaluate)
    (after,) = export(tmp_path / "after", ("x86-fbgemm",), evaluate=evaluate, max_drop=0.06)
    assert before.accuracy["nearness"] < 0.94 <= after.accuracy["nearness"] and after.status == "ok"
    assert after.plan is not None and any("accuracy_drop" in one.reason for one in after.plan.kept_float)
