"""What a .pt2 file says there is must be there, and be of a size that something has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt.errors import ModelError
from edgeopt.model.program_file import read_program
from edgeopt.model.program_sizes import MOST_BRACKETS, MOST_MEMBERS
from tests.model.test_program_file import edited, members, write

__all__ = ["members"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, on what it reads


def config_of(members: dict[str, bytes], kind: str) -> str:
    (name,) = (name for name in members if name.endswith(f"model_{kind}_config.json"))
    return name


@pytest.mark.parametrize("length", [0, 1, 4, 16, 28, 31])
def test_a_weight_with_fewer_bytes_than_its_sizes_take_is_refused(
    length: int, members: dict[str, bytes], tmp_path: Path
) -> None:
    (name,) = (name for name in members if name.endswith("/weight_0"))
    assert len(members[name]) == 32
    with pytest.raises(ModelError, match="not what it is said to be") as caught:
        read_program(write(tmp_path / "net.pt2", members | {name: members[name][:length]}))
    assert "layer.weight" in caught.value.why and "take 32" in caught.value.why


@pytest.mark.parametrize("kind", ["weights", "constants"])
@pytest.mark.parametrize(
    "change",
    [
        {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 1}]},
        {"sizes": [{"as_int": 10**6}, {"as_int": 10**5}], "strides": [{"as_int": 0}, {"as_int": 0}]},
        {"sizes": [{"as_int": -2}], "strides": [{"as_int": 1}]},
        {"sizes": [{"as_int": 2}], "strides": [{"as_int": 1}, {"as_int": 1}]},
        {"sizes": [{"as_int": 1}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 1000}},
        {"sizes": [{"as_expr": {"expr_str": "s0"}}], "strides": [{"as_int": 1}]},
        {"dtype": 11},
        {"device": {"type": "meta", "index": None}},
        {"layout": 1},
    ],
)
def test_a_tensor_that_its_record_does_not_hold_is_refused(
    change: dict[str, Any], kind: str, members: dict[str, bytes], tmp_path: Path
) -> None:
    name = config_of(members, kind)
    config = json.loads(members[name])
    for payload in config["config"].values():
        payload["tensor_meta"] |= change
    with pytest.raises(ModelError, match="not what it is said to be"):
        read_program(write(tmp_path / "net.pt2", members | {name: json.dumps(config).encode()}))


def test_a_part_of_a_larger_storage_and_a_tensor_that_repeats_one_number_are_read(tmp_path: Path) -> None:
    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("column", torch.arange(12.0).view(3, 4)[:, 1])
            self.register_buffer("ones", torch.ones(1).expand(3))
            self.register_buffer("none", torch.ones(0, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.column + self.ones + self.none.sum()

    torch.export.save(torch.export.export(Views(), (torch.ones(3),)), tmp_path / "views.pt2")
    (found,) = (read_program(tmp_path / "views.pt2").module()(torch.ones(3)),)
    assert found.tolist() == [2.0, 6.0, 10.0]


def _value(graph: Any) -> None:
    values = graph["tensor_values"]
    values[next(reversed(values))]["sizes"] = [{"as_int": 10**5}, {"as_int": 10**5}]


def _expanded(graph: Any) -> None:
    (node,) = (node for node in graph["nodes"] if "expand" in node["target"])
    node["inputs"][1]["arg"] = {"as_ints": [10**5, 10**5]}


def _range(graph: Any) -> None:
    node = graph["nodes"][0]
    node["target"] = "torch.ops.aten.arange.default"
    node["inputs"] = [{"name": "end", "arg": {"as_int": 10**11}, "kind": 1}]


@pytest.mark.parametrize("change", [_value, _expanded, _range])
def test_a_tensor_that_no_memory_holds_is_refused_before_it_is_made(
    change: Callable[[Any], None], members: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="too large"):
        read_program(write(tmp_path / "net.pt2", edited(members, lambda graph: change(graph["graph_module"]["graph"]))))


def test_more_json_or_members_than_a_graph_can_need_are_refused_at_once(members: dict[str, bytes], tmp_path: Path) -> None:
    (name,) = (name for name in members if name.endswith("models/model.json"))
    many = b'{"a": [' + b",".join([b"[]"] * MOST_BRACKETS) + b"]}"
    with pytest.raises(ModelError, match="says more than edgeopt reads"):
        read_program(write(tmp_path / "net.pt2", members | {name: many}))
    root = name.split("/")[0]
    more = {f"{root}/extra/{number}": b"" for number in range(MOST_MEMBERS)}
    with pytest.raises(ModelError, match="holds more than edgeopt reads"):
        read_program(write(tmp_path / "net.pt2", members | more))


@pytest.mark.parametrize("config", [{"config": []}, {"config": {"a": None}}, {"config": {"a": {"tensor_meta": {"sizes": 3}}}}])
def test_a_list_of_weights_of_another_form_is_a_broken_archive(config: Any, members: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_program(write(tmp_path / "net.pt2", members | {config_of(members, "weights"): json.dumps(config).encode()}))
