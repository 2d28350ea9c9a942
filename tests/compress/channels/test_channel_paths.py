"""Channels on every way that code of a model's own sends them: what is cut computes the whole without it, on any input."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress import Channels, Context, Trainer, fine_tune
from edgeopt.compress.channels.groups import Block, Groups, united
from edgeopt.compress.channels.labels import split_axes
from edgeopt.compress.channels.surgery import cut, difference, tried
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.technique import Compressed
from edgeopt.errors import CompressionError
from tests.compress.channels import path_nets as nets

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))


def pruned(module: nn.Module, example: Tensor, **settings: Any) -> Compressed:
    return Channels(**{"multiple": 1, **settings}).apply(module.eval(), Context(example_inputs=example))


def sizes(module: nn.Module, *paths: str) -> list[int]:
    names = ("out_channels", "out_features", "hidden_size", "num_channels")
    layers: list[Any] = [module.get_submodule(path) for path in paths]
    return [next(getattr(layer, name) for name in names if hasattr(layer, name)) for layer in layers]


NETS: list[tuple[nn.Module, Tensor, dict[str, int]]] = [
    *((nets.Split(how), IMAGE, {"stem.0": 12, "cv1.0": 16, "inner.0": 8, "cv2.0": 16}) for how in ("chunk", "split", "sizes")),
    *((nets.Split(how), IMAGE, {"stem.0": 12, "cv1.0": 16, "inner.0": 8, "cv2.0": 16}) for how in ("slices", "view")),
    (nets.Split("fixed"), IMAGE, {"stem.0": 12, "cv1.0": 32, "inner.0": 16, "cv2.0": 16}),
    *((nets.ShuffleUnits(units), IMAGE, {"end.0": 16}) for units in (1, 2, 3, 5)),
    (nets.MapAttention(), IMAGE, {"stem.0": 8, "qkv": 48, "proj": 8, "end.0": 8}),
    (nets.FusedGate(interleaved=False), SERIES, {"emb": 16, "gate_up": 48, "down": 16, "b": 32}),
    (nets.FusedGate(interleaved=True), SERIES, {"emb": 16, "gate_up": 48, "down": 16, "b": 32}),
    (nets.PixelShuffled(by_hand=False), IMAGE, {"a.0": 32, "b.0": 8, "out": 3}),
    (nets.PixelShuffled(by_hand=True), IMAGE, {"a.0": 32, "b.0": 8, "out": 3}),
    (nets.GroupNorms(8), IMAGE, {"a": 16, "n": 16, "b": 16, "m": 16}),
    (nets.GroupNorms(1), IMAGE, {"a": 32, "b": 32}),
    (nets.Auxiliary(), IMAGE, {"a.0": 16, "b.0": 32}),
    (nets.Branches(), IMAGE.abs(), {"a.0": 16, "day.0": 16, "night.0": 16}),
    (nets.Recurrence(nn.LSTM), SERIES, {"e": 16, "r": 24}),
    (nets.Recurrence(nn.GRU, num_layers=2, bidirectional=True), SERIES, {"e": 16, "r": 24}),
    (nets.Recurrence(nn.RNN, state=True, num_layers=2), SERIES, {"e": 16, "r": 24}),
    (nets.Recurrence(nn.LSTM, state=True, bias=False), SERIES, {"e": 16, "r": 24}),
    (nets.Tokens(), SERIES, {"e": 16, "a": 32}),
]


@pytest.mark.parametrize(("net", "example", "widths"), NETS, ids=lambda value: type(value).__name__)
def test_channels_are_followed_through_the_models_own_code(net: nn.Module, example: Tensor, widths: dict[str, int]) -> None:
    module = pruned(net, example).module
    assert dict(zip(widths, sizes(module, *widths), strict=True)) == widths


def every_plan(blocks: list[Block], seed: int) -> dict[int, frozenset[int]]:
    """Any choice of units in any number."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for index, one in enumerate(blocks):
        if not one.reason and len(one.units) > 1:
            number = int(torch.randint(1, len(one.units), (), generator=generator))
            units = torch.randperm(len(one.units), generator=generator)[:number].tolist()
            chosen[index] = frozenset(channel for unit in units for channel in one.units[unit])
    return chosen


@pytest.mark.parametrize(("net", "example", "widths"), NETS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_any_choice_of_channels_can_go_and_nothing_else_changes(
    net: nn.Module, example: Tensor, widths: Any, seed: int
) -> None:
    net.eval()
    blocks = tried(net, Groups(net, example), example)
    plan = every_plan(blocks, seed)
    assert difference(net, blocks, plan, example) == ""
    smaller = cut(net, blocks, plan)
    smaller.train()(example)
    assert all(smaller.eval()(batch) is not None for _, batch in unlike(example))


@pytest.mark.parametrize(
    "net", [nets.GroupNorms(8), nets.ShuffleUnits(3), nets.Recurrence(nn.GRU)], ids=lambda net: type(net).__name__
)
def test_the_reference_is_the_whole_net_with_these_channels_silenced_for_their_readers(net: Any) -> None:
    """Silenced here by hand in the readers' weights, which knows nothing of blocks."""
    example = SERIES if isinstance(net, nets.Recurrence) else IMAGE
    readers = {"GroupNorms": ["b", "fc"], "ShuffleUnits": ["fc"], "Recurrence": ["o"]}[type(net).__name__]
    silent = range(16)
    with torch.no_grad():
        for path in readers:
            net.get_submodule(path).weight[:, list(silent)] = 0
        if isinstance(net, nets.Recurrence):
            net.r.weight_hh_l0[:, list(silent)] = 0
    exclude = tuple(name for name in ("stem", "units", "e") if hasattr(net, name))
    done = Channels(
        amount=1 / 3 if isinstance(net, nets.Recurrence) else 0.5, multiple=1, importance="activation", exclude=exclude
    )
    module = done.apply(net.eval(), Context(example_inputs=example, batches=[example])).module
    torch.testing.assert_close(module(example), net(example), rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in module.parameters()) < sum(value.numel() for value in net.parameters())


@pytest.mark.parametrize("where", ["training", "always", "never"])
def test_a_head_that_only_training_calls_trains_on_after_the_cut(where: str) -> None:
    net = nets.Auxiliary(where)
    done = pruned(net, IMAGE)

    def step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found = module(batch[0])
        scores, aux = found if isinstance(found, tuple) else (found, found)
        return nn.functional.cross_entropy(scores, batch[1]) + nn.functional.cross_entropy(aux, batch[1])

    fine_tune(Trainer(train_step=step, batches=[(IMAGE, torch.tensor([0, 1]))]).fit, done.module, 1)
    if where == "never":  # what no run calls may read these channels: they stay
        assert sizes(done.module, "a.0") == [32]
        assert "aux is not called" in next(one.reason for one in done.record.layers if one.layer == "a.0")
    aux: Any = done.module.get_submodule("aux")
    assert aux.in_features == sizes(done.module, "a.0")[0]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_layers_whose_weights_are_computed_stay_and_the_reason_says_what_to_call(norm: Any) -> None:
    net = nn.Sequential(norm(nn.Linear(3, 32)), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    done = pruned(net, SERIES)
    found = {one.layer: one.reason for one in done.record.layers}
    assert "remove_parametrizations" in found["0"] and sizes(done.module, "0", "2") == [32, 8]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_old_style_weight_norm_stays_too() -> None:
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 32)), nn.ReLU(), nn.Linear(32, 4))
    net(SERIES)
    assert "remove_weight_norm" in {one.layer: one.reason for one in pruned(net, SERIES).record.layers}["0"]


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_recurrent_layers_with_projections_stay() -> None:
    done = pruned(nets.Recurrence(nn.LSTM, proj_size=24), SERIES)
    assert sizes(done.module, "e", "r") == [32, 48]
    assert "a recurrent layer" in {one.layer: one.reason for one in done.record.layers}["e"]


def test_a_share_that_norms_hold_back_is_refused_by_name() -> None:
    with pytest.raises(CompressionError, match="a: they pass a group norm"):
        pruned(nets.GroupNorms(1), IMAGE, measure="macs")


def test_labels_that_are_one_become_one() -> None:
    roots = united(8, [torch.tensor([[1, 2, 6], [2, 3, 7]]), torch.tensor([[5], [3]])])
    assert roots.tolist() == [0, 1, 1, 1, 4, 1, 6, 6]


def test_views_say_which_axes_became_several() -> None:
    assert split_axes(torch.Size([2, 32, 4, 4]), torch.Size([2, 2, 16, 4, 4])) == [[1, 2]]
    assert split_axes(torch.Size([2, 2, 16, 4]), torch.Size([2, 32, 4])) == []
    assert split_axes(torch.Size([6, 4]), torch.Size([3, 8])) == [[0, 1]]
