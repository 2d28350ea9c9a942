"""What coremltools' patched functions give is what its own give."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeopt.support.patches import in_place

pytestmark = pytest.mark.filterwarnings("default")
ct = pytest.importorskip("coremltools")

from coremltools.converters.mil.mil import types  # noqa: E402

from edgeopt.support.patches.coremltools_graphs import PATCHES  # noqa: E402


def converted() -> Any:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4), nn.Softmax(-1)).eval()
    program = torch.export.export(network, (torch.randn(1, 3, 8, 8),), strict=False).run_decompositions({})
    return ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True)


def operations(model: Any) -> Iterator[Any]:
    for function in model._mil_program.functions.values():
        yield from function.operations


def contents(model: Any, folder: Path) -> dict[str, bytes]:
    model.save(str(folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "Manifest.json")  # it holds new UUIDs
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_package_is_the_same_to_the_byte(tmp_path: Path) -> None:
    own = contents(converted(), tmp_path / "own.mlpackage")
    with in_place(PATCHES):
        assert contents(converted(), tmp_path / "patched.mlpackage") == own


def test_each_value_has_the_same_values_upstream_that_may_not_be_replaced() -> None:
    from coremltools.converters.mil import Builder as mb  # noqa: N813  its usual name

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 4))], opset_version=ct.target.iOS16)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        import numpy as np

        weight = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((3, 4), np.int8), zero_point=np.int8(0), scale=np.float32(0.5), axis=0
        )
        both = mb.concat(values=(mb.linear(x=x, weight=weight), x), axis=1)
        return mb.reshape(x=both, shape=mb.shape(x=both))

    (block,) = program.functions.values()

    def upstream() -> list[set[str]]:
        block._propagate_nonreplaceable_vars()
        return [{var.name for var in out.nonreplaceable_vars_upstream} for op in block.operations for out in op.outputs]

    def inputs() -> list[list[str]]:
        return [[var.name for var in op.get_flattened_inputs()] for op in block.operations]

    own = upstream(), inputs()
    with in_place(PATCHES):
        assert (upstream(), inputs()) == own
    assert any(own[0]) and any(len(names) > 2 for names in own[1])


def test_what_is_a_tensor_is_told_alike() -> None:
    kinds = [None, 3, types.fp32, types.str, types.tensor(types.fp32, (1, 2)), types.list(types.int32), int]
    own = [types.is_tensor(kind) for kind in kinds]
    with in_place(PATCHES):
        assert [types.is_tensor(kind) for kind in [*kinds, *kinds]] == [*own, *own]
    assert own.count(True) == 1
