"""What comes from the cache has the reasons of this export: an artifact may be reached by several ways."""

from pathlib import Path

import pytest
import torch
from torch import nn

import edgeopt
from edgeopt.core import Decision, TargetResult, Verdict
from edgeopt.support.progress import Event

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of torch and torchao
ROOT = Path(__file__).parents[2]
FLOAT = '[[schemes]]\nactivation = "float32"\nweight = "float32"\n\n[io]'


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two targets that end at the same float artifact: one whose integers no network can satisfy, one that asks for it."""
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    text = (ROOT / "targets" / "x86-fbgemm.toml").read_text()
    head, rest = text.split("[[schemes]]")
    integer, tail = rest.split("[io]", 1)
    never = "\n[checks]\nfloat_sqnr_db = 500.0\n\n[sources]"
    texts = {
        "by-fallback": f"{head}[[schemes]]{integer}{FLOAT}{tail}".replace("\n[sources]", never),
        "directly": f"{head}{FLOAT}{tail}",
    }
    for name, content in texts.items():
        (tmp_path / f"{name}.toml").write_text(content.replace('"x86-fbgemm"', f'"{name}"'))
    return {name: str(tmp_path / f"{name}.toml") for name in texts}


def exported(profile: str, out: Path) -> tuple[TargetResult, list[str]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    events: list[Event] = []
    bundle = edgeopt.export(module, torch.randn(1, 8), targets=[profile], out=out, listen=events.append)
    result = next(one for one in bundle.manifest.results if one.target != "portable-fp32")
    return result, [one.detail for one in events if one.subject.startswith(result.target)]


def schemes(result: TargetResult) -> list[Decision]:
    assert result.plan is not None
    return [decision for decision in result.plan.decisions if decision.subject == "scheme"]


@pytest.mark.parametrize("order", [("by-fallback", "directly"), ("directly", "by-fallback")], ids=" then ".join)
def test_reasons_are_those_of_the_way_that_led_here_whatever_was_exported_before(
    profiles: dict[str, str], tmp_path: Path, order: tuple[str, str]
) -> None:
    found = {}
    for number, name in enumerate(order):
        found[name], details = exported(profiles[name], tmp_path / name)
        assert ("unchanged: from the cache" in details) == (number == 1)
    refused, asked = schemes(found["by-fallback"]), schemes(found["directly"])
    assert [decision.choice for decision in (*refused, *asked)] == ["fp32", "fp32"]
    assert "was refused: " in refused[0].reason
    assert "was refused" not in asked[0].reason
    assert any("made as fp32: " in warning for warning in found["by-fallback"].warnings)
    assert not any("made as" in warning for warning in found["directly"].warnings)
    assert len({result.artifact.sha256 for result in found.values() if result.artifact}) == 1


def test_numbers_are_those_of_this_example_though_program_and_data_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an artifact is compared on is made from the example too, and its bytes do not depend on it."""
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 4)).eval()
    data = list(torch.randn(12, 1, 8))

    def verdicts(scale: float, out: str, *, use_cache: bool) -> tuple[tuple[Verdict, ...], ...]:
        example = torch.full((1, 8), scale)
        bundle = edgeopt.export(
            module, example, calibration=data, targets=["portable-fp32"], out=tmp_path / out, use_cache=use_cache
        )
        checked = [[one for one in result.verdicts if one.check != "speed"] for result in bundle.manifest.results]
        return tuple(map(tuple, checked))

    near = verdicts(0.1, "near", use_cache=True)
    far = verdicts(30.0, "far", use_cache=True)
    assert far == verdicts(30.0, "anew", use_cache=False)
    assert far != near
