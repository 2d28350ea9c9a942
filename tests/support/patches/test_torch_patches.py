"""What torch's patched functions give is what its own give."""

import io
import json
import zipfile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._export.serde import schema, serialize
from torch.fx.traceback import NodeSource, NodeSourceAction

from edgeopt.support.patches import in_place, torch_archives, torch_provenance


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x).relu().mean((2, 3)) * scale
        return self.linear(y), torch.topk(y, 2).values


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Network().eval(), (torch.randn(1, 3, 8, 8), torch.ones(1)), strict=False)


def written(program: torch.export.ExportedProgram) -> bytes:
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


def test_an_archive_is_the_same_to_the_byte(program: torch.export.ExportedProgram) -> None:
    own = written(program)
    with in_place(torch_archives.PATCHES):
        assert written(program) == own


def test_a_program_is_read_as_torch_reads_it(program: torch.export.ExportedProgram) -> None:
    with zipfile.ZipFile(io.BytesIO(written(program))) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        content = archive.read(name)
    own = serialize._bytes_to_dataclass(schema.ExportedProgram, content)
    with in_place(torch_archives.PATCHES):
        read = serialize._bytes_to_dataclass(schema.ExportedProgram, content)
        again = serialize._to_json_bytes(read)
    assert repr(read) == repr(own) and again == serialize._to_json_bytes(own)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("NoSuchClass", {}),
        (schema.Argument, {"as_int": 1, "as_bool": True}),
        (schema.Argument, [1]),
        (schema.Argument, {"as_nothing": 1}),
        (schema.Argument, {1: 1}),
        (schema.TensorMeta, {"dtype": 7}),
    ],
)
def test_what_torch_refuses_is_refused_alike(kind: Any, data: Any) -> None:
    with pytest.raises(Exception) as own:
        serialize._dict_to_dataclass(kind, data)
    with in_place(torch_archives.PATCHES), pytest.raises(type(own.value)) as other:
        serialize._dict_to_dataclass(kind, data)
    assert str(other.value) == str(own.value)


def test_the_canonical_form_that_torch_tests_is_the_same(program: torch.export.ExportedProgram) -> None:
    made = serialize.ExportedProgramSerializer().serialize(program).exported_program
    before = repr(made)
    own = serialize.canonicalize(made)
    with in_place(torch_archives.PATCHES):
        other = serialize.canonicalize(made)
    assert repr(other) == repr(own) and repr(made) == before


def history(graph: torch.fx.Graph) -> list[dict[str, Any]]:
    sources = []
    for node in graph.nodes:
        node.meta["from_node"] = [NodeSource(node, "first", NodeSourceAction.CREATE)]
        second = NodeSource(node, "second", [NodeSourceAction.REPLACE])
        assert second.from_node is not node.meta["from_node"], "the list may grow"
        sources.append(second.to_dict())
        del node.meta["from_node"]
    return sources


def test_where_a_node_came_from_is_told_as_torch_tells_it() -> None:
    graph = torch.fx.symbolic_trace(nn.ReLU()).graph
    own = history(graph)
    with in_place(torch_provenance.PATCHES):
        other = history(graph)
        nothing = NodeSource(None, "made", NodeSourceAction.CREATE).to_dict()
    assert json.dumps(other) == json.dumps(own)
    assert nothing == NodeSource(None, "made", NodeSourceAction.CREATE).to_dict()
