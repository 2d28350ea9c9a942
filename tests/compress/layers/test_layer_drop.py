"""Layers go as a whole; the shorter model computes what the whole one does with them let through, and says so in its files."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.layers.layer_drop import Layers, block_influence
from edgeopt.compress.layers.stacks import stacks
from edgeopt.compress.technique import Context
from edgeopt.core import from_data
from edgeopt.errors import CompressionError
from tests.compress import transformer_nets as nets

IDS = Context(example_inputs={"input_ids": nets.IDS})


def _first(module: nn.Module, inputs: object) -> Tensor:
    with torch.no_grad():
        found = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first


@pytest.mark.parametrize("name", [*sorted(nets.FAMILIES), "t5"])
def test_every_family_runs_with_a_layer_less_and_from_pretrained_reads_it(name: str, tmp_path: Path) -> None:
    model, inputs = nets.FAMILIES[name]() if name != "t5" else nets.t5()

    compressed = Layers(count=1).apply(model, Context(example_inputs=inputs))

    stacked = {change.layer.rpartition(".")[0] for change in compressed.record.layers}
    assert len(compressed.record.changed) == len(stacked)  # one from each
    assert all("from_pretrained" not in note for note in compressed.record.notes)
    compressed.module.save_pretrained(tmp_path)  # type: ignore[operator]
    back = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(_first(back, inputs), _first(compressed.module, inputs))


def test_caches_follow_the_new_numbers() -> None:
    model, inputs = nets.llama()
    short = Layers(count=1).apply(model, Context(example_inputs=inputs)).module

    made = short.generate(nets.IDS, max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    without = short.generate(nets.IDS, max_new_tokens=4, do_sample=False, use_cache=False)  # type: ignore[operator]

    assert [layer.self_attn.layer_idx for layer in short.model.layers] == [0, 1]  # type: ignore[union-attr]
    assert torch.equal(made, without)


def test_lists_by_layer_in_a_configuration_lose_the_dropped_ones(tmp_path: Path) -> None:
    import transformers as hf

    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Qwen3Config(
        **nets.COMMON, num_key_value_heads=2, head_dim=8, layer_types=kinds, sliding_window=4, use_sliding_window=True
    )
    torch.manual_seed(0)
    model = hf.Qwen3ForCausalLM(config).eval()

    short = Layers(count=1, exclude=("model.layers.0", "model.layers.1")).apply(model, IDS).module

    assert short.config.layer_types == kinds[:2]  # type: ignore[union-attr]
    assert model.config.layer_types == kinds
    short.save_pretrained(tmp_path)  # type: ignore[operator]
    torch.testing.assert_close(
        _first(type(model).from_pretrained(tmp_path).eval(), IDS.example_inputs), _first(short, IDS.example_inputs)
    )


@pytest.mark.parametrize("importance", ["output", "cosine"])
@pytest.mark.parametrize("idle", [0, 2])
def test_a_layer_that_does_nothing_goes_first_and_nothing_changes(importance: str, idle: int) -> None:
    model, inputs = nets.llama()
    with torch.no_grad():
        model.model.layers[idle].self_attn.o_proj.weight.zero_()
        model.model.layers[idle].mlp.down_proj.weight.zero_()

    compressed = Layers(count=1, importance=importance).apply(model, Context(example_inputs=inputs))  # type: ignore[arg-type]

    assert [change.layer for change in compressed.record.changed] == [f"model.layers.{idle}"]
    torch.testing.assert_close(_first(compressed.module, inputs), _first(model, inputs))


@settings(max_examples=8)
@given(total=st.integers(2, 5), count=st.integers(0, 4), batch_first=st.booleans())
def test_torchs_encoder_is_as_long_as_asked(total: int, count: int, batch_first: bool) -> None:
    model, inputs = nets.plain_encoder(batch_first, total), torch.randn(2, 5, nets.HIDDEN)
    if count >= total:
        with pytest.raises(CompressionError, match=f"drop at most {total - 1}"):
            Layers(count=count).apply(model, Context(example_inputs=inputs))
        return

    compressed = Layers(count=count, importance="cosine").apply(model, Context(example_inputs=inputs))

    assert len(compressed.module.layers) == compressed.module.num_layers == total - count  # type: ignore[arg-type]
    kept = [int(change.layer.split(".")[1]) for change in compressed.record.layers if change.action == "left"]
    value = inputs
    for index in kept:
        value = _first(model.layers[index], value)
    torch.testing.assert_close(_first(compressed.module, inputs), value)


def test_blocks_of_a_residual_cnn_go_where_shapes_allow_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nets.ResidualNet().eval()
    image = torch.randn(2, 3, 16, 16)

    compressed = Layers(count=1).apply(model, Context(example_inputs=image))

    assert {change.layer for change in compressed.record.layers if change.action == "left" and "shape" in change.reason} == {
        "stages.0.0", "stages.1.0",
    }  # fmt: skip
    assert len(compressed.record.changed) == 2
    store.save(compressed.module, tmp_path / "module.pt")
    torch.testing.assert_close(_first(store.load(tmp_path / "module.pt", model), image), _first(compressed.module, image))


def test_block_influence_is_zero_for_an_identity_and_one_for_what_is_orthogonal() -> None:
    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([-x[..., 1], x[..., 0]], -1)

    net = nn.Sequential(nn.Identity(), Turn())
    found = block_influence(net, dict(net.named_children()), [torch.randn(4, 2)] * 3)

    assert found["0"] == pytest.approx(0, abs=1e-5) and found["1"] == pytest.approx(3, abs=1e-5)


def test_modes_gradients_and_the_original_stay() -> None:
    model = nets.bert().train()
    model.encoder.layer[0].requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    short = Layers(amount=0.34).apply(model, IDS).module

    assert short.training and len(short.encoder.layer) == 2 and len(model.encoder.layer) == 3  # type: ignore[union-attr, arg-type]
    assert model.config.num_hidden_layers == 3
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(child._forward_hooks for child in short.modules())


def test_nothing_to_drop_is_an_equal_copy_and_a_note() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    inputs = torch.randn(2, 4)

    compressed = Layers(amount=0.5).apply(model, Context(example_inputs=inputs))

    assert torch.equal(_first(compressed.module, inputs), _first(model, inputs))
    assert "no two layers in a row" in compressed.record.notes[0]
    (note,) = Layers(amount=0.1).apply(nets.bert(), IDS).record.notes
    assert note == "no layer was dropped, the model is as it was"


def test_parallel_branches_are_refused_rather_than_broken() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.cat([branch(x) for branch in self.branches], -1))
            return found

    with pytest.raises(CompressionError, match="does not run with fewer layers"):
        Layers(count=1).apply(Branches(), Context(example_inputs=torch.randn(2, 4)))


def test_stages_are_no_layers_but_alike_blocks_of_containers_are() -> None:
    assert [stack.path for stack in stacks(nets.ResidualNet())] == ["stages.0", "stages.1"]
    assert [stack.path for stack in stacks(nets.t5()[0])] == ["encoder.block", "decoder.block"]


@pytest.mark.parametrize("wrong", [{"amount": 1}, {"amount": -1}, {"count": -1}, {"batches": 0}, {"importance": "size"}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_data(Layers, wrong)
