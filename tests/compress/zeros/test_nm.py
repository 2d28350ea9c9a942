"""N:M on modules: exact where it is put, reasons where it is not, data makes it better, and it outlives fine-tuning."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.nm import NM
from edgeopt.compress.zeros.pattern import pattern_holds
from edgeopt.core import from_data
from edgeopt.errors import CompressionError, InputError
from edgeopt.targets import loader
from edgeopt.targets.schema import Sparsity, TargetProfile
from examples import digits

METHODS = ("magnitude", "wanda", "sparsegpt")


class Net(nn.Module):
    """One layer of every fate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.linear = nn.Linear(16, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.recurrent = nn.GRU(32, 8, batch_first=True)
        self.norm = nn.LayerNorm([1, 8])
        self.last = nn.Linear(8, 5)
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.conv(self.stem(x).relu()).relu()))
        x = self.linear(x.flatten(2).mT)
        x, _ = self.attention(x, x, x, need_weights=False)
        x, _ = self.recurrent(x)
        scores: Tensor = self.last(self.norm(x[:, -1:]))
        return scores


PRUNED = ["conv", "linear", "attention.in_proj_weight", "attention.out_proj", "last"]
EXAMPLE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
DATA = [(torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(12)]


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def context(data: list[tuple[Tensor, ...]] | None = DATA, profile: TargetProfile | None = None) -> Context:
    return Context(example_inputs=(EXAMPLE,), batches=data, profile=profile)


def with_sparsity(**limits: int) -> TargetProfile:
    profile = loader.load("nvidia-sparse24")
    chosen = {"min_input_channels": 16, "min_output_channels": 16, "channel_multiple": 16} | limits
    object.__setattr__(profile, "sparsity", Sparsity(pattern="2:4", **chosen))
    return profile


@pytest.mark.parametrize("method", METHODS)
def test_every_layer_has_the_pattern_or_a_reason_and_nothing_else_changes(method: str) -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    compressed = from_data(NM, {"method": method}).apply(module, context())
    left = {change.layer: change.reason for change in compressed.record.layers if change.action == "left"}
    unused = {"unused": "no data reaches it"} if method != "magnitude" else {}
    assert left == unused | {
        "stem": "3 input channels: not a multiple of 4",
        "depthwise": "a grouped or depthwise convolution: its reduction axis is too short",
        "up": "a transposed convolution: sparse kernels take convolutions and matrix products",
        "recurrent.weight_ih_l0": "GRU: sparse kernels take convolutions and matrix products",
        "recurrent.weight_hh_l0": "GRU: sparse kernels take convolutions and matrix products",
        "norm": "a normalisation",
        "norm.bias": "a normalisation",
    }
    pruned = [change.layer for change in compressed.record.changed]
    assert [name for name in pruned if name != "unused"] == PRUNED
    held = {layer.layer: layer for layer in pattern_holds(compressed.module)}
    assert all(held[name].holds and held[name].zeros == 0.5 for name in pruned)
    after = compressed.module.state_dict()
    changed = {name.removesuffix(".weight") for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(pruned)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_pre_hooks for part in compressed.module.modules())
    assert after["conv.weight"].is_contiguous()


@given(
    st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(n + 1, 9))),
    st.integers(1, 3), st.sampled_from(METHODS), st.booleans(),
)  # fmt: skip
@settings(max_examples=15)
def test_any_pattern_is_exact(pattern: tuple[int, int], groups: int, method: str, convolution: bool) -> None:
    kept, group = pattern
    inputs = group * groups
    module = nn.Conv1d(inputs, 3, 2) if convolution else nn.Linear(inputs, 3)
    example = torch.randn(2, inputs, 4) if convolution else torch.randn(2, inputs)
    chosen = from_data(NM, {"pattern": f"{kept}:{group}", "method": method})
    pruned = chosen.apply(module, Context(example_inputs=(example,), batches=[(example,)])).module
    (layer,) = pattern_holds(pruned, kept, group)
    assert layer.holds and layer.most == kept
    assert layer.zeros == pytest.approx(1 - kept / group)
    assert not pattern_holds(module, kept, group)[0].holds


def test_data_keeps_the_outputs_nearer_and_the_correction_keeps_them_nearest() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
    mixing = torch.randn(32, 32) * torch.logspace(-2, 0, 32)[:, None]
    data = [(torch.randn(16, 32) @ mixing,) for _ in range(8)]
    given_ = Context(example_inputs=data[0], batches=data)

    def noise(method: str) -> float:
        pruned = from_data(NM, {"method": method}).apply(module, given_).module
        with torch.no_grad():
            return sum(float((module(*x) - pruned(*x)).square().sum()) for x in data)

    magnitude, wanda, sparsegpt = map(noise, METHODS)
    assert sparsegpt < 0.7 * wanda < 0.7 * magnitude


def test_attention_is_pruned_on_query_key_and_value_each_of_its_own_inputs() -> None:
    torch.manual_seed(0)

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=12, vdim=8, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            found: Tensor = self.attention(x, key=memory, value=x, need_weights=False)[0]
            return found

    example = torch.randn(2, 5, 8), torch.randn(2, 5, 12)
    module = Cross().eval()
    compressed = NM(method="sparsegpt").apply(module, Context(example_inputs=example, batches=[example]))
    assert [change.layer for change in compressed.record.changed] == [
        f"attention.{name}" for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj")
    ]
    assert all(layer.holds for layer in pattern_holds(compressed.module))
    by_magnitude = NM().apply(module, Context(example_inputs=example)).module
    with torch.no_grad():
        wanted = module(*example)
        assert (compressed.module(*example) - wanted).norm() < 0.8 * (by_magnitude(*example) - wanted).norm()


def test_a_target_with_kernels_leaves_narrow_layers_dense_with_figures() -> None:
    compressed = NM().apply(net(), context(profile=with_sparsity(min_output_channels=32)))
    reasons = {change.layer: change.reason for change in compressed.record.layers}
    assert [name for name, reason in reasons.items() if not reason] == PRUNED[:-1]
    assert reasons["last"] == "8 -> 5 channels: not multiples of 16"
    compressed = NM().apply(net(), context(profile=with_sparsity(min_input_channels=32)))
    reasons = {change.layer: change.reason for change in compressed.record.layers}
    assert reasons["linear"] == "16 input channels: below 32, 2:4 gains nothing"
    assert "nvidia-sparse24 has kernels for 2:4" in compressed.record.notes[0]


@pytest.mark.parametrize(("pattern", "pays"), [("1:4", True), ("1:2", True), ("2:4", True), ("3:4", False), ("4:8", False)])
def test_patterns_that_the_kernels_do_not_take_gain_no_speed(pattern: str, pays: bool) -> None:
    compressed = NM(pattern=pattern).apply(net(), context(profile=with_sparsity()))
    assert (f"no speed on nvidia-sparse24: its kernels take 2:4, not {pattern}" in compressed.record.notes) is not pays


def test_targets_without_kernels_gain_a_download_only() -> None:
    compressed = NM().apply(net(), context(profile=loader.load("arm-ort")))
    first, second = compressed.record.notes
    assert first == "no speed on arm-ort: it has no kernels that skip zeros"
    assert second.startswith("smaller download: ")
    assert NM().apply(net(), context()).record.notes[0].startswith("no target is named")


class Shared(nn.Module):
    """``twice`` and ``again`` have one weight; the table of tokens also is a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scores = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.twice, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.scores.weight, self.again.weight = self.table.weight, self.twice.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.again(self.twice(self.table(tokens)).relu()))
        return scores


@pytest.mark.parametrize("method", METHODS)
def test_gpt2_s_layers_which_have_their_inputs_first_are_pruned_along_them(method: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    module = transformers.pytorch_utils.Conv1D(nf=6, nx=8)
    x = torch.randn(5, 8)
    pruned = from_data(NM, {"method": method}).apply(module, Context(example_inputs=(x,), batches=[(x,)])).module
    (layer,) = pattern_holds(pruned)
    assert (layer.axis, layer.holds, layer.zeros) == (0, True, 0.5)
    assert not pattern_holds(module)[0].holds
    linear = nn.Linear(8, 6)
    linear.weight.data, linear.bias.data = module.weight.data.T.clone(), module.bias.data.clone()
    same = from_data(NM, {"method": method}).apply(linear, Context(example_inputs=(x,), batches=[(x,)])).module
    assert torch.allclose(pruned(x), same(x), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_shared_weights_are_pruned_once_and_a_table_that_is_read_too_is_left(method: str) -> None:
    tokens = torch.arange(6)[None]
    compressed = from_data(NM, {"method": method}).apply(Shared(), Context(example_inputs=(tokens,), batches=[(tokens,)]))
    reasons = {change.layer: (change.action, change.reason) for change in compressed.record.layers}
    tied = "its weights serve another layer as well, an embedding: its rows are read, not multiplied"
    assert reasons == {
        "table": ("left", tied),
        "scores": ("left", tied),
        "twice": ("changed", ""),
        "again": ("changed", "shares its weights with twice: pruned once"),
    }
    assert compressed.module.again.weight is compressed.module.twice.weight


def test_the_pattern_outlives_fine_tuning_and_the_weights_left_do_learn() -> None:
    def fit(module: nn.Module, epochs: int) -> None:
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        for _ in range(epochs):
            optimizer.zero_grad()
            torch.autograd.backward((module(EXAMPLE) - 1).square().mean())
            optimizer.step()

    compressed = NM().apply(net(), context())
    before = compressed.module.conv.weight.detach().clone()
    fine_tune(fit, compressed.module, 4, compressed.keep)
    after = compressed.module.conv.weight
    assert torch.equal(after == 0, before == 0)
    assert not torch.equal(after, before)
    assert all(layer.holds for layer in pattern_holds(compressed.module) if layer.layer in PRUNED)


def test_a_module_that_has_the_pattern_stays_as_it_is_and_mode_dtype_and_gradients_too() -> None:
    module = NM().apply(net(), context()).module.double().train()
    module.conv.weight.requires_grad_(False)
    module.attention.eval()
    data = [(batch.double(),) for (batch,) in DATA]
    for method in METHODS:
        chosen = from_data(NM, {"method": method, "exclude": ("unused",)})
        again = chosen.apply(module, Context(example_inputs=data[0], batches=data)).module
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
        assert again.training and not again.attention.training and again.last.training
        assert again.conv.weight.dtype == torch.float64 and not again.conv.weight.requires_grad


def test_a_layer_that_has_the_pattern_is_left_and_keeps_it_one_that_is_all_zero_may_learn() -> None:
    module = NM().apply(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), Context(example_inputs=torch.randn(2, 8))).module
    nn.init.zeros_(module[1].weight)
    compressed = NM().apply(module, Context(example_inputs=torch.randn(2, 8)))
    assert [change.reason for change in compressed.record.layers] == ["it has the pattern already", "all its weights are zero"]
    restore = compressed.keep(compressed.module)
    for layer in compressed.module:
        nn.init.ones_(layer.weight)
    restore()
    assert [layer.zeros for layer in pattern_holds(compressed.module)] == [0.5, 0.0]


def test_batches_with_labels_of_any_size_serve() -> None:
    loader_like = [(torch.randn(4, 3, 6, 6), torch.zeros(4)) for _ in range(3)]
    compressed = NM(method="wanda", samples=5).apply(net(), context(loader_like))
    assert pattern_holds(compressed.module)[1].holds


def test_data_that_is_missing_or_does_not_fit_is_refused_with_the_next_step() -> None:
    with pytest.raises(CompressionError, match=r"there are no batches[\s\S]*method = \"magnitude\""):
        NM(method="wanda").apply(net(), context(None))
    with pytest.raises(CompressionError, match="the batches are empty"):
        NM(method="wanda").apply(net(), context([]))
    with pytest.raises(InputError):
        NM(method="wanda").apply(net(), context([(torch.randn(1, 2),)]))


@pytest.mark.parametrize("pattern", ["4:2", "4:4", "0:4", "2/4", "2:4:8", ""])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match='"2:4" keeps 2 of each 4'):
        NM(pattern=pattern)


def test_nothing_to_prune_is_an_equal_copy_and_says_so() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    compressed = NM(method="sparsegpt").apply(module, context())
    assert compressed.record.notes == ("there is no layer to prune",)
    assert torch.equal(compressed.module[0].weight, module[0].weight)


def test_a_pruned_module_is_saved_and_loaded(tmp_path: Path) -> None:
    compressed = NM().apply(net(), context())
    store.save(compressed.module, tmp_path / "pruned.pt2")
    loaded = store.load(tmp_path / "pruned.pt2", like=net())
    assert torch.equal(loaded(EXAMPLE), compressed.module(EXAMPLE))


def test_without_training_the_digits_lose_least_with_data_and_correction() -> None:
    _, _, images, labels = digits.data()
    given_ = Context(example_inputs=(images[:1],), batches=digits.calibration)

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(images).argmax(1) == labels).float().mean())

    module = digits.trained()
    found = {method: accuracy(NM(pattern="1:4", method=method).apply(module, given_).module) for method in METHODS}
    assert found["sparsegpt"] > max(found["magnitude"], found["wanda"]) + 0.1
    assert accuracy(NM(method="sparsegpt").apply(module, given_).module) > accuracy(module) - 0.02
