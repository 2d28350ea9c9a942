"""A rewriting that changes what is computed is found, in any output and channel, and named; one that only rounds is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture, rewriting
from edgeopt.capture.equivalence import Case, Reference
from edgeopt.capture.graph_tensors import set_tensor, tensor_at
from edgeopt.capture.witness import Witness
from edgeopt.errors import CaptureError
from edgeopt.model.model import Model

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Detector(nn.Module):
    """Boxes in pixels and scores far below them, in one output; a second output of another scale."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.features(x).relu()
        joined = torch.cat([self.boxes(y).flatten(2).sigmoid() * 640, self.scores(y).flatten(2).sigmoid() * 1e-3], 1)
        return joined, y.mean((2, 3)) * 1e-6


@pytest.mark.parametrize(
    ("weight", "factor", "said"),
    [
        ("features.weight", 1.01, "output output_0, channel 0"),
        ("scores.bias", 3.0, "output output_0, channel 4 of axis 1"),
        ("boxes.bias", 1.05, "output output_0, channel 0 of axis 1"),
    ],
)
def test_a_rewriting_that_changes_a_weight_is_named_with_the_channel(
    monkeypatch: pytest.MonkeyPatch, weight: str, factor: float, said: str
) -> None:
    def wrong(module: Any) -> int:
        set_tensor(module, f"module.{weight}", tensor_at(module, f"module.{weight}").detach() * factor)
        return 0

    monkeypatch.setattr(rewriting, "fold", wrong)
    with pytest.raises(CaptureError) as caught:
        capture(Model(Detector().eval(), torch.randn(1, 3, 8, 8)))
    assert "edgeopt's own rewriting (constants computed once) changes what the model computes" in caught.value.message()
    assert said in caught.value.message()


def test_a_rewriting_that_is_wrong_on_other_inputs_only_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any) -> int:
        node = next(node for node in module.graph.nodes if node.target is torch.ops.aten.clamp.default)
        node.replace_all_uses_with(node.args[0])
        module.recompile()
        return 0

    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(-2, 2)

    monkeypatch.setattr(rewriting, "fold", wrong)
    with pytest.raises(CaptureError, match="unlike the example"):
        capture(Model(Clamped(), torch.rand(1, 8)))


def test_what_export_took_for_a_constant_is_told_from_edgeopt_s_own_faults() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2 if torch.compiler.is_exporting() else 3)

    with pytest.raises(CaptureError) as caught:
        capture(Model(Reads(), torch.ones(2)))
    assert "the program that torch.export captured does not compute what the model computes" in caught.value.message()


ILL_CONDITIONED: dict[str, nn.Module] = {
    "difference of large numbers": nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
    "deep": nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()))),
    "one value": nn.Sequential(nn.Linear(8, 1), nn.LayerNorm(1)),
}


@pytest.mark.parametrize("case", ILL_CONDITIONED)
def test_rounding_is_no_reason_to_refuse(case: str) -> None:
    module = ILL_CONDITIONED[case].eval()
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_(0, 100 if case.startswith("difference") else 1)
                layer.running_var.uniform_(1e-6, 1e-3)
    capture(Model(module, torch.randn(3, 8)))


@pytest.mark.parametrize("seed", range(6))
def test_what_cancels_out_but_for_rounding_is_no_reason_to_refuse(seed: int) -> None:
    """On zeros a channel holds one number alone: whether that moves with a rounding is chance."""

    class Cancels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(16, affine=False)
            nn.init.normal_(self.norm.running_mean)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            gate = torch.sigmoid(y)
            return y - (gate * y + (1 - gate) * y)

    torch.manual_seed(seed)
    capture(Model(Cancels().eval(), torch.randn(1, 16, 7)))


def test_choices_between_equal_scores_may_fall_either_way() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.layers(x)
            return scores.argmax(-1), scores.topk(2).indices

    capture(Model(Chooses().eval(), torch.randn(3, 8)))


def reference(module: nn.Module, x: Tensor) -> Reference:
    tree = torch.utils._pytree.tree_flatten(((x,), {}))[1]
    witness = Witness(module.eval(), tree, (torch.float32,), writes=False)
    return Reference(witness, [Case("the example", (x,), witness(x))])


def test_each_channel_is_judged_by_its_own_scale() -> None:
    x = torch.randn(1, 3, 8, 8)
    module = Detector()
    right = module(x)[0].detach()
    found = right.clone()
    found[:, 4:] += 2e-6
    assert float((found - right).norm() / right.norm()) < 1e-7
    deviation = reference(module, x).deviation(lambda x: (found, module(x)[1].detach()))
    assert deviation is not None
    assert "channel 4 of axis 1" in deviation.describe(["joined", "means"])


def test_an_output_of_another_shape_and_one_that_raises_are_deviations() -> None:
    x = torch.randn(1, 3, 8, 8)
    module = Detector()

    def raises(x: Tensor) -> tuple[Tensor, ...]:
        raise ValueError("no")

    for run, said in ((lambda x: tuple(v.flatten() for v in module(x)), "has shape"), (raises, "is not there: ValueError: no")):
        deviation = reference(module, x).deviation(run)
        assert deviation is not None
        assert said in deviation.describe(["joined", "means"])


def test_masks_that_would_change_the_result_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any) -> int:
        set_tensor(module, "module.scale", tensor_at(module, "module.scale") * 2)
        return 1

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    monkeypatch.setattr(rewriting, "limit_masks", wrong)
    captured = capture(Model(Scaled(), torch.rand(3)))
    assert [(d.subject, d.choice) for d in captured.decisions] == [("masks", "kept as large as they are")]
