"""Students are made of their teacher: fewer layers, fewer channels, its weights, and as small as asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.common.measures import parameters
from edgeopt.compress.distill.student_width import scaled
from edgeopt.compress.distill.students import StudentGoal, narrower, shallower, to_goal
from edgeopt.errors import BudgetUnmet, CompressionError
from examples.digits import DigitsNet
from examples.fashion_mnist import FashionNet
from tests.compress import transformer_nets as nets

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _first(module: nn.Module, inputs: object) -> Tensor:
    with torch.no_grad():
        found = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first


def test_every_other_layer_is_taken_over_as_in_distilbert() -> None:
    model = nets.bert(num_hidden_layers=6)

    student, record = shallower(model, 0.5, {"input_ids": nets.IDS})

    kept = [change.layer for change in record.layers if change.action == "left"]
    assert kept == ["encoder.layer.0", "encoder.layer.2", "encoder.layer.5"]
    for new, old in enumerate((0, 2, 5)):
        for name, value in student.encoder.layer[new].state_dict().items():  # type: ignore[union-attr, index]
            assert torch.equal(value, model.encoder.layer[old].state_dict()[name])
    assert student.config.num_hidden_layers == 3 and model.config.num_hidden_layers == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*sorted(nets.FAMILIES), "t5"])
@pytest.mark.parametrize("how", ["narrower", "shallower"])
def test_students_of_every_family_save_and_load(name: str, how: str, tmp_path: Path) -> None:
    model, inputs = nets.FAMILIES[name]() if name != "t5" else nets.t5()

    student, record = narrower(model, 0.5, inputs) if how == "narrower" else shallower(model, 1, inputs)

    assert record.changed and parameters(student) < parameters(model)
    student.save_pretrained(tmp_path)  # type: ignore[operator]
    back = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(_first(back, inputs), _first(student, inputs))


def test_a_narrow_transformer_keeps_what_weighs() -> None:
    model = nets.bert()
    with torch.no_grad():  # in half of the residual stream, of the heads and of the MLP there is nothing
        for name, value in model.named_parameters():
            for axis, size in enumerate(value.shape):
                if size in (32, 48) and not ("attention.self" in name and axis == 0):
                    value.movedim(axis, 0)[1::2] = 0
    student: Any = narrower(model, 0.5, {"input_ids": nets.IDS})[0]

    assert student.config.hidden_size == 16 and student.config.intermediate_size == 24
    assert torch.equal(student.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight[:, ::2])
    dense = model.encoder.layer[1].intermediate.dense.weight[::2, ::2]
    assert torch.equal(student.encoder.layer[1].intermediate.dense.weight, dense)


def test_what_the_teacher_was_made_without_and_its_kind_of_attention_stay() -> None:
    torch.manual_seed(0)
    config = nets.bert(attn_implementation="eager").config
    model = type(nets.bert())(config, add_pooling_layer=False)

    student: Any = narrower(model, 0.5, {"input_ids": nets.IDS})[0]

    assert student.pooler is None and student.config._attn_implementation == "eager"


def test_layers_behind_a_transformer_take_its_new_width() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer, self.head = nets.bert(), nn.Linear(nets.HIDDEN, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            scores: Tensor = self.head(self.transformer(input_ids).last_hidden_state[:, 0])
            return scores

    student: Any = narrower(Classifier().eval(), 0.5, {"input_ids": nets.IDS})[0]

    assert _first(student, nets.IDS).shape == (2, 3)
    assert student.head.in_features == 16


@pytest.mark.parametrize("given_inputs", [True, False])
@pytest.mark.parametrize("width", [0.5, 0.3])
def test_residual_nets_are_narrowed_with_and_without_inputs(given_inputs: bool, width: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = nets.ResidualNet().eval()

    student, record = narrower(teacher, width, IMAGE if given_inputs else None)

    assert _first(student, IMAGE).shape == (2, 10)
    widths = {layer.out_channels for layer in student.modules() if isinstance(layer, nn.Conv2d)}
    assert widths == {8, 16, 32} if width == 0.5 else widths <= {8, 16, 24}
    assert record.changed and parameters(teacher) == 260186
    store.save(student, tmp_path / "student.pt")
    torch.testing.assert_close(_first(store.load(tmp_path / "student.pt", teacher), IMAGE), _first(student, IMAGE))


@settings(max_examples=15)
@given(width=st.floats(0.01, 1), multiple=st.sampled_from([1, 4, 8]))
def test_any_width_gives_a_net_that_runs(width: float, multiple: int) -> None:
    teacher = FashionNet()

    student, _ = narrower(teacher, width, multiple=multiple)

    assert _first(student.eval(), torch.randn(1, 1, 28, 28)).shape == (1, 10)
    for new, old in zip(student.modules(), teacher.modules(), strict=True):
        if isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d):
            assert new.out_channels == scaled(old.out_channels, width, multiple)
            assert torch.equal(new.weight, old.weight[: new.out_channels, : new.in_channels])


@given(count=st.integers(1, 2048), width=st.floats(0.001, 1), multiple=st.sampled_from([1, 8, 16]))
def test_scaled_counts_are_multiples_and_never_more(count: int, width: float, multiple: int) -> None:
    found = scaled(count, width, multiple)

    assert 1 <= found <= count
    assert found % multiple == 0 or found == count
    assert abs(found - count * width) <= multiple or count <= multiple


def test_depthwise_and_flattened_layers_fit() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.GroupNorm(4, 16),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.ConvTranspose2d(32, 32, 2, 2), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(32 * 9, 64), nn.ReLU(), nn.Linear(64, 5),
    )  # fmt: skip

    student, record = narrower(net, 0.5)

    assert _first(student, IMAGE).shape == (2, 5)
    assert [change.after for change in record.layers if change.layer == "9"] == ["144 -> 32 features"]


def test_convolutions_of_a_sequential_go_where_they_keep_the_shape() -> None:
    student, record = shallower(FashionNet(), 0.5, torch.randn(2, 1, 28, 28))

    assert [change.layer for change in record.changed] == ["features.3", "features.9", "features.15"]
    assert len(student.features) == 9  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="cannot have 2 layers"):
        shallower(FashionNet(), 2)


def test_residual_blocks_go_where_they_keep_the_shape() -> None:
    student, record = shallower(nets.ResidualNet().eval(), 2, IMAGE)

    assert [change.layer for change in record.changed] == ["stages.0.2", "stages.1.2"]
    assert _first(student, IMAGE).shape == (2, 10)


def test_a_net_without_alike_layers_stays_with_a_note() -> None:
    teacher = DigitsNet().eval()
    student, record = shallower(teacher, 0.5)

    assert parameters(student) == parameters(teacher) and record.notes
    assert torch.equal(_first(student, torch.ones(1, 1, 8, 8)), _first(teacher, torch.ones(1, 1, 8, 8)))


@pytest.mark.parametrize("goal", [StudentGoal(parameters=6_000), StudentGoal(bytes=6_000, bits=8), StudentGoal(bytes=24_000)])
def test_a_size_goal_is_met_and_nearly_used_up(goal: StudentGoal) -> None:
    student, record = to_goal(DigitsNet().eval(), torch.randn(1, 1, 8, 8), goal)

    assert 0.75 * 6_000 < parameters(student) <= 6_000
    assert 0.4 < record.settings["width"] < 0.6 and record.settings["layers"] == 1


def test_a_latency_goal_asks_its_measure() -> None:
    asked = []

    def measure(module: nn.Module) -> float:
        asked.append(parameters(module))
        return parameters(module) / 1000

    student, _ = to_goal(DigitsNet().eval(), torch.randn(1, 1, 8, 8), StudentGoal(latency=10.0, measure=measure))

    assert parameters(student) <= 10_000 and asked[0] == 24058


def test_transformers_lose_layers_first_then_width() -> None:
    model = nets.bert(num_hidden_layers=4)
    inputs = {"input_ids": nets.IDS}

    shallow, first = to_goal(model, inputs, StudentGoal(parameters=int(parameters(model) * 0.75)))
    narrow, second = to_goal(model, inputs, StudentGoal(parameters=int(parameters(model) * 0.3)))

    assert (first.settings["layers"], first.settings["width"]) == (0.5, 1.0)
    assert second.settings["layers"] == 0.5 and second.settings["width"] < 1
    assert parameters(shallow) <= parameters(model) * 0.75 and parameters(narrow) <= parameters(model) * 0.3


def test_a_goal_that_nothing_meets_says_what_the_smallest_has() -> None:
    with pytest.raises(BudgetUnmet, match="smallest student has"):
        to_goal(FashionNet().eval(), torch.randn(1, 1, 28, 28), StudentGoal(parameters=10))


def test_a_goal_that_is_met_already_gives_an_equal_copy() -> None:
    teacher = DigitsNet()
    student, record = to_goal(teacher, torch.randn(1, 1, 8, 8), StudentGoal(parameters=10**6))

    assert student is not teacher and parameters(student) == parameters(teacher) and record.notes


def test_what_cannot_be_narrowed_says_why() -> None:
    with pytest.raises(CompressionError, match="GRU"):
        narrower(nn.Sequential(nn.GRU(4, 8), nn.Linear(8, 2)), 0.5)
    with pytest.raises(CompressionError, match="nothing to narrow"):
        narrower(nn.ReLU(), 0.5)
    with pytest.raises(CompressionError, match="groups"):
        narrower(nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=3), nn.Conv2d(24, 4, 1)), 0.5)


@pytest.mark.parametrize("width", [0, -1, 1.5])
def test_impossible_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width is a share"):
        narrower(DigitsNet(), width)


@pytest.mark.parametrize("layers", [0, -2, 1.5, True])
def test_impossible_depths_are_refused(layers: float) -> None:
    with pytest.raises(ValueError, match="layers is a number"):
        shallower(DigitsNet(), layers)


def test_impossible_goals_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [{}, {"latency": 3.0}, {"measure": parameters}, {"parameters": 3, "bits": 0}]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            StudentGoal(**wrong)


def test_modes_and_what_is_trained_stay() -> None:
    for teacher in (FashionNet().train(), nets.bert().train()):
        next(iter(teacher.parameters())).requires_grad_(False)
        student, _ = narrower(teacher, 0.5)
        assert student.training
        assert [p.requires_grad for p in student.parameters()] == [p.requires_grad for p in teacher.parameters()]
