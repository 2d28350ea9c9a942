"""Heads go with their rows and columns; the cut model computes what the whole one does without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.common.attention import SlimAttention
from edgeopt.compress.common.pretrained import load_pretrained
from edgeopt.compress.heads.heads import Heads
from edgeopt.compress.layers.layer_drop import Layers
from edgeopt.compress.technique import Context
from edgeopt.core import from_data
from edgeopt.errors import CompressionError, NotFiniteError
from edgeopt.targets.loader import load
from tests.compress import transformer_nets as nets

IDS = Context(example_inputs={"input_ids": nets.IDS})


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    state, found = one.state_dict(), other.state_dict()
    return state.keys() == found.keys() and all(torch.equal(state[name], found[name]) for name in state)


def _first(module: nn.Module, inputs: object) -> Tensor:
    with torch.no_grad():
        found = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first


@pytest.mark.parametrize("name", sorted(nets.FAMILIES))
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_family_runs_with_half_its_heads_and_reads_back(name: str, scope: str, tmp_path: Path) -> None:
    model, inputs = nets.FAMILIES[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    compressed = Heads(amount=0.5, scope=scope).apply(model, Context(example_inputs=inputs))  # type: ignore[arg-type]

    assert compressed.record.changed, compressed.record
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    compressed.module.save_pretrained(tmp_path)  # type: ignore[operator]
    back = load_pretrained(type(model), tmp_path).eval()
    assert type(back) is type(model)
    assert _same_weights(compressed.module, back)
    torch.testing.assert_close(_first(back, inputs), _first(compressed.module, inputs))


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_a_configuration_that_can_say_the_head_count_needs_no_loader_of_ours(name: str, tmp_path: Path) -> None:
    model, inputs = nets.FAMILIES[name]()

    compressed = Heads(amount=0.5).apply(model, Context(example_inputs=inputs))
    compressed.module.save_pretrained(tmp_path)  # type: ignore[operator]

    back = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(_first(back, inputs), _first(compressed.module, inputs))
    assert len(compressed.record.notes) == 1


def test_a_second_cut_remembers_the_first(tmp_path: Path) -> None:
    model = nets.bert()
    once = Heads(count=1, scope="global").apply(model, IDS).module
    twice = Heads(count=2, scope="global").apply(once, IDS).module
    twice.save_pretrained(tmp_path)  # type: ignore[operator]

    assert _same_weights(twice, load_pretrained(type(model), tmp_path))


@pytest.mark.parametrize("importance", ["gradient", "ablation"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_heads_that_do_nothing_go_first_and_nothing_changes(importance: str, scope: str) -> None:
    model = nets.bert()
    with torch.no_grad():  # head 2 of layer 0 and head 1 of the others hand nothing on
        for number, layer in enumerate(model.encoder.layer):
            start = (2 if number == 0 else 1) * 8
            layer.attention.output.dense.weight[:, start : start + 8] = 0

    compressed = Heads(count=1 if scope == "layer" else 3, scope=scope, importance=importance).apply(model, IDS)  # type: ignore[arg-type]

    torch.testing.assert_close(_first(compressed.module, IDS.example_inputs), _first(model, IDS.example_inputs))
    assert [change.reason[-1] for change in compressed.record.changed] == ["2", "1", "1"]
    assert model.encoder.layer[0].attention.self.num_attention_heads == 4
    assert compressed.module.encoder.layer[0].attention.self.num_attention_heads == 3  # type: ignore[union-attr, index]


def test_key_value_groups_stay_whole() -> None:
    model, inputs = nets.FAMILIES["llama"]()

    compressed = Heads(amount=0.5).apply(model, Context(example_inputs=inputs))

    attention = compressed.module.model.layers[0].self_attn  # type: ignore[union-attr, index]
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (16, 8)  # of 32 and 16
    assert compressed.module.config.num_key_value_heads == 1  # type: ignore[union-attr]
    assert compressed.record.changed[0].before == "4 heads on 2 key-value heads"


@pytest.mark.parametrize("batch_first", [True, False])
def test_plain_torch_encoders_lose_heads(batch_first: bool, tmp_path: Path) -> None:
    model = nets.plain_encoder(batch_first=batch_first)
    inputs = torch.randn(3, 5, 32)

    compressed = Heads(amount=0.5, exclude=("layers.1",)).apply(model, Context(example_inputs=inputs))

    first, second = (layer.self_attn for layer in compressed.module.layers)  # type: ignore[union-attr]
    assert isinstance(first, SlimAttention) and first.num_heads == 2 and first.out_proj.in_features == 16
    assert isinstance(second, nn.MultiheadAttention)
    store.save(compressed.module, tmp_path / "module.pt")
    back = store.load(tmp_path / "module.pt", like=model)
    torch.testing.assert_close(_first(back, inputs), _first(compressed.module, inputs))


@pytest.mark.parametrize("mask", ["none", "padding", "causal", "heads"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_slim_attention_computes_what_torchs_own_does(mask: str, batch_first: bool) -> None:
    own = nn.MultiheadAttention(24, 3, batch_first=batch_first, kdim=10, vdim=12).eval()
    query, key, value = (torch.randn(2, 4, width) for width in (24, 10, 12))
    masks: dict[str, Tensor] = {
        "padding": torch.tensor([[False, False, True, True], [False, False, False, True]]),
        "causal": torch.triu(torch.ones(4, 4, dtype=torch.bool), 1),
        "heads": torch.randn(6, 4, 4),
    }
    named = {"key_padding_mask": masks["padding"]} if mask == "padding" else {"attn_mask": masks.get(mask)}
    if not batch_first:
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))

    for average in (True, False):
        expected = own(query, key, value, average_attn_weights=average, **named)
        found = SlimAttention(own)(query, key, value, average_attn_weights=average, **named)
        torch.testing.assert_close(found, expected)
    without = SlimAttention(own)(query, key, value, need_weights=False, **named)
    torch.testing.assert_close(without[0], expected[0])
    assert without[1] is None


def test_a_single_sequence_without_a_batch_axis_works() -> None:
    own = nn.MultiheadAttention(24, 3).eval()
    sequence = torch.randn(5, 24)

    torch.testing.assert_close(SlimAttention(own)(sequence, sequence, sequence), own(sequence, sequence, sequence))


def test_nothing_removed_is_an_equal_copy_with_torchs_own_attention_and_a_note() -> None:
    model = nets.plain_encoder().train()
    model.layers[0].requires_grad_(False)

    compressed = Heads(amount=0.1).apply(model, Context(example_inputs=torch.randn(1, 5, 32)))

    assert _same_weights(model, compressed.module)
    assert compressed.module is not model and compressed.module.training
    assert [p.requires_grad for p in compressed.module.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not any(isinstance(child, SlimAttention) for child in compressed.module.modules())
    assert compressed.module.use_nested_tensor == model.use_nested_tensor
    assert compressed.record.notes == ("no head was removed: the model is as it was",)


def test_modes_and_gradients_stay_where_heads_go() -> None:
    model = nets.bert().train()
    model.encoder.layer[0].eval().requires_grad_(False)

    copy = Heads(amount=0.5).apply(model, IDS).module

    assert [child.training for child in copy.modules()] == [child.training for child in model.modules()]
    assert {n for n, p in copy.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert all(parameter.grad is None for parameter in (*copy.parameters(), *model.parameters()))
    assert not any(child._forward_pre_hooks for child in copy.modules())


def test_the_training_loss_decides_where_there_is_one() -> None:
    model = nets.bert()
    wanted = torch.randn(nets.HIDDEN)

    def step(net: nn.Module, batch: Tensor) -> Tensor:
        loss: Tensor = (net(batch).last_hidden_state @ wanted).square().mean()
        return loss

    told = Context(example_inputs=IDS.example_inputs, train_step=step, train_batches=[nets.IDS, nets.IDS])
    changes = Heads(amount=0.5).apply(model, told).record.changed

    assert len(changes) == 3
    assert changes != Heads(amount=0.5).apply(model, IDS).record.changed


def test_layers_that_cannot_lose_heads_are_left_with_the_reason() -> None:
    model, inputs = nets.t5()
    record = Heads(amount=0.5).apply(model, Context(example_inputs=inputs)).record

    assert len(record.layers) == 6 and not record.changed
    assert {layer.reason for layer in record.layers} == {"its heads add a position bias that all layers share"}
    extended = nn.MultiheadAttention(16, 2, add_bias_kv=True)
    sequence = torch.randn(4, 1, 16)
    (left,) = Heads(amount=0.5).apply(extended, Context(example_inputs=(sequence,) * 3)).record.layers
    assert "learnt bias" in left.reason


def test_a_layer_that_does_not_run_is_left() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nets.plain_encoder(), nets.plain_encoder()

        def forward(self, sequence: Tensor) -> Tensor:
            found: Tensor = self.used(sequence)
            return found

    record = Heads(amount=0.5).apply(Branching().eval(), Context(example_inputs=torch.randn(1, 5, 32))).record

    assert [layer.layer.split(".")[0] for layer in record.changed] == ["used", "used"]
    assert {layer.reason for layer in record.layers if layer.action == "left"} == {
        "it does not run on this data: nothing tells which heads matter"
    }


def test_shared_weights_stay() -> None:
    model = nets.bert()
    model.encoder.layer[1].attention.self.key.weight = model.encoder.layer[0].attention.self.key.weight

    record = Heads(amount=0.5).apply(model, IDS).record

    assert [layer.reason for layer in record.layers if layer.action == "left"] == ["other layers share its weights"] * 2


def test_dropping_layers_afterwards_renumbers_what_is_gone(tmp_path: Path) -> None:
    model = nets.bert()
    cut: Any = Heads(count=4, scope="global", exclude=("encoder.layer.0",)).apply(model, IDS).module
    short: Any = Layers(count=1, exclude=("encoder.layer.1", "encoder.layer.2")).apply(cut, IDS).module
    short.save_pretrained(tmp_path)

    assert set(cut.config.pruned_heads) == {1, 2} and set(short.config.pruned_heads) == {0, 1}
    assert _same_weights(short, load_pretrained(type(model), tmp_path))


def test_the_whole_module_goes_through_a_file(tmp_path: Path) -> None:
    model = nets.bert()
    cut = Heads(amount=0.5, scope="global").apply(model, IDS).module
    store.save(cut, tmp_path / "module.pt")

    back = store.load(tmp_path / "module.pt", like=model)
    torch.testing.assert_close(_first(back, IDS.example_inputs), _first(cut, IDS.example_inputs))


def test_a_target_that_likes_other_widths_is_told_of() -> None:
    told = Context(example_inputs=IDS.example_inputs, profile=load("x86-fbgemm"))

    notes = Heads(count=1).apply(nets.bert(), told).record.notes

    assert any("24 wide: the target's kernels like multiples of 16" in note for note in notes)


def test_unknown_names_and_outputs_without_numbers_are_refused() -> None:
    with pytest.raises(CompressionError, match="exclude names"):
        Heads(exclude=("encoder.layer.00",)).apply(nets.bert(), IDS)
    overflowing = nets.bert()
    torch.nn.init.constant_(overflowing.embeddings.word_embeddings.weight, 3e38)
    with pytest.raises(NotFiniteError, match="outputs hold NaN"):
        Heads(importance="ablation").apply(overflowing, IDS)


def test_emptying_a_layer_is_refused() -> None:
    with pytest.raises(CompressionError, match="4 heads cannot be removed"):
        Heads(count=4).apply(nets.bert(), IDS)
    with pytest.raises(CompressionError, match="remove at most 9"):
        Heads(count=10, scope="global").apply(nets.bert(), IDS)


@pytest.mark.parametrize("settings", [{"amount": 1.0}, {"amount": -0.1}, {"count": -1}, {"batches": 0}, {"scope": "model"}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_data(Heads, settings)


def test_a_model_whose_heads_lie_elsewhere_is_refused_and_stays_as_it_was() -> None:
    class Reversed(nn.Module):
        """Has the usual names, but reads its heads from the last to the first."""

        def __init__(self) -> None:
            super().__init__()
            self.head_dim = 4
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
            mixed = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).flip(1).transpose(1, 2).flatten(2)
            found: Tensor = self.o_proj(mixed)
            return found

    model = Reversed()
    with pytest.raises(CompressionError, match="do not lie where"):
        Heads(amount=0.5).apply(model, Context(example_inputs=torch.randn(2, 5, 8)))
    assert model.q_proj.out_features == 8
