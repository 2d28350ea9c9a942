"""Whole modules in files: they come back, and a file cannot run what the user's own model does not consist of."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.errors import ModelError, ReferenceNotFound


class Net(nn.Module):
    """A bit of everything that a module holds: layers, a function, plain settings."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.activation = torch.nn.functional.gelu
        self.settings = {"axes": (2, 3), "cut": slice(0, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.rnn(self.body(x).mean(self.settings["axes"])[:, None])[0])


class Runs:
    """Unpickled, it would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("broken-into",)


def test_a_module_comes_back_as_it_was(tmp_path: Path) -> None:
    net = Net().eval()
    store.save(net, tmp_path / "net.pt")
    again = store.load(tmp_path / "net.pt", like=Net())
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(image), net(image))
    assert not again.training


def test_a_smaller_one_than_the_original_comes_back_too(tmp_path: Path) -> None:
    net = Net()
    net.body[0] = nn.Conv2d(1, 2, 3)
    net.body[1] = nn.BatchNorm2d(2)
    net.rnn = nn.LSTM(2, 4, batch_first=True)
    net.extra = nn.Linear(3, 3)  # a layer of torch that the original does not have
    store.save(net, tmp_path / "net.pt")
    assert store.load(tmp_path / "net.pt", like=Net()).body[0].out_channels == 2


def test_a_file_that_names_something_else_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net()
    net.trap = Runs()  # type: ignore[assignment]
    torch.save(net, "net.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        store.load(Path("net.pt"), like=Net())
    assert not Path("broken-into").exists()


def test_functions_of_torch_are_not_a_way_in(tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.hub.load_state_dict_from_url, ("http://127.0.0.1:9/",)

    torch.save(Calls(), tmp_path / "net.pt")
    with pytest.raises(ModelError):
        store.load(tmp_path / "net.pt", like=Net())


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ModelError, match=r"net\.pt cannot be read"):
        store.load(tmp_path / "net.pt", like=Net())
    with pytest.raises(ReferenceNotFound, match="no file"):
        store.load(tmp_path / "none.pt", like=Net())


def test_what_cannot_be_saved_says_what_to_do(tmp_path: Path) -> None:
    net = Net()
    net.activation = lambda x: x
    with pytest.raises(ModelError, match="lambdas"):
        store.save(net, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()


def test_a_module_of_before_its_layers_moved_comes_back() -> None:
    """golden/module-0.1.0.pt was saved when they were in compress/structure, stages and families."""
    found = store.load(Path(__file__).parent / "golden" / "module-0.1.0.pt", like=nn.ModuleDict())
    kinds = {name: f"{type(one).__module__}.{type(one).__name__}" for name, one in found.items()}
    assert kinds == {
        "attention": "edgeopt.compress.common.attention.SlimAttention",
        "exits": "edgeopt.compress.early_exit.exits.EarlyExits",
        "mean": "edgeopt.compress.early_exit.chain.TokenMean",
        "first": "edgeopt.compress.early_exit.chain.FirstToken",
        "resized": "edgeopt.compress.search.family.Resized",
    }
    assert found["exits"](torch.ones(1, 4)).shape == (1, 2)
    assert found["attention"](*[torch.ones(1, 3, 4)] * 3)[0].shape == (1, 3, 4)
