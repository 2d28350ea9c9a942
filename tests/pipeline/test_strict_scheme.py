"""A target whose preferred scheme does not work: it gives way and says so, or fails where the user is strict."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import edgeopt
from edgeopt.cli.app import app
from edgeopt.core import TargetResult, from_json
from edgeopt.errors import GateFailed, SchemeRefused, VerificationFailed
from edgeopt.model.model import Evaluate, Model
from edgeopt.model.options import Options
from edgeopt.pipeline.plan import plan
from edgeopt.support.progress import Event
from edgeopt.targets import loader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log
NET = """
import torch
from torch import nn

import edgeopt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.lstm = nn.Linear(64, 64), nn.LSTM(64, 16, batch_first=True)

    def forward(self, x):
        return torch.remainder(5.0, self.lstm(self.stem(x).relu())[0] + 10)


model = edgeopt.Model(Net().eval(), torch.ones(1, 6, 64))
"""
W8A8, FP16 = loader.load("apple-ane").schemes


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with a network whose remainders of a number reach Core ML by a trace only, which carries no integers."""
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:model"


def export(net: str, out: Path, *options: str) -> tuple[int, str, dict[str, object]]:
    """The exit code of ``edgeopt export`` for apple-ane, what it prints, and the target's result as the manifest has it."""
    command = ["export", net, "--target", "apple-ane", "--out", str(out), *options]
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, command)
    manifest = json.loads((out / "manifest.json").read_text())
    return done.exit_code, done.stdout, next(one for one in manifest["results"] if one["target"] == "apple-ane")


def test_giving_way_is_seen_in_the_table_and_the_manifest_and_refused_where_the_user_is_strict(
    net: str, tmp_path: Path
) -> None:
    code, printed, result = export(net, tmp_path / "out")
    assert code == 0
    (row,) = (line for line in printed.splitlines() if line.startswith("apple-ane"))
    assert row.split()[2:5] == ["fp16", "all", "100%"] and row.endswith("ok GAVE WAY")
    assert "not W8A8" in printed
    found = result["plan"]
    assert isinstance(found, dict)
    assert found["scheme"]["activation"] == "float16" and found["float_macs"] is None
    (refused,) = found["refused"]
    assert (refused["scheme"]["activation"], refused["scheme"]["weight"]) == ("uint8", "int8")
    assert "remainder" in refused["reason"]

    code, printed, result = export(net, tmp_path / "strict", "--strict-scheme")
    assert (code, result["status"], result["error"]) == (SchemeRefused.exit_code, "failed", "SchemeRefused")
    assert not (tmp_path / "strict" / "apple-ane").exists()
    reason = str(result["reason"])
    assert reason.startswith(f"the scheme {W8A8.describe()} was refused, and with --strict-scheme no other takes its place")
    assert "remainder" in reason and reason.endswith("without --strict-scheme fp16 is tried in its place")

    (tmp_path / "edgeopt.toml").write_text("strict_scheme = true\n")
    config = ("--config", str(tmp_path / "edgeopt.toml"))
    assert export(net, tmp_path / "again", *config)[0] == SchemeRefused.exit_code
    assert export(net, tmp_path / "again", *config, "--no-strict-scheme")[0] == 0


def test_nothing_to_quantize_is_a_refused_scheme_too(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Sigmoid(), nn.Softmax(-1))
    bundle = edgeopt.export(net, torch.randn(1, 8), targets=["apple-ane"], out=tmp_path / "out", strict_scheme=True)
    (result,) = (one for one in bundle.manifest.results if one.target == "apple-ane")
    assert (result.status, result.error) == ("failed", "SchemeRefused")
    assert "no layer of this model can be computed in integers" in result.reason


class Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.body(x).relu()))


def write_small(folder: Path, least_db: float) -> None:
    """The target small: apple-ane-palettized with another limit of decibels."""
    text = files("edgeopt.targets").joinpath("apple-ane-palettized.toml").read_text(encoding="utf-8")
    text = text.replace('"apple-ane-palettized"', '"small"').replace("float_sqnr_db = 10.0", f"float_sqnr_db = {least_db}")
    (folder / "small.toml").write_text(text, encoding="utf-8")


def palettes(folder: Path, least_db: float, *, strict: bool, evaluate: Evaluate | None = None) -> TargetResult:
    write_small(folder, least_db)
    example = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    bundle = edgeopt.export(
        Model(Classes().eval(), example, evaluate=evaluate), targets=[str(folder / "small.toml")], out=folder / "out",
        strict_scheme=strict, use_cache=False, max_drop=0.1 if evaluate else None,
    )  # fmt: skip
    (result,) = (one for one in bundle.manifest.results if one.target == "small")
    assert from_json(type(bundle.manifest), (folder / "out" / "manifest.json").read_text()) == bundle.manifest
    return result


def test_a_palette_that_fails_its_checks_gives_way_to_a_larger_one_or_is_kept_as_a_failure(tmp_path: Path) -> None:
    loose, strict = (palettes(tmp_path, 30.0, strict=strict) for strict in (False, True))
    assert loose.plan is not None and strict.plan is not None
    assert loose.status == "ok", loose.reason
    assert [one.scheme.short() for one in loose.plan.refused] == [
        "4-bit palette"
    ] and loose.plan.scheme.short() == "6-bit palette"
    assert "limit 30 dB" in loose.plan.refused[0].reason
    assert (strict.status, strict.error) == ("failed", VerificationFailed.__name__)
    assert strict.plan.scheme.short() == "4-bit palette" and not strict.plan.refused
    assert strict.artifact is not None and strict.verdicts, "what was made can be looked at"
    assert strict.reason.startswith("the scheme fp16 / 4-bit palette per 16 channels was refused: sqnr_float")
    assert "without --strict-scheme fp16 / 6-bit palette per 16 channels, then fp16 is tried in its place" in strict.reason


def test_a_preferred_scheme_that_loses_too_much_fails_at_the_gate_where_the_user_is_strict(tmp_path: Path) -> None:
    def evaluate(predict: object) -> dict[str, float]:
        seen.append(1)
        return {"top1": {1: 0.9, 2: 0.9, 3: 0.5}.get(len(seen), 0.89)}  # of the model it is asked twice

    seen: list[int] = []
    result = palettes(tmp_path, 3.0, strict=True, evaluate=evaluate)
    assert (result.status, result.error) == ("failed", GateFailed.__name__)
    assert "4-bit palette per 16 channels was refused: accuracy_drop" in result.reason
    seen.clear()
    result = palettes(tmp_path, 3.0, strict=False, evaluate=evaluate)
    assert result.status == "ok" and result.plan is not None and result.plan.scheme.short() == "6-bit palette"


def test_a_strict_export_whose_preferred_schemes_work_is_as_any_other(tmp_path: Path) -> None:
    result = palettes(tmp_path, 3.0, strict=True)
    assert result.status == "ok" and result.plan is not None and result.plan.scheme.short() == "4-bit palette"
    assert any(one.subject == "if that is refused" and one.choice == "nothing else" for one in result.plan.decisions)


def test_a_strict_plan_says_that_nothing_else_would_be_made(tmp_path: Path) -> None:
    options = Options(out=tmp_path, targets=("apple-ane", "x86-fbgemm"), strict_scheme=True)
    model = Model(Classes().eval(), torch.randn(1, 64))
    said = {one.target: [d.choice for d in one.decisions if d.subject == "if that is refused"] for one in plan(model, options)}
    assert said["apple-ane"] == ["nothing else"] and said["x86-fbgemm"] == []
    loose = plan(model, replace(options, strict_scheme=False))
    assert not any(d.subject == "if that is refused" for one in loose for d in one.decisions)


def test_what_an_export_remembers_is_not_taken_for_one_that_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    write_small(tmp_path, 30.0)
    network, example = Classes().eval(), torch.randn(1, 64, generator=torch.Generator().manual_seed(0))

    def made(*, strict: bool) -> tuple[str, bool]:
        """The target's status, and whether the whole export was remembered."""
        events: list[Event] = []
        bundle = edgeopt.export(
            network, example, targets=[str(tmp_path / "small.toml")], out=tmp_path / "out", strict_scheme=strict,
            listen=events.append,
        )  # fmt: skip
        (result,) = (one for one in bundle.manifest.results if one.target == "small")
        return result.status, any("nothing changed" in one.detail for one in events)

    assert made(strict=False) == ("ok", False)
    assert made(strict=True) == ("failed", False)
    assert made(strict=False) == ("ok", True)
