"""The second moment M of a layer's inputs: W M W^T is that of its outputs, whatever the layer."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.layer_inputs import Observed
from edgeopt.compress.zeros.masks import weights_of
from edgeopt.errors import ForwardError
from edgeopt.quantize.replay import matrix

LAYERS = {
    "linear": (nn.Linear(6, 5, bias=False), (3, 2, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, bias=False), (2, 4, 11)),
    "conv2d same": (nn.Conv2d(4, 6, (3, 5), padding="same", bias=False), (2, 4, 7, 6)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect", bias=False), (1, 4, 7, 6)),
    "conv2d circular": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular", bias=False), (1, 4, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1, bias=False), (1, 2, 4, 5, 4)),
}


def observed(module: nn.Module, *example: Tensor) -> Observed:
    doubled = tuple(2 * value for value in example)
    return Observed(module, Context(example_inputs=example, batches=[example, doubled]), samples=8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_moment_of_inputs_gives_that_of_outputs(name: str) -> None:
    torch.manual_seed(0)
    module, shape = LAYERS[name]
    example = torch.randn(shape)
    (weight,) = weights_of(module)
    (moment,) = observed(module, example).moments(weight, full=True)
    (diagonal,) = observed(module, example).moments(weight, full=False)
    with torch.no_grad():
        output = module(example)
    rows = output.flatten(0, -2) if name == "linear" else output.movedim(1, -1).flatten(0, -2)
    found = matrix(weight.value.detach()).double()
    assert torch.allclose(found @ moment @ found.T, 5 * rows.double().T @ rows.double(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(diagonal, moment.diagonal())


class Attention(nn.Module):
    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, bias=False, kdim=None if packed else 12, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor, value: Tensor) -> Tensor:
        found: Tensor = self.attention(x, memory, value=value)[0]
        return found


@pytest.mark.parametrize("packed", [True, False])
def test_attention_has_a_moment_for_query_key_value_and_for_what_its_last_layer_gets(packed: bool) -> None:
    torch.manual_seed(0)
    module = Attention(packed=packed).eval()
    x, memory, value = torch.randn(1, 3, 8), torch.randn(1, 5, 8 if packed else 12), torch.randn(1, 5, 8)
    context = Context(example_inputs=(x, memory, value), batches=[(x, memory, value)])
    seen = Observed(module, context, samples=1)
    found = [moment for weight in weights_of(module) for moment in seen.moments(weight, full=True)]
    for moment, inputs in zip(found, (x[0], memory[0], value[0]), strict=False):
        assert torch.allclose(moment, (inputs.T @ inputs).double(), atol=1e-5)
    with torch.no_grad():
        output, last = module(x, memory, value)[0].double(), module.attention.out_proj.weight.double()
    assert torch.allclose(last @ found[3] @ last.T, output.T @ output, atol=1e-5)


def test_layers_of_an_encoder_are_seen_where_attention_usually_takes_its_fast_path() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.5)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    weights = weights_of(module)
    seen = observed(module, torch.randn(2, 3, 8))
    fast = torch.backends.mha.get_fastpath_enabled()
    assert [weight.layer for weight in seen.in_order(weights)] == [weight.layer for weight in weights]
    assert all(float(moment.trace()) > 0 for weight in weights for moment in seen.moments(weight, full=True))
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert not any(part._forward_pre_hooks for part in module.modules())


class Often(nn.Module):
    """``second`` is called before ``first``, and three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.first(self.second(self.second(x) * 0 + x) * 0 + self.second(x) * 0 + x)
        return scores


def test_layers_come_in_the_order_of_their_calls_and_every_call_counts() -> None:
    module, x = Often(), torch.randn(5, 4)
    seen = Observed(module, Context(example_inputs=(x,), batches=[(x,)]), samples=4)
    weights = {weight.layer: weight for weight in weights_of(module)}
    assert [weight.layer for weight in seen.in_order(list(weights.values()))] == ["second", "first"]
    assert seen.moments(weights["never"], full=True) == []
    (once,), (thrice,) = (seen.moments(weights[name], full=True) for name in ("first", "second"))
    assert torch.allclose(thrice, 3 * once, rtol=1e-5)


def test_a_model_in_training_is_run_in_evaluation_and_stays_in_training() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 4)).train()
    module[1].eval()
    seen, before = observed(module, torch.randn(6, 4)), module[0].running_mean.clone()
    (weight,) = [weight for weight in weights_of(module) if not weight.reason]
    seen.moments(weight, full=True)
    assert module.training and module[0].training and not module[1].training
    assert torch.equal(module[0].running_mean, before)


def test_a_model_that_raises_is_reported_and_leaves_no_hooks() -> None:
    class Raises(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("too hot")

    module = Raises(4, 4)
    with pytest.raises(ForwardError, match="too hot"):
        observed(module, torch.randn(2, 4)).in_order(weights_of(module))
    assert not module._forward_pre_hooks
