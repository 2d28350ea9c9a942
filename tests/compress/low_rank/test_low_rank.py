"""Low-rank factorisation: where it pays, what stays and why, and that the rest of the model does not notice."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import measures, store
from edgeopt.compress.low_rank.low_rank import LowRank
from edgeopt.compress.technique import Context
from edgeopt.errors import BudgetUnmet, CompressionError, ForwardError
from edgeopt.targets.loader import load
from examples import digits

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")


class Net(nn.Module):
    """One layer of every fate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, padding=1)
        self.wide = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.up = nn.ConvTranspose2d(64, 64, 2, 2)
        self.mixed = nn.Conv2d(64, 128, 1, stride=2)
        self.hidden = nn.Linear(128, 128)
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 128)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(128, 128)
        self.hooked = nn.Linear(128, 128)
        self.hooked.register_forward_hook(_nothing)
        self.read = nn.Linear(128, 128)
        self.scores = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.wide(self.stem(image).relu()).relu()))
        x = self.hidden(self.mixed(x).relu().mean((2, 3))).relu()
        x = self.hooked(self.second(self.first(x).relu()).relu()).to(self.read.weight.dtype)
        scores: Tensor = self.scores(self.read(x).relu())
        return scores


def _nothing(module: nn.Module, args: object, output: object) -> None:
    pass


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CONTEXT = Context(example_inputs=(IMAGE,))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_every_layer_is_listed_with_the_reason_where_it_stays(net: Net) -> None:
    record = LowRank(share=0.3, exclude=("hid*",)).apply(net, CONTEXT).record
    assert [layer.layer for layer in record.layers] == [
        path for path, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert [layer.layer for layer in record.changed] == ["wide", "mixed"]
    assert {layer.layer: layer.reason.split(":")[0] for layer in record.layers if layer.action == "left"} == {
        "stem": "864 parameters",
        "depthwise": "a depthwise convolution",
        "up": "a ConvTranspose2d",
        "hidden": "excluded",
        "first": "it shares its weights",
        "second": "it shares its weights",
        "unused": "the example inputs do not reach it",
        "hooked": "it has hooks, which its factors would lose",
        "read": "something besides its own forward reads its weights",
        "scores": "1,280 parameters",
    }
    assert record.notes[0].startswith("2 of 12 layers factorised")


def test_factors_have_fewer_parameters_and_macs_as_the_record_says(net: Net) -> None:
    compressed = LowRank(share=0.5).apply(net, CONTEXT)
    assert len(compressed.record.changed) == 3
    before, after = (measures.macs_by_layer(module, (IMAGE,)) for module in (net, compressed.module))
    for change in compressed.record.changed:
        made = compressed.module.get_submodule(change.layer)
        count = sum(value.numel() for name, value in made.named_parameters() if name.endswith("weight"))
        dense = net.get_parameter(f"{change.layer}.weight").numel()
        spent = sum(macs for path, macs in after.items() if path.startswith(change.layer + "."))
        assert count < dense
        assert spent < before[change.layer]
        assert change.reason.startswith(
            f"{count / dense:.0%} of its parameters, {spent / before[change.layer]:.0%} of its MACs"
        )


def test_the_original_and_everything_but_the_factors_stay_as_they_were(net: Net) -> None:
    net.hidden.weight.requires_grad_(False)
    net.train()
    net.depthwise.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kinds = [type(layer) for layer in net.modules()]
    compressed = LowRank(share=0.5, exclude=("mixed",)).apply(net, CONTEXT).module
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [type(layer) for layer in net.modules()] == kinds
    assert net.training and not net.depthwise.training and not net.wide._forward_hooks
    modes = [compressed.get_submodule(path).training for path in ("", "wide", "wide.0", "depthwise")]
    assert modes == [True, True, True, False]
    assert torch.equal(compressed.get_parameter("hidden.1.bias"), before["hidden.bias"])
    learns = {name: parameter.requires_grad for name, parameter in compressed.named_parameters()}
    assert not learns["hidden.0.weight"] and not learns["hidden.1.weight"] and learns["hidden.1.bias"]
    assert learns["wide.0.weight"] and learns["wide.1.weight"]
    assert compressed.get_submodule("wide.1").bias is None
    for name, value in compressed.state_dict().items():
        assert name.startswith(("wide.", "hidden.")) or torch.equal(value, before[name])


def test_half_the_rank_of_a_square_matrix_saves_nothing_and_the_reason_says_so() -> None:
    torch.manual_seed(0)
    spectrum = torch.cat([torch.ones(32), torch.full((32,), 1e-3)])
    orthogonal = torch.linalg.qr(torch.randn(64, 64))[0]
    layer = nn.Linear(64, 64)
    layer.weight.data = orthogonal * spectrum
    context = Context(example_inputs=(torch.randn(1, 64),))
    (kept,) = LowRank(share=0.999, min_parameters=0).apply(layer, context).record.layers
    assert kept.action == "left"
    assert kept.reason == (
        "100.0% of its energy takes rank 32: 4,096 parameters and 4,096 MACs, the layer has 4,096 and 4,096 "
        "(r(64 + 64) < 64 x 64 pays below 32.0)"
    )
    (changed,) = LowRank(share=0.7, min_parameters=0).apply(layer, context).record.layers
    assert (changed.action, changed.after) == ("changed", "linear 64 -> 24, linear 24 -> 64")


def test_a_module_that_is_one_layer_becomes_its_factors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 8) @ torch.randn(8, 128)
    layer = nn.Linear(128, 96)
    layer.weight.data = weight
    example = torch.randn(4, 128)
    compressed = LowRank(share=1.0).apply(layer, Context(example_inputs=example)).module
    assert [type(each) for each in compressed.children()] == [nn.Linear, nn.Linear]
    torch.testing.assert_close(compressed(example), layer(example), rtol=1e-4, atol=1e-3)
    store.save(compressed, tmp_path / "module.pt")
    assert torch.equal(store.load(tmp_path / "module.pt", layer)(example), compressed(example))


@settings(max_examples=8)
@given(share=st.floats(0.45, 0.98), rule=st.sampled_from(["macs", "parameters"]))
def test_a_budget_is_met_and_hardly_more_is_taken(share: float, rule: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 96))
    example = torch.randn(3, 96)
    measure = {"macs": lambda m: measures.macs(m, example), "parameters": measures.parameters}[rule]
    settings_ = LowRank(rule=rule, share=share, multiple=1)  # type: ignore[arg-type]
    compressed = settings_.apply(net, Context(example_inputs=example)).module
    goal = share * measure(net)
    assert measure(compressed) <= goal
    per_rank = 256 * (3 if rule == "macs" else 1)
    assert goal - measure(compressed) <= per_rank


def test_a_budget_takes_from_the_layer_that_loses_least() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 128))
    net[1].weight.data = torch.randn(128, 16) @ torch.randn(16, 128)
    record = LowRank(rule="macs", share=0.7).apply(net, Context(example_inputs=torch.randn(1, 128))).record
    assert [(layer.layer, layer.action) for layer in record.layers] == [("0", "left"), ("1", "changed")]
    assert record.layers[0].reason.startswith("the share is reached without it")


def test_a_budget_out_of_reach_says_what_remains(net: Net) -> None:
    with pytest.raises(BudgetUnmet, match="too many remain with the smallest ranks everywhere") as caught:
        LowRank(rule="parameters", share=0.1).apply(net, CONTEXT)
    assert caught.value.fix


def test_whitening_loses_less_of_the_output_on_the_data_it_saw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Unflatten(1, (64, 1)), nn.Conv1d(64, 64, 1))
    mixing = torch.randn(64, 64) * torch.logspace(0, -2, 64)
    batches = [(torch.randn(16, 64) @ mixing.T, torch.zeros(16)) for _ in range(8)]  # with labels, as data loaders have them
    context = Context(example_inputs=batches[0][0], batches=lambda: iter(batches))

    def noise(module: nn.Module) -> float:
        with torch.no_grad():
            return sum(float((module(x) - net(x)).square().sum()) for x, _ in batches)

    plain, whitened = (
        LowRank(rule="macs", share=0.5, whiten=whiten, min_parameters=0).apply(net, context) for whiten in (False, True)
    )
    assert len(whitened.record.changed) == 3
    assert noise(whitened.module) < 0.7 * noise(plain.module)


def test_whitening_without_data_and_exclusions_of_nothing_are_refused(net: Net) -> None:
    with pytest.raises(CompressionError, match="there are no batches"):
        LowRank(whiten=True).apply(net, CONTEXT)
    with pytest.raises(CompressionError, match="'hiden', which is no layer") as caught:
        LowRank(exclude=("hiden",)).apply(net, CONTEXT)
    assert caught.value.fix == "did you mean 'hidden'?"
    with pytest.raises(ForwardError):
        LowRank().apply(net, Context(example_inputs=(torch.randn(1, 4, 8, 8),)))


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.1}, {"multiple": 0}, {"min_parameters": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LowRank(**wrong)  # type: ignore[arg-type]


def test_nothing_to_factorise_is_an_equal_copy_and_a_note() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    compressed = LowRank().apply(net, Context(example_inputs=torch.randn(1, 8)))
    assert compressed.record.notes == ("no layer is factorised: see each layer's reason",)
    assert compressed.module is not net
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), compressed.module.parameters(), strict=True))


def test_factors_too_slow_to_pay_are_left_with_the_measurement() -> None:
    layer = nn.Linear(128, 128)
    (left,) = LowRank(share=0.3, min_speedup=1e6).apply(layer, Context(example_inputs=torch.randn(1, 128))).record.layers
    assert left.action == "left"
    assert left.reason.startswith("its factors ran ") and left.reason.endswith("less than 1e+06")


def test_code_that_asks_a_layer_for_its_size_is_named() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(128, 128)

        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = self.layer(x) / self.layer.in_features
            return scaled

    with pytest.raises(CompressionError, match="in_features") as caught:
        LowRank(share=0.3).apply(Asking(), Context(example_inputs=torch.randn(1, 128)))
    assert "exclude" in caught.value.fix


def test_an_encoders_feed_forward_is_factorised_and_attention_is_left() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    example = torch.randn(1, 5, 64)
    compressed = LowRank(share=0.6).apply(net, Context(example_inputs=example))
    found = {change.layer: change for change in compressed.record.layers}
    assert [found[f"layers.0.{name}"].action for name in ("self_attn.out_proj", "linear1", "linear2")] == [
        "left", "changed", "changed",
    ]  # fmt: skip
    assert found["layers.0.self_attn.out_proj"].reason == "something besides its own forward reads its weights"
    with torch.no_grad():  # without gradients torch would take its fused operator, which knows nothing of factors
        padding = torch.tensor([[False, False, False, False, True]])
        assert compressed.module(example).isfinite().all()
        assert compressed.module(example, src_key_padding_mask=padding).isfinite().all()


def test_ranks_too_narrow_for_sparsity_are_noted() -> None:
    context = Context(example_inputs=torch.randn(1, 128), profile=load("nvidia-sparse24"))
    assert any("2:4 sparsity" in note for note in LowRank(share=0.3).apply(nn.Linear(128, 128), context).record.notes)


def accuracy(module: nn.Module) -> float:
    _, _, images, labels = digits.data()
    with torch.no_grad():
        return float((module(images).argmax(1) == labels).float().mean())


def test_digits_lose_little_at_half_their_macs() -> None:
    net = digits.trained()
    example = digits.data()[2][:1]
    compressed = LowRank(rule="macs", share=0.6).apply(net, Context(example_inputs=example)).module
    assert measures.macs(compressed, example) <= 0.6 * measures.macs(net, example)
    assert accuracy(compressed) >= accuracy(net) - 0.05
