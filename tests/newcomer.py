"""Somebody who has installed edgeopt and has no checkout of it: a folder with their own models, and the README's commands."""

import os
import re
import shlex
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from edgeopt.targets import loader
from tests.environments import ROOT

SECTIONS = ("Use it", "Make it smaller first", "On devices")
EXAMPLES = ROOT / "examples"
EXTRAS = ("", "torch", "onnx", "tflite", "coreml", "compress", "devices")
"""None, and each extra alone."""
WITH_TORCH = {"torch", "onnx", "tflite", "coreml", "compress"}
FORMATS = {"onnx", "tflite", "coreml"}
QUICK = ("--launches", "1", "--seconds", "0.1", "--max-seconds", "1")

NET = '''
import numpy as np
import torch
from torch import nn

import edgeopt

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, width=96):
        super().__init__()
        sizes = ((3, 8, 4), (8, width, 2), (width, width, 2))
        layers = [layer for a, b, stride in sizes for layer in (nn.Conv2d(a, b, 3, stride, 1), nn.ReLU())]
        self.features, self.head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), nn.Linear(width, 4)

    def forward(self, image):
        return self.head(self.features(image).flatten(1))


net = Net().eval()
example = torch.randn(1, 3, 224, 224)
images = torch.randn(4, 1, 3, 224, 224)
outputs = [net(image).detach().numpy() for image in images]


def evaluate(predict):
    """1 less the share of the outputs' energy that an artifact gets wrong."""
    errors = [float(np.square(predict(x.numpy())[0] - y).sum() / np.square(y).sum()) for x, y in zip(images, outputs)]
    return {"score": 1 - float(np.mean(errors))}


def calibration():
    return ((image,) for image in images)


def build():
    return net


def student():
    return Net(48)


def train_step(module, batch):
    return nn.functional.mse_loss(module(batch[0]), batch[1])


def fit(module, epochs):
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in zip(images, map(torch.from_numpy, outputs)):
            optimizer.zero_grad()
            train_step(module, batch).backward()
            optimizer.step()


def model():
    return edgeopt.Model(net, (example,), calibration=calibration, evaluate=evaluate)
'''
"""A network for every model that the README names, with all that it calls."""
TRAINING = "def batches():\n    return zip(images, map(torch.from_numpy, outputs))\n"
CALIBRATION = "def batches():\n    return calibration()\n"


def environment(bin_folder: Path, folder: Path) -> dict[str, str]:
    """The variables of somebody whose home is in ``folder`` and who has what is in ``bin_folder``, and nothing else."""
    own = {"HOME": folder / "home", "EDGEOPT_CACHE": folder / "cache", "XDG_CONFIG_HOME": folder / "config"}
    (folder / "home").mkdir(exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG", "EDGEOPT", "PIP"))},
        **{name: str(path) for name, path in own.items()},
        "PATH": f"{bin_folder}:/usr/bin:/bin",
        "ANDROID_ADB_SERVER_PORT": "1",
        "OMP_NUM_THREADS": "1",
    }


def settle(folder: Path) -> None:
    """The newcomer's files in ``folder``, under the names that the README has for them; settings are the examples' own."""
    files = {"examples/mobilenet_v2.py": NET, "examples/digits.py": NET, "my_pkg/models.py": NET, "my_pkg/net.py": NET}
    files |= {"my_pkg/__init__.py": "", "examples/fashion_mnist.py": NET + TRAINING, "data.py": NET + CALIBRATION}
    files |= {f"examples/{path.name}": path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.toml")}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def section(title: str) -> str:
    """The text of one of the README's sections."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def commands(title: str) -> list[list[str]]:
    """The arguments of every ``edgeopt`` command in the blocks of a section, in their order."""
    text = section(title).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("    edgeopt ")]


def python_block(title: str) -> str:
    """The section's Python that can be run: the block that imports edgeopt."""
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", section(title), re.DOTALL) if "import edgeopt" in block)
    return str(found)


def values(arguments: Sequence[str], option: str) -> list[str]:
    """What is given for ``option``, which may be repeated."""
    return [value for name, value in pairwise(arguments) if name == option]


def lacking(arguments: Sequence[str], extra: str, folder: Path) -> set[str]:
    """The extras that a command needs beside ``extra``; where one of several would do, all of these."""
    if extra == "all":
        return set()
    have = {extra} | ({"torch"} if extra in WITH_TORCH else set())
    command = arguments[0]
    if command in ("bench", "devices"):
        return {"devices"} - have
    if command in ("plan", "blame") or (command == "init" and "torch" not in have):  # which looks at the model first
        return {"torch"} - have
    if command == "advise" or (command == "compress" and extra != "compress"):
        return {"compress"} - have
    if command not in ("compress", "export", "init"):
        return set()
    targets = _targets(arguments, folder)
    if targets:
        return {fmt for name in targets if not have & (formats := set(loader.load(name).formats)) for fmt in formats}
    return set() if have & FORMATS else FORMATS


def _targets(arguments: Sequence[str], folder: Path) -> list[str]:
    """The targets that are named on the command line, or in the file that it names."""
    for option in ("--config", "--recipe"):
        for name in values(arguments, option):
            settings = tomllib.loads((folder / name).read_text(encoding="utf-8"))
            return list(settings.get("targets", [settings["target"]] if "target" in settings else []))
    return values(arguments, "--target") if arguments[0] == "export" else []
