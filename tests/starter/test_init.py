"""``edgeopt init`` on models as users write them: what it writes is loaded, filled in and exported."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from edgeopt.capture import interface
from edgeopt.cli.app import app
from edgeopt.errors import CalibrationError, EvaluationError
from edgeopt.model import evaluation
from edgeopt.model.config import read
from edgeopt.model.model import Model
from edgeopt.model.references import load_evaluate, load_model, parse_input
from edgeopt.model.signature import Signature, as_float32
from tests import shells

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log

RUN = CliRunner()
FILES = ["edgeopt.toml", "edgeopt_model.py"]
MODELS = """
import torch
from torch import nn
import edgeopt

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.conv, self.head = nn.Embedding(50, 8), nn.Conv2d(3, 8, 3), nn.Linear(16, 5)
    def forward(self, image, ids):
        return self.head(torch.cat((self.conv(image).relu().mean((2, 3)), self.table(ids).mean(1)), 1))

class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
    def forward(self, *, image, mask):
        hidden = self.conv(image).relu() * mask.float()[:, None]
        return {"boxes": hidden[:, :4], "scores": hidden.sum((1, 2, 3))}

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
    def forward(self, x):
        y = self.conv(x)
        return y, y.relu().mean(2)

class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 6)
    def example_inputs(self):
        return ({"left": torch.randn(1, 4), "right": [torch.randn(1, 3)]},)
    def forward(self, pair):
        return self.a(pair["left"]) + self.b(pair["right"][0])

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

def data():
    for _ in range(4):
        yield torch.randn(1, 3, 8, 8)

def measured(predict):
    return {"own": float(predict(torch.zeros(1, 3, 8, 8).numpy())[0].shape[1])}

def whole():
    return edgeopt.Model(small(), (torch.randn(1, 3, 8, 8),), calibration=data, evaluate=measured, name='odd "name"/../x')

def halves():
    return edgeopt.Model(small(), (torch.randn(1, 3, 8, 8),), calibration=data)
"""
CASES = {
    "several inputs": ("nets.py:Two", ["2x3x8x8:float32", "2x16:int64"]),
    "by keyword": ("nets.py:Keywords", ["image=1x3x8x8:float32", "mask=1x8x8:bool"]),
    "a tuple of outputs": ("nets.py:Pair", ["1x2x16"]),
    "nested inputs of its own": ("nets.py:Nested", []),
    "all of its own": ("nets.py:whole", []),
    "calibration of its own": ("nets.py:halves", []),
    "a .pt2": ("a net.pt2", []),
    "a module": ("nets:small", ["1x3x8x8"]),
    "an odd path": ('my models/né\'t "v2" $(x).py:build', ["1x3x8x8"]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    (work / "my models").mkdir(parents=True)
    (work / "nets.py").write_text(MODELS)
    (work / "my models" / "helper.py").write_text("from torch import nn\nlast = nn.Linear(8, 10)\n")
    (work / "my models" / 'né\'t "v2" $(x).py').write_text(
        "from torch import nn\nfrom helper import last\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)\n"
    )
    (work / "broken.py").write_text("def build(:\n    pass\n")
    net = nn.Sequential(nn.Linear(4, 3)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 4),)), work / "a net.pt2")
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return work


def init(*arguments: str) -> str:
    done = RUN.invoke(app, ["init", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def inputs(specs: list[str]) -> list[str]:
    return [part for spec in specs for part in ("--input", spec)]


def written(folder: Path, filled_in: bool = False) -> tuple[ModuleType, Model]:
    """The written Python file, and the model that an export with the written edgeopt.toml loads."""
    path = folder / "edgeopt_model.py"
    if filled_in:
        path.write_text(re.sub(r"^@edgeopt.placeholder.*\n", "", path.read_text(), flags=re.MULTILINE))
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in [name for name in sys.modules if name.startswith("_edgeopt_user_edgeopt_model")]:
        del sys.modules[name]
    settings = read(folder / "edgeopt.toml")
    assert settings.model is not None
    return module, load_model(settings.model, inputs=tuple(map(parse_input, settings.inputs)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_loaded_as_it_stands_and_counts_as_not_filled_in(folder: Path, case: str) -> None:
    reference, specs = CASES[case]
    said = init(reference, *inputs(specs))
    _, model = written(folder)
    takes, gives = interface(model)
    assert all(f"{spec.name} " in said for spec in (*takes, *gives))
    own = {"all of its own": {"calibration", "evaluate"}, "calibration of its own": {"calibration"}}.get(case, set())
    assert set(model.unfilled) == {"calibration", "evaluate"} - own
    assert (model.calibration is not None) == ("calibration" in own)


@pytest.mark.parametrize("case", CASES)
def test_the_random_batches_fit_the_model_and_top_1_is_measured_once_they_are_let(folder: Path, case: str) -> None:
    reference, specs = CASES[case]
    init(reference, *inputs(specs))
    module, model = written(folder, filled_in=True)
    assert callable(model.calibration) and not model.unfilled
    signature, flat = Signature.of(getattr(model.module, "forward", None), as_float32(model.example_inputs))
    batches = [one for batch in module.batches() for one in signature.split(batch, "a batch")]
    assert len(batches) >= 4
    assert [(value.shape, value.dtype) for value in batches[0]] == [(value.shape, value.dtype) for value in flat]
    if case in ("by keyword", "a tuple of outputs"):
        with pytest.raises(NotImplementedError):
            module.evaluate(None)
        return
    takes, gives = interface(model)

    def predict(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(np.zeros(spec.shape, spec.dtype) for spec in gives)

    assert model.evaluate is not None
    (name,) = evaluation.evaluate(model.evaluate, predict, takes, "it")
    assert name == ("own" if case == "all of its own" else "top1")


def test_a_model_that_nothing_is_known_of_has_a_place_to_fill_in(folder: Path) -> None:
    said = init("nets.py:Two")
    assert "first fill in `inputs` in edgeopt.toml" in said
    config = (folder / "edgeopt.toml").read_text()
    line = '# inputs = ["image=SHAPE:DTYPE", "ids=SHAPE:DTYPE"]'
    assert line in config
    done = RUN.invoke(app, ["plan", "--config", "edgeopt.toml"])
    assert (done.exit_code, "nothing says what inputs" in done.stderr) == (12, True)
    (folder / "edgeopt.toml").write_text(config.replace(line, 'inputs = ["image=1x3x8x8", "ids=1x16:int64"]'))
    _, model = written(folder)
    assert [spec.name for spec in interface(model)[0]] == ["image", "ids"]


def test_inputs_beside_the_model_are_its_own(folder: Path) -> None:
    (folder / "beside.py").write_text("import torch\nnet = torch.nn.Linear(4, 2)\nexample_inputs = (torch.ones(3, 4),)\n")
    assert "input 3x4:float32 -> output 3x2:float32" in init("beside.py:net")
    _, model = written(folder)
    assert torch.equal(model.example_inputs[0], torch.ones(3, 4))


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(folder: Path, name: str) -> None:
    (folder / name).symlink_to("nowhere")
    done = RUN.invoke(app, ["init", "nets.py:small", "--input", "1x3x8x8"])
    assert done.exit_code == 2
    assert f"{name} exists" in done.stderr and "next step" in done.stderr
    assert [file for file in FILES if os.path.lexists(folder / file)] == [name]


def test_both_files_are_written_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeopt.errors import OutputError
    from edgeopt.starter import start

    real = start.write_atomic

    def full(path: Path, data: str) -> None:
        if path.name == "edgeopt.toml":
            raise OutputError("no room")
        real(path, data)

    monkeypatch.setattr(start, "write_atomic", full)
    assert RUN.invoke(app, ["init", "nets.py:small", "--input", "1x3x8x8"]).exit_code == 20
    assert not any((folder / file).exists() for file in FILES)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["broken.py:build"], 10, "SyntaxError"),
        (["nets.py:smal"], 11, "did you mean 'small'"),
        (["none.py:build"], 11, "there is no file"),
        (["nets.py"], 11, "':name'"),
        (["nets.py:small", "--input", "1y3"], 2, "write it as"),
        (["nets.py:small", "--input", "1x4x8x8"], 13, "raised in forward"),
        (["nets.py:Keywords", "--input", "imag=1x3x8x8", "--input", "mask=1x8x8:bool"], 13, "imag"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_as_export_does_and_nothing_is_written(
    folder: Path, arguments: list[str], code: int, said: str
) -> None:
    done = RUN.invoke(app, ["init", *arguments])
    assert done.exit_code == code, done.output
    assert said in done.stderr and "Traceback" not in done.output
    assert not any((folder / file).exists() for file in FILES)


def test_placeholders_are_told_and_refused_where_they_are_asked_for_by_name(folder: Path) -> None:
    init("nets.py:small", "--input", "1x3x8x8")
    refused = RUN.invoke(app, ["plan", "--config", "edgeopt.toml", "--max-drop", "0.1"])
    assert refused.exit_code == 2 and "placeholder" in refused.stderr
    with pytest.raises(EvaluationError, match="placeholder"):
        load_evaluate("edgeopt_model.py:evaluate")
    with pytest.raises(CalibrationError, match="placeholder"):
        load_model("edgeopt_model.py:model", inputs=(parse_input("1x3x8x8"),), calibration="edgeopt_model.py:batches")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["several inputs", "by keyword", "a .pt2", "an odd path"])
def test_the_printed_commands_run_as_they_are(folder: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell takes each line apart; what it would start with these words runs here, where conversions start sooner."""
    reference, specs = CASES[case]
    environment = shells.install(tmp_path / "home")
    Path(environment["HOME"], "edgeopt").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", environment["HOME"])
    said = RUN.invoke(app, ["init", reference, *inputs(specs)], catch_exceptions=False).stdout
    commands = re.findall(r"^    (edgeopt .*)", said, re.MULTILINE)
    assert [line.split()[1] for line in commands] == ["export", "bench"]
    commands[1] += " --launches 1 --runs 10 --seconds 0.1 --max-seconds 1"  # else it measures for minutes
    for line in commands:
        split = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=True)
        done = RUN.invoke(app, split.stdout.split("\0")[:-1])
        assert done.exit_code == 0, done.output
        assert "UNCALIBRATED" in done.stdout
        assert "export" not in line or "warning: no calibration" in done.stderr
