"""Weight clustering: few values, the rest as it was, values that survive training, palettes that Core ML takes as they are."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.cluster.cluster import Cluster
from edgeopt.compress.common import store
from edgeopt.compress.common.training import Trainer, fine_tune
from edgeopt.compress.technique import Context
from edgeopt.errors import CompressionError
from edgeopt.targets.loader import load
from examples import digits


class Net(nn.Module):
    """One weight of every fate."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 48)
        self.up = nn.ConvTranspose1d(48, 32, 3)
        self.memory = nn.GRU(32, 40, batch_first=True)
        self.norm = nn.LayerNorm((6, 40))
        self.excluded, self.tied = nn.Linear(40, 48), nn.Linear(48, 64, bias=False)
        self.tied.weight = self.words.weight
        self.small = nn.Linear(64, 4)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.memory(self.up(self.words(ids).transpose(1, 2)).transpose(1, 2))[0]
        x = self.tied(self.excluded(self.norm(x)).relu())
        scores: Tensor = self.small(self.computed(x).relu())
        return scores


COMPUTED = (
    "its weights are computed from others before each call: call torch.nn.utils.parametrize.remove_parametrizations first"
)


def distinct(values: Tensor) -> Tensor:
    found: Tensor
    found, _ = torch.unique(values, return_inverse=True)
    return found


IDS = torch.arange(4)[None]


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@settings(max_examples=12)
@given(
    count=st.integers(2, 40), group=st.sampled_from([None, 1, 4, 5]), sparse=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)  # fmt: skip
def test_each_group_of_channels_has_at_most_as_many_values_as_asked(
    count: int, group: int | None, sparse: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(24, 8, 5).to(dtype)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.05] = 0 if sparse else 0.01
    zeros = layer.weight == 0
    settings_ = Cluster(centroids=count, group_size=group, min_parameters=0)
    compressed = settings_.apply(layer, Context(example_inputs=torch.randn(1, 24, 7, dtype=dtype)))
    assert [change.action for change in compressed.record.layers] == ["changed"]
    weight = compressed.module.get_parameter("weight")
    assert weight.dtype == dtype
    size = group if group and 8 % group == 0 else 8
    assert all(len(distinct(part)) <= count for part in torch.split(weight, size, 1))
    assert bool((weight[zeros] == 0).all())
    assert torch.equal(compressed.module.get_parameter("bias"), layer.get_parameter("bias"))


def test_every_weight_is_listed_with_the_reason_where_it_stays() -> None:
    original = net()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    compressed = Cluster(exclude=("excl*",)).apply(original, Context(example_inputs=IDS))
    assert {change.layer: change.reason.split(";")[0] for change in compressed.record.layers if change.action == "left"} == {
        "excluded": "excluded",
        "small": "256 parameters: below 2,048",
        "computed.parametrizations.weight.original0": COMPUTED,
        "computed.parametrizations.weight.original1": COMPUTED,
    }
    changed = {change.layer: change for change in compressed.record.changed}
    assert list(changed) == ["words", "up", "memory.weight_ih_l0", "memory.weight_hh_l0", "tied"]
    assert changed["tied"].reason == "it shares the weights of words"
    assert changed["words"].after.startswith("16 values: 1.6 kB as a palette, ")
    assert compressed.module.get_submodule("tied").weight is compressed.module.get_submodule("words").weight
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    for name, value in compressed.module.state_dict().items():
        few = any(name.startswith(path) for path in changed) and value.ndim > 1
        assert len(distinct(value)) <= 16 if few else torch.equal(value, before[name])


def test_weights_shared_with_a_layer_that_stays_stay() -> None:
    record = Cluster(exclude=("tied",)).apply(net(), Context(example_inputs=IDS)).record
    assert next(change for change in record.layers if change.layer == "words").reason == "it shares weights that stay"


def test_palettes_larger_than_the_weights_are_left() -> None:
    layer = nn.Linear(32, 64)
    (left,) = Cluster(centroids=64, group_size=1).apply(layer, Context(example_inputs=torch.randn(1, 32))).record.layers
    assert left.reason == "64 palettes of 64 values would take more room than its weights"


def test_settings_and_exclusions_that_make_no_sense_are_refused() -> None:
    for wrong in ({"centroids": 1}, {"centroids": 257}, {"group_size": 0}, {"min_parameters": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Cluster(**wrong)  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="'wrds', which is no layer") as caught:
        Cluster(exclude=("wrds",)).apply(net(), Context(example_inputs=IDS))
    assert caught.value.fix == "did you mean 'words'?"


def test_nothing_to_cluster_is_an_equal_copy_and_a_note() -> None:
    layer = nn.Linear(8, 8)
    compressed = Cluster().apply(layer, Context(example_inputs=torch.randn(1, 8)))
    assert torch.equal(compressed.module.get_parameter("weight"), layer.weight) and compressed.keep is None
    assert compressed.record.notes == ("no weight is clustered: see each layer's reason",)


def test_notes_say_what_the_target_makes_of_it() -> None:
    def notes(target: str) -> str:
        context = Context(example_inputs=torch.randn(1, 64), profile=load(target))
        return " | ".join(Cluster(centroids=20).apply(nn.Linear(64, 64), context).record.notes)

    assert "arm-xnnpack stores whole weights: no speed" in notes("arm-xnnpack")
    assert "mode unique" in notes("apple-ane-fp16") and "no palettes of 5 bits: it takes 6" in notes("apple-ane-fp16")


def test_fine_tuning_moves_the_values_of_a_group_together_and_zeros_stay() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    with torch.no_grad():
        weight = start.get_parameter("0.weight")
        weight[weight.abs() < 0.05] = 0
    example = torch.randn(64, 32)
    compressed = Cluster(centroids=4, group_size=32, min_parameters=0).apply(start, Context(example_inputs=example))
    before = compressed.module.get_parameter("0.weight").detach().clone()

    def step(module: nn.Module, batch: Tensor) -> Tensor:
        loss: Tensor = (module(batch) - batch).square().mean()
        return loss

    first = float(step(compressed.module, example).detach())
    fine_tune(Trainer(train_step=step, batches=[example] * 20, learning_rate=1e-2).fit, compressed.module, 2, compressed.keep)
    after = compressed.module.get_parameter("0.weight").detach()
    assert float(step(compressed.module, example).detach()) < 0.97 * first
    assert bool((after[before == 0] == 0).all())
    for old, new in zip(torch.split(before, 32), torch.split(after, 32), strict=True):
        assert [len(distinct(new[old == value])) for value in distinct(old)] == [1] * 4
        assert not torch.equal(old, new)


def test_one_step_moves_each_value_by_the_mean_of_its_weights_steps() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 16, bias=False)
    compressed = Cluster(centroids=4, min_parameters=0).apply(layer, Context(example_inputs=torch.randn(1, 16)))
    assert compressed.keep is not None
    restore = compressed.keep(compressed.module)
    weight = compressed.module.get_parameter("weight")
    before, step = weight.detach().clone(), torch.randn(16, 16)
    weight.data += step
    restore()
    for value in distinct(before):
        own = before == value
        torch.testing.assert_close(weight.detach()[own], (value + step[own].mean()).expand(int(own.sum())))


def accuracy(module: nn.Module) -> float:
    _, _, images, labels = digits.data()
    with torch.no_grad():
        return float((module(images).argmax(1) == labels).float().mean())


def test_digits_keep_their_accuracy_with_sixteen_values_and_batch_norms_are_folded(tmp_path: Path) -> None:
    trained = digits.trained()
    compressed = Cluster().apply(trained, Context(example_inputs=digits.data()[2][:1]))
    assert accuracy(compressed.module) >= accuracy(trained) - 0.01
    assert any(note.startswith("2 batch norms folded") for note in compressed.record.notes)
    assert isinstance(compressed.module.get_submodule("features.1"), nn.BatchNorm2d)  # its convolution is too small
    store.save(compressed.module, tmp_path / "module.pt")
    again = store.load(tmp_path / "module.pt", trained)
    image = digits.data()[2][:1]
    assert torch.equal(again(image), compressed.module(image))
