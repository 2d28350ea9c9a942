"""Channel pruning: what goes, what stays and why, on networks with every kind of connection."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.common import measures, store
from edgeopt.compress.common.training import Trainer
from edgeopt.compress.technique import Compressed, Context
from edgeopt.errors import CompressionError
from edgeopt.targets import loader
from examples import digits
from tests.compress import transformer_nets
from tests.compress.channels import nets

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))


def pruned(module: nn.Module, example: Any = IMAGE, **settings: Any) -> Compressed:
    return Channels(**{"multiple": 8, **settings}).apply(module.eval(), Context(example_inputs=example))


def reasons(compressed: Compressed) -> dict[str, str]:
    return {layer.layer: layer.reason for layer in compressed.record.layers if layer.action == "left"}


def width(module: nn.Module, path: str) -> int:
    layer: Any = module.get_submodule(path)
    return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))


@given(nets.plans, st.sampled_from([1, 4, 8]), st.floats(0.05, 0.8), st.sampled_from(["layer", "global"]))
@settings(max_examples=8)
def test_a_pruned_net_runs_and_computes_the_whole_one_without_these_channels(
    plan: nets.Plan, multiple: int, amount: float, scope: Any
) -> None:
    torch.manual_seed(0)
    net = nets.Random(plan).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compressed = Channels(amount=amount, multiple=multiple, scope=scope).apply(net, Context(example_inputs=IMAGE))
    assert compressed.module(IMAGE).shape == (2, 10)
    for layer in compressed.record.changed:
        made = width(compressed.module, layer.layer)
        assert made == width(net, layer.layer) or made % multiple == 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@given(nets.plans)
@settings(max_examples=6)
def test_channels_that_nothing_reads_go_without_changing_the_outputs(plan: nets.Plan) -> None:
    """The least important ones by any measure: what reads them has zeros there."""
    torch.manual_seed(0)
    net = nets.Random(plan).eval()
    head: Any = net.head
    with torch.no_grad():
        head.weight[:, ::2] = 0
    compressed = Channels(amount=0.5, multiple=1, exclude=tuple(nets.makers(net, but=net.last)), importance="activation").apply(
        net, Context(example_inputs=IMAGE, batches=[IMAGE])
    )
    assert width(compressed.module, net.last) == width(net, net.last) // 2
    torch.testing.assert_close(compressed.module(IMAGE), net(IMAGE), rtol=1e-4, atol=1e-5)


def test_nothing_to_take_away_gives_an_equal_copy_and_says_so() -> None:
    net = nets.Residual().train()
    net.stem[0].weight.requires_grad_(False)
    compressed = Channels(amount=0.0).apply(net, Context(example_inputs=IMAGE))
    assert compressed.module is not net and not compressed.record.changed
    assert "no channel was taken away" in compressed.record.notes[0]
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), compressed.module.state_dict().values(), strict=True)
    )


def test_mode_frozen_weights_dtype_and_buffers_stay_and_no_hooks_or_gradients_are_left() -> None:
    net = nets.Residual().bfloat16().train()
    net.stem[0].weight.requires_grad_(False)
    net.stem[1].eval()
    image = IMAGE.bfloat16()
    net(image).sum().backward()
    found: Any = Channels(amount=0.5).apply(net, Context(example_inputs=image)).module
    assert found.training and not found.stem[1].training and found.stem[0].out_channels == 16
    assert not found.stem[0].weight.requires_grad and found.fc.weight.requires_grad
    assert {value.dtype for value in found.parameters()} == {torch.bfloat16}
    assert found.stem[1].running_mean.shape == (16,) and found.a[1].num_batches_tracked == 1
    assert all(value.grad is None for value in found.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in found.modules())
    assert net.stem[0].out_channels == 32 and net.fc.weight.grad is not None


@pytest.mark.parametrize(
    ("net", "widths"),
    [
        (nets.Residual(), {"stem.0": 16, "b.0": 16, "a.0": 24, "down": 32, "c.0": 32, "fc": 10}),
        (nets.Concat(), {"a.0": 8, "b.0": 16, "c.0": 24, "d.0": 16, "fc": 10}),
        (nets.Grouped(), {"a.0": 16, "dw.0": 16, "pw.0": 32, "g.0": 32, "p2.0": 16, "mult.0": 32}),
        (nets.Gated(), {"a.0": 16, "f1": 8, "f2": 16, "b.0": 16, "fc": 10}),
        (nets.Shuffled(), {"a.0": 16, "b.0": 16, "glu.0": 32, "fc": 10}),
        (nets.Normed(), {"a.0": 16, "b.0": 16, "d.0": 16, "c": 4}),
        (nets.UNet(), {"a.0": 8, "d.0": 16, "u": 8, "o.0": 8, "out": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_whose_channels_meet_lose_the_same_ones(net: nn.Module, widths: dict[str, int]) -> None:
    module = pruned(net).module
    assert {path: width(module, path) for path in widths} == widths


@pytest.mark.parametrize(
    ("net", "example", "layer", "reason"),
    [
        (nets.Fixed(), IMAGE, "b.0", "forward does not run with fewer channels"),
        (nets.Shared(), IMAGE, "b", "shares its weights with c"),
        (nets.Features(), IMAGE, "a.0", "they are the model's outputs"),
        (nets.Normed(), IMAGE, "a.0", "mixes them (mean)"),
        (nets.Encoder(), SERIES, "emb", "layer norm"),
        (nets.Encoder(), SERIES, "enc.layers.0.self_attn", "whole heads"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_that_stay_are_listed_with_the_reason(net: nn.Module, example: Tensor, layer: str, reason: str) -> None:
    compressed = pruned(net, example)
    found = {one.layer: one.reason for one in compressed.record.layers}
    assert reason in found[layer]
    assert width(compressed.module, layer) == width(net, layer)
    assert compressed.record.changed or isinstance(net, nets.Shared)


def test_mlps_of_a_transformer_encoder_become_narrower() -> None:
    net = nets.Encoder().eval()
    module: Any = pruned(net, SERIES).module
    assert [layer.linear1.out_features for layer in module.enc.layers] == [32, 32]
    with torch.no_grad():  # torch's own fused path for encoders is for inference only
        torch.testing.assert_close(module(SERIES), module.requires_grad_(True)(SERIES), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("measure", ["macs", "parameters"])
def test_at_least_the_share_of_macs_or_parameters_goes_and_little_more(measure: Any, scope: Any) -> None:
    net = nets.Residual().eval()
    module = pruned(net, measure=measure, scope=scope, amount=0.4, multiple=2).module
    count = measures.parameters if measure == "parameters" else lambda one: measures.macs(one, IMAGE)
    assert 0.4 <= 1 - count(module) / count(net) < 0.43


@pytest.mark.parametrize("importance", ["l1", "l2", "batch-norm", "taylor", "activation"])
def test_a_channel_that_does_nothing_goes_first(importance: Any) -> None:
    net: Any = nets.Residual().eval()
    dead = list(range(0, 48, 2))
    with torch.no_grad():
        net.a[0].weight[dead] *= 1e-4
        net.a[1].weight[dead] *= 1e-4
        net.a[1].bias.fill_(1)
        net.a[1].bias[dead] = 0
        net.b[0].weight[:, dead] *= 1e-4
    kept = net.b[0].weight[:, 1::2].clone()
    context = Context(example_inputs=IMAGE, batches=[IMAGE])
    exclude = ("stem", "c", "down", "b")
    module: Any = Channels(importance=importance, exclude=exclude, amount=0.5).apply(net, context).module
    assert torch.equal(module.b[0].weight, kept)


def test_taylor_takes_the_users_loss_where_there_is_one() -> None:
    """Only the first class counts in this loss: what the others read goes, however large."""
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    head: Any = net[2]
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, :8] = 0.1
        head.weight[1, 8:] = 10
    context = Context(
        example_inputs=SERIES, train_step=lambda module, batch: module(batch)[..., 0].sum(), train_batches=[SERIES]
    )
    module: Any = Channels(importance="taylor", multiple=8).apply(net, context).module
    assert not module[2].weight[1].any()


def test_in_rounds_it_trains_between_them_and_arrives_at_the_same_share() -> None:
    trained: list[int] = []

    def fit(module: nn.Module, epochs: int) -> None:
        trained.append(width(module, "stem.0"))

    context = Context(example_inputs=IMAGE, fit=fit)
    module = Channels(amount=0.5, rounds=4, epochs_between=1, multiple=4).apply(nets.Residual().eval(), context).module
    assert trained == [28, 24, 20] and width(module, "stem.0") == 16


def test_rounds_without_training_code_say_so() -> None:
    assert "nothing was fine-tuned" in pruned(nets.Residual(), rounds=2).record.notes[-1]


def test_the_target_decides_of_what_the_channels_are_a_multiple() -> None:
    profile = loader.load("x86-fbgemm")
    context = Context(example_inputs=IMAGE, profile=profile)
    compressed = Channels(amount=0.4).apply(nets.Residual().eval(), context)
    assert compressed.record.settings["multiple"] == profile.channel_multiple == 16
    assert {width(compressed.module, path) for path in ("stem.0", "a.0", "c.0")} == {16, 32}


def test_a_multiple_that_the_target_does_not_like_is_said() -> None:
    context = Context(example_inputs=IMAGE, profile=loader.load("x86-fbgemm"))
    noted = Channels(multiple=8).apply(nets.Residual().eval(), context).record.notes
    assert "x86-fbgemm computes 16 channels at once" in noted[-1]


def test_excluded_layers_and_those_tied_to_them_keep_their_channels() -> None:
    found = reasons(pruned(nets.Residual(), exclude=("stem",)))
    assert found["stem.0"].startswith("stem.0 is excluded") and "b.0" in found["stem.0"]
    assert pruned(nets.Residual(), exclude=("",)).record.changed == ()


def test_blocks_without_batch_norm_stay_where_batch_norms_are_asked() -> None:
    assert reasons(pruned(nets.Recurrent(nn.GRU), SERIES, importance="batch-norm"))["conv"] == "no batch norm to judge it by"


def test_impossible_requests_are_refused_with_the_layer_or_the_figure() -> None:
    with pytest.raises(CompressionError, match=r"99% of the channels empties .*(stem.0|b.0)"):
        pruned(nets.Residual(), amount=0.99, multiple=1)
    with pytest.raises(CompressionError, match="every layer at its least"):
        pruned(nets.Residual(), amount=0.99, measure="macs")
    with pytest.raises(CompressionError, match="measured on data"):
        pruned(nets.Residual(), importance="taylor")
    with pytest.raises(CompressionError, match="did you mean 'stem'"):
        pruned(nets.Residual(), exclude=("stemm",))
    for wrong in ({"amount": 1.0}, {"multiple": 0}, {"rounds": 0}, {"epochs_between": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Channels(**wrong)  # type: ignore[arg-type]


def test_a_forward_without_gradients_is_followed_like_any_other() -> None:
    assert "the model's outputs" in reasons(pruned(nets.Opaque(), SERIES))["a"]


def test_a_share_that_cannot_be_reached_names_the_layers_that_stay_and_why() -> None:
    with pytest.raises(CompressionError, match=r"emb: they pass a layer norm"):
        pruned(nets.Encoder(), SERIES, measure="macs", amount=0.9)


def test_the_pruned_module_is_read_back_from_a_file(tmp_path: Path) -> None:
    net = nets.Residual()
    module = pruned(net).module
    store.save(module, tmp_path / "net.pt")
    assert torch.equal(store.load(tmp_path / "net.pt", like=net)(IMAGE), module(IMAGE))


@pytest.mark.slow
@given(nets.plans)
@settings(max_examples=5)
def test_pruned_nets_are_captured_by_torch_export(plan: nets.Plan) -> None:
    module = pruned(nets.Random(plan)).module
    program = torch.export.export(module, (IMAGE,))
    torch.testing.assert_close(program.module()(IMAGE), module(IMAGE))


@pytest.mark.slow
@pytest.mark.parametrize("family", [transformer_nets.llama, transformer_nets.vit, transformer_nets.distilbert])
def test_mlps_of_hugging_faces_models_narrow_attention_stays_and_the_configuration_says_so(family: Any, tmp_path: Path) -> None:
    model, inputs = family()
    compressed = pruned(model, inputs, amount=0.33)
    changed = {layer.layer for layer in compressed.record.changed}
    assert changed and not any("attn" in name or ("attention" in name and "output.dense" not in name) for name in changed)
    found: Any = compressed.module
    found.save_pretrained(tmp_path)
    read = type(found).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(**inputs)[0], found(**inputs)[0])


@pytest.mark.slow
def test_half_of_the_macs_of_the_digits_net_cost_little_after_fine_tuning() -> None:
    """Of several orders of the batches: sums of floats differ between processors, and each trains another network."""
    net, (images, labels, test_images, test_labels) = digits.trained(), digits.data()

    def step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    def accuracy(module: nn.Module) -> float:
        return float((module.eval()(test_images).argmax(1) == test_labels).float().mean())

    found = []
    for seed in range(4):
        orders = torch.Generator().manual_seed(seed)

        def epoch(orders: torch.Generator = orders) -> list[tuple[Tensor, Tensor]]:
            return [(images[rows], labels[rows]) for rows in torch.randperm(len(images), generator=orders).split(32)]

        trainer = Trainer(train_step=step, batches=epoch)
        context = Context(example_inputs=test_images[:1], fit=trainer.fit)
        module = Channels(measure="macs", amount=0.5, rounds=2).apply(net, context).module
        assert accuracy(module) < accuracy(net) - 0.1  # what there is to win back
        trainer.fit(module, 4)
        assert measures.macs(module, test_images[:1]) <= 0.5 * measures.macs(net, test_images[:1])
        found.append(accuracy(module))
    assert sum(found) / len(found) > accuracy(net) - 0.015
