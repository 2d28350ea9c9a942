"""``edgeopt blame`` from the command line: what it prints and writes, and how it ends."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from edgeopt.cli.app import app
from edgeopt.core import from_json
from edgeopt.diagnosis.findings import Blame

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
RUN = CliRunner()

NET = """
import torch
from torch import nn
import edgeopt

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("reached", (torch.arange(16) != 3).float())
        with torch.no_grad():
            self.layers[2].weight[:, 3] = 20.0

    def forward(self, x):
        for layer in self.layers:
            x = layer(x * self.reached).relu()
        return x

def batches():
    torch.manual_seed(1)
    for _ in range(30):
        yield (torch.randn(4, 16),)

def model():
    torch.manual_seed(0)
    return edgeopt.Model(Net().eval(), (torch.randn(4, 16),), name="net")
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path}/net.py"


def test_the_table_the_json_and_the_picture_say_the_same(net: str, tmp_path: Path) -> None:
    written = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.svg")]
    done = RUN.invoke(app, ["blame", f"{net}:model", "--target", "x86-fbgemm", "--calibration", f"{net}:batches", *written])
    assert done.exit_code == 0, done.output
    assert "layers.2" in done.output.partition("What is known of the worst")[2].splitlines()[1]
    found = from_json(Blame, (tmp_path / "found.json").read_bytes())
    assert found.layers[0].layer == "layers.2" and found.schema_version == 1
    ElementTree.parse(tmp_path / "found.svg")
    assert (tmp_path / "found.svg").stat().st_size > 5000


def test_json_on_standard_output_is_nothing_but_json(net: str) -> None:
    done = RUN.invoke(app, ["blame", f"{net}:model", "--target", "arm-xnnpack", "--json", "-", "--time", "30s"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["calibrated"] is False and found["layers"][0]["layer"] == "layers.2"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{net}:model", "--target", "x86-fbgem"], 4, "x86-fbgemm"),
        (["{net}:model", "--target", "portable-fp32"], 35, "nothing is computed in 8 bits"),
        (["{net}:modle", "--target", "x86-fbgemm"], 11, "modle"),
        (["{net}:model", "--target", "x86-fbgemm", "--time", "soon"], 2, "is not a time"),
        (["{net}:model", "--target", "x86-fbgemm", "--json", "/no/such/folder/x.json"], 2, "there is no folder"),
        (["{net}:model"], 2, "--target"),
        (["--target", "x86-fbgemm"], 2, "no model is given"),
    ],
)
def test_what_cannot_be_ends_with_its_own_exit_code(net: str, arguments: list[str], code: int, said: str) -> None:
    done = RUN.invoke(app, ["blame", *(argument.replace("{net}", net) for argument in arguments)])
    assert (done.exit_code, said in done.output) == (code, True), done.output
