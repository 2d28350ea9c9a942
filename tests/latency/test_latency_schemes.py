"""Layers that are measured are those of the target's artifacts: of the scheme that it ends with, in the format that it has."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeopt.bench.artifacts import Runnable
from edgeopt.cli.app import app
from edgeopt.core import Format
from edgeopt.errors import RunFailed
from edgeopt.latency.modules import _artifact
from edgeopt.model.model import Model
from edgeopt.pipeline.hosts import preload
from edgeopt.targets import loader
from edgeopt.worker.client import WorkerHost
from tests.cli.test_app import RUN

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of torch, torchao and coremltools
ROOT = Path(__file__).parents[2]
INTEGER = '[[schemes]]\nactivation = "int8"\nweight = "int8"\nsymmetric = true\n\n[[schemes]]'


def lowered(profile: Path | str, form: Format, module: nn.Module, example: torch.Tensor, folder: Path) -> Runnable:
    with WorkerHost(preload([form])) as host:
        return _artifact(Model(module.eval(), example), loader.load(str(profile)), form, folder, host, inside=True)


def test_a_layer_that_falls_back_is_of_the_scheme_it_fell_back_to(tmp_path: Path) -> None:
    """Not of the first, which was refused: with float16 weights the file has half the bytes."""
    text = (ROOT / "targets" / "android-litert-gpu.toml").read_text()
    assert text.count("[[schemes]]") == 1
    path = tmp_path / "two-schemes.toml"
    path.write_text(text.replace("[[schemes]]", INTEGER).replace('"android-litert-gpu"', '"two-schemes"'))
    module = nn.Linear(64, 64)
    found = lowered(path, "tflite", module, torch.rand(1, 64), tmp_path)
    assert found.subject.bytes < 64 * 64 * 4 * 0.75


def test_a_layer_with_nothing_to_quantize_is_lowered_in_a_format_that_no_twin_has(tmp_path: Path) -> None:
    text = (ROOT / "targets" / "apple-ane.toml").read_text()
    integer, _, rest = text.partition('[[schemes]]\nactivation = "float16"\nweight = "float16"\n')
    assert rest
    path = tmp_path / "integers-only.toml"
    path.write_text((integer + rest).replace('"apple-ane"', '"integers-only"'))
    found = lowered(path, "coreml", nn.AdaptiveAvgPool2d(1), torch.rand(1, 3, 8, 8), tmp_path)
    assert (found.subject.format, found.path.suffix) == ("coreml", ".mlpackage")
    assert found.path.exists()


def test_layers_for_a_runtime_that_is_not_here_are_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text(f'[local]\nurl = "local"\nroot = "{tmp_path}/local"\n')
    (tmp_path / "net.py").write_text(
        "import edgeopt, torch\nmodel = edgeopt.Model(torch.nn.AdaptiveAvgPool2d(1).eval(), (torch.rand(1, 3, 8, 8),))\n"
    )
    done = RUN.invoke(app, ["bench", "net.py:model", "--layers", "table.json", "--target", "apple-ane"])
    assert done.exit_code == RunFailed.exit_code, done.output
    assert "Core ML runs on macOS only" in done.output
