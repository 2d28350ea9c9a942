"""An axis that the user's program leaves open gets the example's size, and that is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import edgeopt
from edgeopt.capture.dynamic_shapes import fixed_axes, warnings
from edgeopt.model.references import load_model
from edgeopt.model.signature import Signature, call_arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.export


class Product(nn.Module):
    def forward(self, a: Tensor, b: dict[str, Tensor]) -> Tensor:
        return torch.relu(a) @ b["w"].transpose(0, 1)


INPUTS = {"a": torch.ones(4, 3), "b": {"w": torch.ones(5, 3)}}


def program(*axes: Any) -> torch.export.ExportedProgram:
    a, w = axes
    return torch.export.export(Product(), (), kwargs=INPUTS, dynamic_shapes={"a": a, "b": {"w": w}})


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ((None, None), []),
        (({0: Dim("n", min=1, max=16)}, None), [("axis 0 of a is 4", "takes 1 to 16")]),
        (({0: Dim.AUTO}, {0: Dim("m", min=2, max=9)}), [("axis 0 of a is 4", "other sizes"), ("axis 0 of b_w is 5", "2 to 9")]),
        (({0: Dim("n")}, {0: 2 * Dim("k") + 1}), [("axis 0 of a is 4", "other sizes"), ("axis 0 of b_w is 5", "other sizes")]),
    ],
)
def test_every_open_axis_is_named_with_what_the_program_takes(axes: Any, said: list[tuple[str, str]], tmp_path: Path) -> None:
    torch.export.save(program(*axes), tmp_path / "program.pt2")
    for model in (edgeopt.Model(program(*axes), INPUTS), load_model(str(tmp_path / "program.pt2"))):
        assert isinstance(model.module, torch.export.ExportedProgram)
        args, kwargs = call_arguments(model.example_inputs)
        assert (args, set(kwargs)) == ((), {"a", "b"})
        found = list(fixed_axes(model.module, Signature.of(Product.forward, model.example_inputs)[0]))
        assert [one.choice for one in found] == [choice for choice, _ in said]
        assert all(reason in one.reason for one, (_, reason) in zip(found, said, strict=True))
        assert len(warnings(found)) == len(said)


@pytest.mark.slow
def test_a_dynamic_batch_made_static_is_a_decision_and_a_warning_of_every_artifact(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    batch = ({0: Dim("batch", min=1, max=16)},)
    exported = torch.export.export(net, (torch.randn(2, 3, 16, 16),), dynamic_shapes=batch)
    for result in edgeopt.export(exported, targets=["portable-fp32"], out=tmp_path / "out", use_cache=False).manifest.results:
        assert result.status == "ok"
        assert result.artifact is not None
        assert result.plan is not None
        assert result.artifact.inputs[0].shape == (2, 3, 16, 16)
        (decision,) = [one for one in result.plan.decisions if one.subject == "dynamic shape"]
        assert decision.choice == "axis 0 of input is 2"
        assert any("axis 0 of input is 2: the program takes 1 to 16" in warning for warning in result.warnings)
