"""Magnitude pruning: the share as asked, the schedule, what it says it is worth, and that zeros survive fine-tuning."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import store
from edgeopt.compress.common.measures import sparsity, zstd_bytes
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.technique import Context, Fit
from edgeopt.compress.zeros.magnitude import Magnitude
from edgeopt.core import from_data
from edgeopt.errors import CompressionError, InputError, TrainingFailed
from edgeopt.targets import loader
from examples import digits

EXAMPLE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(example_inputs=(EXAMPLE,))
WEIGHTS = ("0.weight", "4.weight")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()


def training(seen: list[float] | None = None) -> Fit:
    """A fit that changes every weight; ``seen`` gets the share of zeros that each training starts from."""

    def fit(module: nn.Module, epochs: int) -> None:
        if seen is not None:
            seen.append(round(share(module), 4))
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        for _ in range(epochs):
            optimizer.zero_grad()
            torch.autograd.backward(module(EXAMPLE).square().mean())
            optimizer.step()

    return fit


def share(module: nn.Module) -> float:
    values = [module.get_parameter(name) for name in WEIGHTS]
    return sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)


@given(st.floats(0, 1, exclude_max=True, width=16), st.sampled_from(["layer", "global"]))
@settings(max_examples=20)
def test_the_share_of_zeros_is_as_asked_to_one_weight(amount: float, scope: str) -> None:
    module = network()
    try:
        pruned = Magnitude(sparsity=amount, scope=scope).apply(module, CONTEXT).module
    except CompressionError:
        assert scope == "global" and amount > 0.7
        return
    sizes = {name: module.get_parameter(name).numel() for name in WEIGHTS}
    zeros = {name: int((pruned.get_parameter(name) == 0).sum()) for name in WEIGHTS}
    if scope == "global":
        assert sum(zeros.values()) == round(amount * sum(sizes.values()))
    else:
        # A share that would leave a layer nothing leaves it whole.
        assert zeros == {name: round(amount * size) % size for name, size in sizes.items()}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_largest_weights_stay_as_they_are_and_so_does_everything_else(scope: str) -> None:
    module = network().train()
    module[4].weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    pruned = from_data(Magnitude, {"sparsity": 0.6, "scope": scope}).apply(module, CONTEXT).module
    for name, value in pruned.state_dict().items():
        kept = value != 0 if name in WEIGHTS else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], before[name][kept])
        if name in WEIGHTS and scope == "layer":
            assert before[name][kept].abs().min() >= before[name][~kept].abs().max()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert pruned.training and all(part.training for part in pruned.modules())
    assert not pruned[4].weight.requires_grad
    assert type(pruned) is type(module) and not pruned[0]._forward_pre_hooks


def test_one_threshold_prunes_the_layer_with_small_weights_more() -> None:
    module = network()
    with torch.no_grad():
        module[0].weight.mul_(100)
    found = sparsity(Magnitude(sparsity=0.5, scope="global").apply(module, CONTEXT).module)
    assert found["0.weight"] < 0.05 < 0.5 < found["4.weight"]


def test_nothing_to_prune_gives_an_equal_copy_and_says_so() -> None:
    for settings_, module in ((Magnitude(sparsity=0.0), network()), (Magnitude(), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))):
        compressed = settings_.apply(module, CONTEXT)
        assert compressed.record.notes == ("there is nothing to prune",)
        assert not compressed.record.changed
        assert compressed.module is not module
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in compressed.module.state_dict().items())


def test_the_record_gives_both_download_sizes_and_says_that_the_target_is_not_faster() -> None:
    module = network()
    profile = loader.load("arm-xnnpack")
    compressed = Magnitude(sparsity=0.75, scope="layer").apply(module, Context(example_inputs=EXAMPLE, profile=profile))
    (note,) = compressed.record.notes
    before, after = zstd_bytes(module), zstd_bytes(compressed.module)
    assert after < 0.6 * before
    assert f"smaller download: {before:,} -> {after:,} bytes" in note
    assert "no speed on arm-xnnpack" in note
    assert [(change.layer, change.before, change.after) for change in compressed.record.layers] == [
        ("0", "0 of 216 zero (0.0%)", "162 of 216 zero (75.0%)"),
        ("4", "0 of 640 zero (0.0%)", "480 of 640 zero (75.0%)"),
    ]


class Narrowing(nn.Sequential):
    """Two linear layers; the second reads the first of what the first gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self[0](x)
        result: torch.Tensor = self[1](hidden[..., : self[1].in_features])
        return result


def test_a_model_that_does_not_take_its_example_is_named_as_that() -> None:
    with pytest.raises(InputError, match="does not run on its example inputs"):
        Magnitude(sparsity=0.5).apply(nn.Linear(50, 50), CONTEXT)


def test_a_small_layer_that_its_own_share_would_empty_is_left_and_one_threshold_that_would_is_refused() -> None:
    module, context = Narrowing(nn.Linear(50, 50), nn.Linear(1, 1)), Context(example_inputs=torch.randn(3, 50))
    with torch.no_grad():
        module[1].weight.fill_(1e-6)
    left = Magnitude(sparsity=0.9, scope="layer").apply(module, context).record.layers[1]
    assert (left.action, left.reason) == ("left", "only 1 weights: 90.0% zeros would leave none")
    with pytest.raises(CompressionError, match=r"1 would be left without weights[\s\S]*scope = \"layer\""):
        Magnitude(sparsity=0.9, scope="global").apply(module, context)
    assert not any(sparsity(module).values())


def test_what_one_threshold_would_empty_is_known_before_training_and_what_training_shrinks_keeps_its_largest_weight() -> None:
    module = Narrowing(nn.Linear(50, 50), nn.Linear(2, 2))
    trained = list[int]()

    def shrink(net: nn.Module, epochs: int) -> None:
        trained.append(epochs)
        with torch.no_grad():
            net[1].weight.mul_(1e-6)

    context = Context(example_inputs=torch.randn(3, 50), fit=shrink)
    found = Magnitude(sparsity=0.9, steps=3).apply(module, context)
    assert [int(weight.count_nonzero()) for weight in (found.module[0].weight, found.module[1].weight)] == [249, 1]
    assert "only its largest weight is left" in found.record.layers[1].reason
    trained.clear()
    shrink(module, 0)
    with pytest.raises(CompressionError, match="1 would be left without weights"):
        Magnitude(sparsity=0.9, steps=3).apply(module, context)
    assert trained == [0]


@pytest.mark.parametrize("amount", [1.0, -0.1, 1.5, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="give a share from 0 to below 1"):
        Magnitude(sparsity=amount)


@given(st.sampled_from(["cubic", "iterative", "linear"]), st.integers(1, 12), st.floats(0.01, 0.99))
def test_every_schedule_rises_to_the_share_asked_for(schedule: str, steps: int, amount: float) -> None:
    found = from_data(Magnitude, {"sparsity": amount, "schedule": schedule, "steps": steps}).shares()
    assert len(found) == steps
    assert found[-1] == pytest.approx(amount)
    assert found == sorted(found)


def test_schedules_are_those_of_their_papers() -> None:
    assert Magnitude(sparsity=0.8, steps=4, schedule="cubic").shares() == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    assert Magnitude(sparsity=0.875, steps=3, schedule="iterative").shares() == pytest.approx([0.5, 0.75, 0.875])
    assert Magnitude(sparsity=0.6, steps=3, schedule="linear").shares() == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize("schedule", ["cubic", "iterative", "linear"])
def test_steps_train_between_them_on_what_is_left_and_zeros_never_come_back(schedule: str) -> None:
    seen: list[float] = []
    told: list[str] = []
    chosen = from_data(Magnitude, {"sparsity": 0.8, "steps": 3, "schedule": schedule, "epochs_between": 2})
    context = Context(example_inputs=(EXAMPLE,), fit=training(seen), tell=told.append)
    compressed = chosen.apply(network(), context)
    assert seen == pytest.approx(chosen.shares()[:-1], abs=1e-3)
    assert len(told) == 3 and told[-1] == "pruning, step 3 of 3: 80.0% zeros"
    assert share(compressed.module) == pytest.approx(0.8, abs=1e-3)
    where = {name: compressed.module.get_parameter(name) == 0 for name in WEIGHTS}
    fine_tune(training(), compressed.module, 3, compressed.keep)
    assert all(torch.equal(compressed.module.get_parameter(name) == 0, zero) for name, zero in where.items())


def test_steps_without_training_code_are_refused_and_a_training_that_fails_changes_nothing() -> None:
    with pytest.raises(CompressionError, match=r"trains between them[\s\S]*give the training code"):
        Magnitude(steps=3).apply(network(), CONTEXT)

    def diverges(module: nn.Module, epochs: int) -> None:
        module[4].bias.data.fill_(float("nan"))

    module = network()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(TrainingFailed):
        Magnitude(steps=3).apply(module, Context(example_inputs=(EXAMPLE,), fit=diverges))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Tied(nn.Module):
    """A language model's table of tokens, which is also its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scores = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.scores.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.table(tokens))
        return scores


def test_tied_embeddings_are_pruned_once_stay_tied_and_are_both_named() -> None:
    compressed = Magnitude(sparsity=0.5).apply(Tied(), Context(example_inputs=torch.arange(4)))
    module = compressed.module
    assert isinstance(module, Tied) and module.table.weight is module.scores.weight
    assert int((module.table.weight == 0).sum()) == 64
    assert [change.reason for change in compressed.record.changed] == ["", "shares its weights with table: pruned once"]


def test_a_pruned_module_is_saved_and_loaded_with_its_zeros(tmp_path: Path) -> None:
    module = network()
    compressed = Magnitude(sparsity=0.7).apply(module, CONTEXT)
    store.save(compressed.module, tmp_path / "pruned.pt2")
    loaded = store.load(tmp_path / "pruned.pt2", like=module)
    assert torch.equal(loaded(EXAMPLE), compressed.module(EXAMPLE))
    assert share(loaded) == pytest.approx(0.7, abs=1e-3)


@pytest.mark.slow
def test_in_steps_with_training_the_digits_stay_accurate_where_at_once_they_do_not() -> None:
    def fit(module: nn.Module, epochs: int) -> None:
        images, labels, _, _ = digits.data()
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
        module.train()
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(module(images[chosen]), labels[chosen]))
                optimizer.step()

    def accuracy(module: nn.Module) -> float:
        _, _, images, labels = digits.data()
        with torch.no_grad():
            return float((module(images).argmax(1) == labels).float().mean())

    context = Context(example_inputs=digits.data()[2][:1], fit=fit)
    trained = digits.trained()
    once = Magnitude(sparsity=0.9).apply(trained, context).module
    gradual = Magnitude(sparsity=0.9, steps=6, epochs_between=2).apply(trained, context)
    fine_tune(fit, gradual.module, 3, gradual.keep)
    assert accuracy(once) < 0.5
    assert accuracy(gradual.module) > accuracy(trained) - 0.03
