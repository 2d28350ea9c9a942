"""Early exits on the digits: what is saved within the budget, stages that compute what the whole does, what is refused."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.common.measures import macs
from edgeopt.compress.early_exit.early_exit import EarlyExit, measured
from edgeopt.compress.early_exit.exits import EarlyExits, Stage, confidence
from edgeopt.compress.technique import Compressed, Context
from edgeopt.core import from_data
from edgeopt.errors import CompressionError
from examples import digits
from tests.compress.early_exit.test_chain import Encoder, Masked, Residual

EXAMPLE = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def halves() -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The test images that calibrate, and those that judge."""
    _, _, images, labels = digits.data()
    parts = list(zip(images.split(75), labels.split(75), strict=True))
    return parts[:4], parts[4:]


def training() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels, _, _ = digits.data()
    for chosen in torch.randperm(len(images)).split(64):
        yield images[chosen], labels[chosen]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return digits.trained()


@pytest.fixture(scope="module")
def compressed(net: nn.Module) -> Compressed:
    torch.manual_seed(0)
    settings = EarlyExit(after=("features.5",), epochs=6, max_drop=0.02)
    return settings.apply(net, Context(example_inputs=EXAMPLE, train_batches=training, held_out=halves()[0]))


def exits(compressed: Compressed) -> EarlyExits:
    assert isinstance(compressed.module, EarlyExits)
    return compressed.module


def test_macs_are_saved_within_the_budget(net: nn.Module, compressed: Compressed) -> None:
    found = measured(exits(compressed), halves()[1], EXAMPLE)
    assert found.macs < 0.9 * macs(net, EXAMPLE)
    assert found.accuracy >= found.full_accuracy - 0.03  # 150 images: one of them is 0.7 points
    assert sum(found.shares) == pytest.approx(1)


def test_the_stages_one_by_one_give_what_the_whole_gives(compressed: Compressed) -> None:
    images = halves()[1][0][0]
    (first, _), (last, features) = exits(compressed).parts((images,))
    with torch.no_grad():
        scores, again = first(images)
        whole = EarlyExits([first, last], [float(confidence(scores).median())]).eval()
        answer = torch.where(confidence(scores)[:, None] >= whole.thresholds[0], scores, last(again))
        assert torch.equal(again, features[0]) and torch.equal(whole(images), answer)
        assert 0 < int((confidence(scores) >= whole.thresholds[0]).sum()) < len(images)


def test_a_frozen_trunk_is_the_network_as_it_was(net: nn.Module, compressed: Compressed) -> None:
    images = halves()[1][0][0]
    with torch.no_grad():
        torch.testing.assert_close(exits(compressed).scores(images)[-1], net(images))


def test_costs_are_those_of_the_stages(compressed: Compressed) -> None:
    parts = exits(compressed).parts(EXAMPLE)
    first, last = (macs(stage, example) for stage, example in parts)
    assert measured(exits(compressed), halves()[1], EXAMPLE).costs == (first, first + last)


def test_the_record_says_where_how_many_and_what_it_costs(compressed: Compressed) -> None:
    (change,) = compressed.record.layers
    assert change.layer == "features.5" and change.action == "changed" and "samples, at confidence" in change.after
    assert "MACs expected on average" in compressed.record.notes[0] and "the drop is at most" in compressed.record.notes[2]


def test_it_is_saved_and_read_back(net: nn.Module, compressed: Compressed, tmp_path: Path) -> None:
    store.save(compressed.module, tmp_path / "net.pt")
    read = store.load(tmp_path / "net.pt", like=net)
    assert isinstance(read, EarlyExits) and read.thresholds == exits(compressed).thresholds
    with torch.no_grad():
        assert torch.equal(read(EXAMPLE[0]), compressed.module(EXAMPLE[0]))


def test_without_any_budget_the_network_stays_as_it_is(net: nn.Module) -> None:
    before = copy.deepcopy(net.state_dict())
    found = EarlyExit(epochs=1, max_drop=0).apply(
        net, Context(example_inputs=EXAMPLE, train_batches=training, held_out=halves()[0])
    )
    assert type(found.module) is type(net) and not found.record.changed
    assert any("the network is unchanged" in note for note in found.record.notes)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_data_without_labels_is_judged_by_agreement_and_training_data_by_a_warning(net: nn.Module) -> None:
    images = digits.data()[0]
    settings = EarlyExit(after=("features.5",), epochs=4, max_drop=0.05)
    found = settings.apply(net, Context(example_inputs=EXAMPLE, batches=[(image[None],) for image in images[:600]]))
    assert "100.00% without exits" in found.record.notes[2] and "calibration data" in found.record.notes[3]


def test_a_joint_trunk_trains_but_the_given_module_does_not() -> None:
    net = digits.trained().train()
    before = copy.deepcopy(net.state_dict())

    def train_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    context = Context(example_inputs=EXAMPLE, train_batches=training, train_step=train_step, held_out=halves()[0])
    found = EarlyExit(after=("features.5",), trunk="joint", epochs=3, max_drop=0.2).apply(net, context)
    whole = exits(found)
    trunk = whole.stages[0]
    assert isinstance(trunk, Stage) and whole.training and net.training
    assert not torch.equal(trunk.trunk[0].weight, before["features.0.weight"])  # type: ignore[index]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert measured(whole, halves()[1], EXAMPLE).full_accuracy > 0.95


def test_exits_where_nothing_is_left_to_save_are_left_out(net: nn.Module) -> None:
    settings = EarlyExit(after=("features.5", "features.4", "features.8"), epochs=1, max_drop=0.5)
    record = settings.apply(net, Context(example_inputs=EXAMPLE, train_batches=training, held_out=halves()[0])).record
    assert [(change.layer, change.reason) for change in record.layers if "too little" in change.reason] == [
        ("features.8", "100% of the MACs are done there: an exit saves too little")
    ]


@pytest.mark.parametrize(
    ("network", "example"), [(Residual(3), torch.randn(1, 3, 16, 16)), (Encoder(), torch.randint(1, 30, (1, 6)))]
)
def test_residual_networks_and_encoders_get_exits_that_fit(network: nn.Module, example: Tensor) -> None:
    """They know nothing and agree with nothing: all that counts is that heads fit, train and answer."""
    batches = [
        (torch.randn_like(example.expand(16, *example.shape[1:])),)
        if example.is_floating_point()
        else (torch.randint(1, 30, (16, 6)),)
        for _ in range(4)
    ]
    settings = EarlyExit(shares=(0.3, 0.6), epochs=1, max_drop=0.99)
    found = settings.apply(network.eval(), Context(example_inputs=(example,), batches=batches))
    for stage, inputs in exits(found).parts((example,)):
        assert stage(*inputs) is not None
    assert [change.layer for change in found.record.changed]


def test_misuse_is_named(net: nn.Module) -> None:
    whole = Context(example_inputs=EXAMPLE, train_batches=training, held_out=halves()[0])
    ids = Context(example_inputs=(torch.randint(1, 30, (2, 6)),), batches=[(torch.randint(1, 30, (4, 6)),)])
    cases: list[tuple[str, nn.Module, Context, dict[str, Any]]] = [
        ("no exit can go after 'features.50'", net, whole, {"after": ["features.50"]}),
        ("no chain of layers", Masked(), ids, {}),
        ("no class scores", nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)), whole, {}),
        ("probabilities", nn.Sequential(net, nn.Softmax(-1)), whole, {}),
        ("no data to calibrate", net, Context(example_inputs=EXAMPLE, train_batches=training), {}),
        ("nothing to train on", net, Context(example_inputs=EXAMPLE, held_out=halves()[0]), {}),
        ("held-out data is empty", net, Context(example_inputs=EXAMPLE, train_batches=training, held_out=[]), {"epochs": 1}),
    ]
    for text, module, context, settings in cases:
        with pytest.raises(CompressionError, match=text):
            from_data(EarlyExit, settings).apply(module, context)


@pytest.mark.parametrize(
    "settings", [{"shares": (1.0,)}, {"shares": ()}, {"epochs": 0}, {"max_drop": 1.0}, {"learning_rate": 0}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|between|give the layers|at least 0"):
        from_data(EarlyExit, settings)
