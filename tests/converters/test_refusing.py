"""Refusals name the operator, its layer and the user's line, also where the converter names nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.converters.tflite import forms
from edgeopt.core import to_data
from edgeopt.errors import ConversionError
from edgeopt.pipeline import tasks
from edgeopt.pipeline.requests import CheckRequest, ConvertRequest
from edgeopt.targets.loader import load
from edgeopt.verify.reference_outputs import ReferenceOutputs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the converters


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.fold(x, (6, 6), 2, stride=2)  # what LiteRT refuses


class Outer(nn.Module):
    """Something of everything around what is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner = nn.Conv1d(8, 8, 3, padding=1), Inner()

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        y = self.inner(torch.relu(self.before(x)) + x.mean())
        return y.flatten(1)[:, :3] * 2, torch.bitwise_and(ids, 3)


def reasons(module: nn.Module, example: tuple[Tensor, ...], target: str, folder: Path) -> list[str]:
    bundle = edgeopt.export(edgeopt.Model(module, example), targets=[target], out=folder / "out", jobs=1, use_cache=False)
    return [result.reason for result in bundle.manifest.results if result.target == target]


def test_what_litert_does_not_run_is_named(tmp_path: Path) -> None:
    example = (torch.randn(1, 8, 9), torch.ones(1, 3, dtype=torch.int64))
    said = "\n".join(reasons(Outer(), example, "portable-fp32", tmp_path))
    operator = "aten.col2im.default of layer inner" if "col2im" in said else "aten.bitwise_and.Scalar"
    assert f"refused the operator {operator}, at {__file__}, line" in said


def test_a_file_that_litert_does_not_take_is_named(tmp_path: Path) -> None:
    said = "\n".join(reasons(Inner(), (torch.randn(1, 8, 9),), "portable-fp32", tmp_path))
    assert f"LiteRT refused the operator aten.col2im.default, at {__file__}, line" in said


def test_what_core_ml_does_not_name_is_named(tmp_path: Path) -> None:
    class Grid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.affine_grid(x * 2, [1, 3, 5, 5], align_corners=False)

    (said,) = reasons(Grid(), (torch.randn(1, 2, 3),), "apple-ane-fp16", tmp_path)
    assert f"Core ML refused the operator aten.affine_grid_generator.default, at {__file__}, line" in said


def test_what_a_runtime_cannot_compute_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT takes a file with two axes turned round that do not follow each other, and fails when it computes it."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1).flip(1, 3)

    program = torch.export.export(Turned(), (torch.randn(1, 2, 3, 4),), strict=False)
    torch.export.save(program, tmp_path / "program.pt2")
    monkeypatch.setattr(forms, "rewritten", lambda program: program)
    profile, x, out = load("portable-fp32"), np.ones((1, 2, 3, 4), np.float32), tmp_path / "model.tflite"
    references = ReferenceOutputs(("y",), [(x,)], [((x + 1)[:, ::-1, :, ::-1],)])
    references.write(tmp_path / "references.npz")
    convert = ConvertRequest(
        format="tflite", profile=profile, program=tmp_path / "program.pt2", out=out, io_float=False, output_names=("y",)
    )
    check = CheckRequest(
        format="tflite", profile=profile, program=tmp_path / "program.pt2", out=out,
        references=tmp_path / "references.npz", quantized=False, exact=True, real=True,
            held_out=True, further_s=1.0,
    )  # fmt: skip
    tasks.convert(to_data(convert))
    with pytest.raises(ConversionError, match=r"the runtime refused the operator aten\.flip\.default") as caught:
        tasks.check(to_data(check))
    assert "Non-contiguous" in caught.value.why
