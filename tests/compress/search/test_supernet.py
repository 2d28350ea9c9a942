"""Shared weights: parts of the largest network, the sandwich rule's gradients, and batch norms calibrated anew."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.search.family import Family
from edgeopt.compress.search.supernet import Supernet, recalibrate
from edgeopt.errors import CompressionError, TrainingFailed
from tests.compress.search.families import batches, build, context, data, train_step

SPACE = {"width": (0.25, 0.5, 1.0), "depth": (1, 2)}


def supernet(**settings: object) -> Supernet:
    torch.manual_seed(0)
    return Supernet(Family.of(build, SPACE), **settings)  # type: ignore[arg-type]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


@given(st.sampled_from(list(Family.of(build, SPACE).all())))
@settings(max_examples=6)
def test_a_network_taken_out_has_the_leading_channels_of_the_largest(architecture: dict[str, float]) -> None:
    shared = supernet()
    whole = dict(shared.largest.named_parameters())
    for name, value in shared.take(architecture, context()).named_parameters():
        leading = whole[name][tuple(slice(size) for size in value.shape)]
        assert torch.equal(value, leading)


def test_the_largest_network_computes_as_it_did_before_it_was_shared() -> None:
    shared, image = supernet().eval(), torch.rand(4, 1, 8, 8)
    torch.manual_seed(0)
    alone = build(width=1.0, depth=2).eval()
    assert torch.equal(shared(image), alone(image))


def test_larger_kernels_give_their_middle() -> None:
    family = Family.of(lambda kernel: nn.Sequential(nn.Conv1d(1, 2, kernel)), {"kernel": (3, 5)})
    shared = Supernet(family)
    taken = shared.take({"kernel": 3}, context())
    assert torch.equal(taken[0].weight, shared.largest[0].weight[:, :, 1:4])  # type: ignore[index]


def test_a_step_adds_the_gradient_of_the_smaller_networks_to_that_of_the_labels() -> None:
    batch = next(batches())
    torch.manual_seed(1)
    shared = supernet(sampled=0).train()
    alone = deepcopy(shared.largest).train()
    train_step(alone, batch).backward()  # type: ignore[no-untyped-call]
    train_step(shared, batch).backward()  # type: ignore[no-untyped-call]
    labels, both = gradients(alone), gradients(shared.largest)

    outputs = deepcopy(shared.largest)(batch[0]).detach()
    small = shared.family.make(shared.family.smallest).train()
    whole = dict(shared.largest.named_parameters())
    for name, value in small.named_parameters():
        value.data = whole[name][tuple(slice(size) for size in value.shape)].detach().clone()
    scores = small(batch[0]).log_softmax(1)
    loss = nn.functional.kl_div(scores, outputs.log_softmax(1), reduction="batchmean", log_target=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(small).items():
        added = both[name] - labels[name]
        part = tuple(slice(size) for size in gradient.shape)
        torch.testing.assert_close(added[part], gradient, rtol=1e-3, atol=1e-5)
        added[part] = 0
        assert float(added.abs().max()) < 1e-5


def test_a_loss_that_the_model_computes_itself_trains_the_smaller_networks_too() -> None:
    class WithLoss(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            scores = self.second(self.first(x).relu())
            return {"loss": nn.functional.cross_entropy(scores, labels), "scores": scores}

    def loss_gradient(widths: tuple[int, ...]) -> Tensor:
        torch.manual_seed(0)
        shared = Supernet(Family.of(WithLoss, {"width": widths})).train()
        torch.manual_seed(1)
        shared(torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))["loss"].backward()
        return gradients(shared)["largest.first.weight"]

    assert not torch.equal(loss_gradient((2, 8)), loss_gradient((8,)))


def test_batch_norms_get_the_statistics_of_the_data_whatever_its_batches() -> None:
    images = data()[0][:100]
    first = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5)).eval()
    second = deepcopy(first)
    recalibrate(first, context(batches=[(image[None],) for image in images]), {})
    recalibrate(second, context(batches=[(images,)]), {})
    for norm in (first[0], second[0]):
        assert torch.allclose(norm.running_mean, images.mean(), atol=1e-5)
        assert torch.allclose(norm.running_var, images.var(), atol=1e-4)
        assert norm.momentum == 0.1
    assert not any(one.training for one in first.modules())


def test_batch_norms_without_data_are_refused_and_networks_without_them_need_none() -> None:
    with pytest.raises(CompressionError, match="needs data"):
        supernet().take({"width": 0.5, "depth": 1}, context(batches=None))
    family = Family.of(lambda width: nn.Linear(4, 2), {"width": (1,)})
    Supernet(family).take({"width": 1}, context(batches=None))


def test_a_family_whose_layers_have_other_names_or_grow_in_smaller_sizes_cannot_share() -> None:
    def named(depth: int) -> nn.Module:
        return nn.ModuleDict({f"only_{depth}": nn.Linear(4, 2)})

    def growing(depth: int) -> nn.Module:
        return nn.Linear(4, 8 // depth)

    with pytest.raises(CompressionError, match=r"depth 1 cannot share weights[\s\S]*only_1.weight is \(2, 4\).*no such tensor"):
        Supernet(Family.of(named, {"depth": (1, 2)}))
    with pytest.raises(CompressionError, match=r"weight is \(8, 4\); the largest, depth 2, has \(4, 4\)"):
        Supernet(Family.of(growing, {"depth": (1, 2)}))


def test_a_training_that_diverges_leaves_the_shared_weights_as_they_were() -> None:
    shared = supernet()
    before = deepcopy(shared.state_dict())

    def diverging(module: nn.Module, epochs: int) -> None:
        next(iter(module.parameters())).data.fill_(float("nan"))

    with pytest.raises(TrainingFailed):
        fine_tune(diverging, shared, 1)
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())
