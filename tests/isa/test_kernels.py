"""Where this CPU's kernels saturate, artifacts are proved as they are written: the same numbers on every CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import isa

EXPORT = """
import json, sys
import torch
from torch import nn
import edgeopt

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 6)
        nn.init.normal_(self.b.weight, std=0.3)

    def forward(self, x):
        return self.o(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))

def evaluate(predict):
    with torch.no_grad():
        errors = [float(((torch.from_numpy(predict(x.numpy())[0]) - net(x)) ** 2).mean()) for x in data[:8]]
    return {"closeness": -sum(errors)}

if __name__ == "__main__":
    torch.manual_seed(0)
    net, data = Net().eval(), [torch.rand(1, 3, 16, 16) for _ in range(30)]
    model = edgeopt.Model(net, (data[0],), calibration=data, evaluate=evaluate)
    targets = ["x86-fbgemm", "x86-fbgemm-avx2", "arm-ort"]
    bundle = edgeopt.export(model, targets=targets, out=sys.argv[1], jobs=1, use_cache=False)
    print(json.dumps({r.target: {"status": r.status, "warnings": r.warnings, "closeness": r.accuracy["closeness"],
        "compared": sorted({v.compared for v in r.verdicts if v.compared}),
        "sqnr": next(v.value for v in r.verdicts if v.check == "sqnr_float")}
        for r in bundle.manifest.results if r.format == "onnx"}))
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return isa.library(tmp_path_factory.mktemp("isa"))
    except isa.Unavailable as error:
        pytest.skip(str(error))


def run(code: str, *arguments: str, preload: Path | None = None) -> str:
    environment = isa.preloaded(preload) if preload else None
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernels_of_a_cpu_without_vnni_are_found_to_saturate(preload: Path) -> None:
    code = "from edgeopt.converters.onnx.kernels import kernels; print(kernels())"
    assert run(code, preload=preload).strip() == "saturating u8 saturating s8"


@pytest.fixture(scope="module")
def exports(preload: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an export says on this CPU, and on one without VNNI."""
    folder = tmp_path_factory.mktemp("exports")
    here, there = (run(EXPORT, str(folder / name), preload=library) for name, library in (("a", None), ("b", preload)))
    return json.loads(here.splitlines()[-1]), json.loads(there.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-ort"])
def test_saturating_kernels_are_not_what_is_judged(target: str, exports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    here, there = exports
    assert there[target]["status"] == "ok" and there[target]["compared"] == ["the file as written"]
    assert there[target]["sqnr"] == pytest.approx(here[target]["sqnr"], abs=1.0)
    assert there[target]["closeness"] == pytest.approx(here[target]["closeness"], rel=0.2)
    (warning,) = (warning for warning in there[target]["warnings"] if "VNNI" in warning)
    lost = float(warning.partition("sqnr_float ")[2].partition(" dB")[0])
    assert lost < there[target]["sqnr"] - 3, "the real kernels of such a CPU lose much on this network"


@pytest.mark.slow
def test_seven_bit_weights_are_proved_on_the_kernels_themselves(exports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found = exports[1]["x86-fbgemm-avx2"]
    assert found["status"] == "ok" and found["compared"] == ["this CPU's kernels"]
    assert not [warning for warning in found["warnings"] if "VNNI" in warning]
