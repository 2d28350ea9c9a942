"""A .pt2 file is read without running what may hide in it: whoever wrote it."""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.model.program_file import read_program

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, on what it reads


class Net(nn.Module):
    """With a parameter, a buffer and a plain tensor, which an archive keeps in three places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.plain = nn.Linear(4, 2), torch.ones(2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.layer(x) + self.shift, self.plain.expand(x.shape[0], 2)], 1)


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """Of an archive with a size that varies."""
    program = torch.export.export(Net().eval(), (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim("b", max=8)},))
    saved = io.BytesIO()
    torch.export.save(program, saved, extra_files={"names.json": "[]"})
    with zipfile.ZipFile(saved) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def edited(members: dict[str, bytes], change: Callable[[Any], None]) -> dict[str, bytes]:
    (name,) = (name for name in members if name.endswith("models/model.json"))
    graph = json.loads(members[name])
    change(graph)
    return members | {name: json.dumps(graph).encode()}


def test_an_archive_is_read_with_its_extra_files_and_sizes_that_vary(members: dict[str, bytes], tmp_path: Path) -> None:
    extra = {"names.json": ""}
    program = read_program(write(tmp_path / "net.pt2", members), extra)
    assert extra["names.json"] == "[]" and program.module()(torch.randn(7, 4)).shape == (7, 4)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {mark}')+1", "open('{mark}', 'w')", "(lambda: 1)()", "s0.__class__", "sympify('1')",
        "Symbol('x', **{{}})", "[s0 for s0 in (1,)]", "9**9**9", "Pow(9, Pow(9, 9))", "2<<(2<<99)", "eval('1')", "f'{{1}}'",
        "(" * 500,
    ],
)  # fmt: skip
def test_a_size_is_arithmetic_or_the_file_is_refused(text: str, members: dict[str, bytes], tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def change(graph: Any) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        values[next(iter(values))]["sizes"][0] = {"as_expr": {"expr_str": text.format(mark=mark), "hint": {"as_int": 1}}}

    with pytest.raises(ModelError, match="no arithmetic"):
        read_program(write(tmp_path / "net.pt2", edited(members, change)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system", "torch.ops.aten.from_file.default", "torch.ops.load_library", "torch.hub.load", "#any",
        "_operator.methodcaller", "_operator.attrgetter", "torch.ops.higher_order.call_torchbind",
        "torch.ops.debugprims.load_tensor.default",
    ],
)  # fmt: skip
def test_an_operator_is_one_of_a_known_library(target: str, members: dict[str, bytes], tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(ModelError, match="does not know as an operator"):
        read_program(write(tmp_path / "net.pt2", edited(members, change)))


class Runs:
    """A pickle of it creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_in_the_sample_inputs_does_not_run(members: dict[str, bytes], tmp_path: Path) -> None:
    mark, pickled = tmp_path / "ran", io.BytesIO()
    torch.save(((Runs(mark),), {}), pickled)
    (name,) = (name for name in members if "sample_inputs" in name)
    with pytest.raises(ModelError):
        read_program(write(tmp_path / "net.pt2", members | {name: pickled.getvalue()}))
    assert not mark.exists()


def test_weights_that_are_marked_as_pickled_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    (name,) = (name for name in members if name.endswith("model_weights_config.json"))
    config = json.loads(members[name])
    for entry in config["config"].values():
        entry["use_pickle"] = True
    with pytest.raises(ModelError, match="pickled"):
        read_program(write(tmp_path / "net.pt2", members | {name: json.dumps(config).encode()}))


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/kernel.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "models/other.json",
        "x",
    ],
)
def test_a_member_that_torch_gives_no_tensors_to_is_refused(member: str, members: dict[str, bytes], tmp_path: Path) -> None:
    root = next(iter(members)).partition("/")[0]
    with pytest.raises(ModelError, match="does not read"):
        read_program(write(tmp_path / "net.pt2", members | {f"{root}/{member}": b"anything"}))


@pytest.mark.parametrize(
    "context", ['{"default_factory_module": "antigravity"}', '[{"__enum__": true, "fqn": "antigravity:x"}]']
)
def test_a_tree_of_arguments_imports_nothing(context: str, members: dict[str, bytes], tmp_path: Path) -> None:
    tree = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])

    def change(graph: Any) -> None:
        graph["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = tree

    with pytest.raises(ModelError, match="imported"):
        read_program(write(tmp_path / "net.pt2", edited(members, change)))


def test_a_name_of_a_size_does_not_count_to_a_hundred_thousand_million(members: dict[str, bytes], tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        graph["range_constraints"]["u99999999999"] = {"min_val": 0, "max_val": 3}

    with pytest.raises(ModelError, match="names sizes"):
        read_program(write(tmp_path / "net.pt2", edited(members, change)))


def test_an_input_that_no_memory_holds_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"] = [{"as_int": 10**10}, {"as_int": 4}]

    with pytest.raises(ModelError):
        read_program(write(tmp_path / "net.pt2", edited(members, change)))


def test_a_compressed_archive_and_one_with_two_members_of_a_name_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="compressed"):
        read_program(write(tmp_path / "net.pt2", members, zipfile.ZIP_DEFLATED))
    path = write(tmp_path / "twice.pt2", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(next(iter(members)), b"other")
    with pytest.raises(ModelError, match="does not read"):
        read_program(path)


def test_python_that_guards_a_graph_is_left_out(members: dict[str, bytes], tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def change(graph: Any) -> None:
        graph["guards_code"] = [f"__import__('os').mkdir({str(mark)!r}) or True"]

    program = read_program(write(tmp_path / "net.pt2", edited(members, change)))
    assert program.module()(torch.randn(2, 4)).shape == (2, 4) and not mark.exists()


def test_what_torch_refuses_is_told_in_its_words_and_nowhere_else(
    members: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = next(iter(members)).partition("/")[0]
    path = write(tmp_path / "net.pt2", members | {f"{root}/extra/{'a' * 3000}": b"anything"})
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        read_program(path)
    assert "failed locating file" in caught.value.why and "warnings above" not in caught.value.why
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(40))
def test_a_broken_archive_is_an_error_of_edgeopt_s_or_is_read(seed: int, members: dict[str, bytes], tmp_path: Path) -> None:
    drawn = random.Random(seed)
    name = drawn.choice([name for name in members if name.endswith((".json", "model.pt", "_version"))])
    content = bytearray(members[name])
    for _ in range(drawn.randint(1, 4)):
        place = drawn.randrange(len(content) + 1)
        content[place : place + drawn.randint(0, 3)] = drawn.choice(
            [b"", b"0", b'"', b"null", b"-", b"9" * 30, bytes([drawn.randrange(256)])]
        )
    try:
        read_program(write(tmp_path / "net.pt2", members | {name: bytes(content)}))
    except EdgeoptError as error:
        assert error.fix or error.why
