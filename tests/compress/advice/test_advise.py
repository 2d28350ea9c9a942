"""The planner's figures are those of really applied techniques, and what it advises meets the budgets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.compress.advice.advice import Advice, Budgets
from edgeopt.compress.advice.advise import advise
from edgeopt.compress.advice.footprint import artifact_bytes
from edgeopt.compress.common import measures
from edgeopt.compress.technique import Context
from edgeopt.compress.techniques import technique
from edgeopt.core import KeptFloat, Plan, from_json, to_json
from edgeopt.errors import BudgetUnmet, CompressionError, ModelError
from edgeopt.model.model import Model
from edgeopt.targets import loader
from tests.compress.networks import bert

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
ARM = loader.load("arm-xnnpack")


def cnn() -> Model:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    return Model(net, (torch.randn(1, 1, 16, 16),), name="cnn")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(12, 32, batch_first=True), nn.Linear(32, 9)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.gru(x)[0][:, -1])
        return scores


def refused(advice: Advice) -> dict[str, str]:
    return {refusal.technique: refusal.reason for refusal in advice.refused}


def applied(model: Model, advice: Advice) -> nn.Module:
    module: Any = model.module
    for step in advice.steps:
        settings: Any = technique(step.technique)
        context = Context(example_inputs=model.example_inputs, profile=loader.load(advice.target))
        module = settings(**step.settings).apply(module, context).module
    assert isinstance(module, nn.Module)
    return module


@pytest.fixture(scope="module")
def advised() -> tuple[Model, Advice]:
    model = cnn()
    return model, advise(model, ARM, Budgets(max_bytes=22_000, max_drop=0.01))


def test_a_size_is_met_and_the_figures_are_those_of_the_steps_applied(advised: tuple[Model, Advice]) -> None:
    model, advice = advised
    compressed = applied(model, advice)
    assert advice.after.bytes <= 22_000 < advice.before.bytes
    assert advice.after.macs == measures.macs(compressed, model.example_inputs)
    assert advice.after.parameters == measures.parameters(compressed)
    assert advice.after.bytes == artifact_bytes(capture(Model(compressed, model.example_inputs)).program, ARM)
    fresh = cnn().module.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.module.state_dict().items())
    assert from_json(Advice, to_json(advice)) == advice


@pytest.mark.slow
def test_the_mildest_amount_that_will_do_is_advised(advised: tuple[Model, Advice]) -> None:
    mild = advise(cnn(), ARM, Budgets(max_bytes=30_000))
    assert [step.technique for step in mild.steps] == ["channels"]
    assert mild.after.macs > advised[1].after.macs


def test_what_will_not_pay_is_refused_with_figures(advised: tuple[Model, Advice]) -> None:
    said = refused(advised[1])
    assert "no attention" in said["heads"]
    assert "no attention" in said["layers"]
    assert "no speed" in said["magnitude"]
    assert "with zstd" in said["magnitude"]
    assert "with zstd" in said["cluster"]
    assert "no kernels for 2:4" in said["nm"]
    assert "channels" not in said


def test_nothing_is_advised_where_the_export_alone_meets_the_size() -> None:
    advice = advise(cnn(), ARM, Budgets(max_bytes=100_000))
    assert advice.steps == ()
    assert any("export alone" in note for note in advice.notes)


@pytest.mark.slow
def test_without_a_size_or_latency_the_goal_is_half_the_work_and_said() -> None:
    advice = advise(cnn(), ARM)
    assert advice.after.macs <= advice.before.macs / 2
    assert any("50% of the MACs" in note for note in advice.notes)


@pytest.mark.slow
def test_a_size_out_of_reach_names_the_nearest_plan() -> None:
    with pytest.raises(BudgetUnmet, match=r"500 bytes on arm-xnnpack[\s\S]*the nearest is .*channels[\s\S]*MACs"):
        advise(cnn(), ARM, Budgets(max_bytes=500))


@pytest.mark.slow
def test_a_latency_is_measured_on_what_is_advised() -> None:
    """With an overhead that no pruning removes, work alone promises too much: the plan has to be made stronger."""
    model, measured, overhead = cnn(), list[int](), 0.4
    whole = measures.macs(model.module, model.example_inputs)

    def latency_ms(module: nn.Module) -> float:
        measured.append(measures.macs(module, model.example_inputs))
        return overhead + measured[-1] / whole

    advice = advise(model, ARM, Budgets(max_latency_ms=overhead + 0.5), latency_ms=latency_ms)
    assert advice.before.latency_ms == pytest.approx(overhead + 1)
    assert advice.after.latency_ms is not None
    assert advice.after.latency_ms <= overhead + 0.5
    assert measured[-1] == advice.after.macs
    assert any("latency" in note for note in advice.notes)


@pytest.mark.slow
def test_a_latency_that_never_falls_is_unmet_with_the_measured_one() -> None:
    with pytest.raises(BudgetUnmet, match=r"0.5 ms[\s\S]* 1 ms"):
        advise(cnn(), ARM, Budgets(max_latency_ms=0.5), latency_ms=lambda module: 1.0)


def test_a_latency_needs_something_that_measures_it() -> None:
    with pytest.raises(CompressionError, match="nothing measures it"):
        advise(cnn(), ARM, Budgets(max_latency_ms=1))


def test_a_program_is_no_module() -> None:
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(1, 4),))
    with pytest.raises(ModelError, match=r"nn\.Module itself"):
        advise(Model(program), ARM)


@pytest.mark.slow
def test_layers_that_the_plan_keeps_in_float_count_as_float() -> None:
    model = cnn()
    kept = KeptFloat(layer="6", operator="conv", reason="outliers")
    plan = Plan(target=ARM.name, format="tflite", scheme=ARM.schemes[0], io_float=False, kept_float=(kept,))
    budgets = Budgets(max_bytes=1_000_000)
    more = advise(model, ARM, budgets, plan=plan).before.bytes - advise(model, ARM, budgets).before.bytes
    assert more == pytest.approx(3 * 64 * 32 * 9, rel=0.1)


@pytest.mark.slow
def test_a_recurrent_model_is_refused_what_only_other_layers_can_have() -> None:
    model = Model(Recurrent().eval(), (torch.randn(1, 10, 12),), name="gru")
    assert advise(model, ARM, Budgets(max_bytes=10_000_000)).architecture.family == "recurrent"
    with pytest.raises(BudgetUnmet, match="smaller network of your own"):
        advise(model, ARM, Budgets(max_bytes=5_000))


@pytest.mark.parametrize("budgets", [{"max_bytes": 0}, {"max_latency_ms": float("nan")}, {"max_drop": -0.1}])
def test_impossible_budgets_are_refused(budgets: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is"):
        Budgets(**budgets)


@pytest.mark.slow
def test_a_transformer_loses_layers_heads_or_channels() -> None:
    model = Model(bert(2), (torch.randint(0, 100, (1, 16)),), name="bert")
    advice = advise(model, loader.load("x86-fbgemm"))
    assert advice.architecture.family == "transformer"
    assert {step.technique for step in advice.steps} <= {"layers", "heads", "channels", "low-rank", "distill"}
    assert advice.after.macs <= advice.before.macs / 2
    assert measures.macs(applied(model, advice), model.example_inputs) == advice.after.macs
    assert not {"heads", "layers"} & set(refused(advice))


@pytest.mark.slow
def test_a_target_with_sparse_kernels_gets_the_pattern_last_where_layers_are_wide() -> None:
    sparse = loader.load("nvidia-sparse24")
    wide = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 16)).eval()
    advice = advise(Model(wide, (torch.randn(1, 256),), name="wide"), sparse)
    assert advice.steps[-1].technique == "nm"
    narrow = advise(cnn(), sparse, Budgets(max_bytes=30_000))
    assert "nm" not in [step.technique for step in narrow.steps]
    assert "pays in no layer" in refused(narrow)["nm"]
