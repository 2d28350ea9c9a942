"""Weights rounded against data stay on their grid, and leave less error than the nearest."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.model.model import Model
from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.calibrate import calibrate
from edgeopt.quantize.replay import matrix
from edgeopt.quantize.rounding import LEAST_SAMPLES, Moments, moments_of, rounded
from edgeopt.targets import loader

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def correlated(count: int, size: int, seed: int) -> Tensor:
    """Rows whose entries depend on each other, as features do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator) @ torch.randn(3, size, generator=generator) + 0.1 * torch.randn(
        count, size, generator=generator
    )


def moment(size: int, seed: int = 0) -> Tensor:
    halves = correlated(400, size, seed).double().chunk(2)
    return torch.stack([half.T @ half for half in halves])


@given(st.integers(1, 6), st.integers(2, 24), st.sampled_from([127, 63]), st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_it_stays_on_the_grid_of_the_largest(outputs: int, inputs: int, bound: int, per_channel: bool, seed: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    found = rounded(weight, moment(inputs, seed), bound, per_channel)
    if found is None:
        return
    peaks, kept = weight.abs().amax(1), found.abs().amax(1)
    scale = (peaks if per_channel else peaks.amax().expand(outputs)) / bound
    assert torch.equal(kept, peaks) if per_channel else float(kept.max()) == float(peaks.max())
    steps = found / scale[:, None]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert float(steps.abs().max()) <= bound + 1e-3


def test_it_leaves_less_error_on_inputs_that_it_was_not_rounded_by() -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    rows = correlated(600, 32, 5)
    chosen, apart, others = rows.double().chunk(3)
    found = rounded(weight, torch.stack([chosen.T @ chosen, apart.T @ apart]), 63, True)
    assert found is not None
    scale = weight.abs().amax(1, keepdim=True) / 63
    nearest = (weight / scale).round() * scale

    def error(other: Tensor) -> float:
        return float((others @ (other - weight).double().T).square().sum())

    assert error(found) < 0.5 * error(nearest)


def test_where_the_samples_apart_tell_another_story_the_nearest_stays() -> None:
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    one, other = moment(12, 1)[0], torch.eye(12, dtype=torch.float64)
    assert rounded(weight, torch.stack([one, other]), 31, True) is None


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (1, 6)),
        (nn.Linear(6, 4), (1, 5, 6)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (1, 3, 9, 9)),
        (nn.Conv2d(6, 6, 3, groups=6, dilation=2), (1, 6, 9, 9)),
        (nn.Conv1d(3, 4, 5, padding="same"), (1, 3, 20)),
    ],
)
def test_moments_are_those_of_what_each_output_sees(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The error that the moment tells is the error of the layer's outputs."""
    torch.manual_seed(0)
    samples = [(torch.randn(shape),) for _ in range(LEAST_SAMPLES)]
    program = capture(Model(layer.eval(), samples[0])).program
    moments = moments_of(program, samples)
    ((name, found),) = moments.of.items()
    assert moments.samples == LEAST_SAMPLES
    weight: Any = layer.weight
    change = torch.randn_like(weight)
    told = _told(matrix(change.detach()).double(), found.sum(0))
    with torch.no_grad():
        before = [layer(*sample) for sample in samples]
        weight.add_(change)
        after = [layer(*sample) for sample in samples]
    seen = sum(float((one - two).double().square().sum()) for one, two in zip(before, after, strict=True))
    assert told == pytest.approx(seen, rel=1e-3)
    assert name


def _told(change: Tensor, found: Tensor) -> float:
    if found.dim() == 3:
        return float(torch.einsum("ci,cij,cj->", change, found, change))
    return float(((change @ found) * change).sum())


def test_grouped_and_shared_layers_keep_the_nearest() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped, self.shared = nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(self.grouped(x)))

    samples = [(torch.randn(1, 4, 3, 3),) for _ in range(LEAST_SAMPLES)]
    assert moments_of(capture(Model(Net().eval(), samples[0])).program, samples).of == {}


def test_few_samples_give_no_moments() -> None:
    samples = [(torch.randn(1, 6),) for _ in range(LEAST_SAMPLES - 1)]
    assert moments_of(capture(Model(nn.Linear(6, 4).eval(), samples[0])).program, samples).of == {}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 1),
        )
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).relu().mean((2, 3)))


def _image(seed: int) -> Tensor:
    coarse = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")


@pytest.mark.parametrize("target", ["x86-fbgemm", "x86-fbgemm-avx2", "arm-xnnpack"])
def test_what_pt2e_makes_of_it_are_the_same_integers_and_the_program_stays(target: str) -> None:
    captured = capture(Model(Net().eval(), (_image(0),)))
    before = {name: value.clone() for name, value in captured.program.state_dict.items()}
    module = captured.program.module(check_guards=False)
    data = [(_image(seed),) for seed in range(1, 33)]
    found = calibrate({"dense": module}, captured.signature, captured.example, data, keep=True)
    profile = loader.load(target)
    scheme = profile.schemes[0]
    moments = moments_of(captured.program, found.kept)
    arguments = (captured.program, captured.example, found.statistics["dense"], profile, scheme, False, False)
    (nearest, _), (program, decided) = quantize(*arguments), quantize(*arguments, moments)
    assert decided.rounded >= 3
    assert all(torch.equal(value, before[name]) for name, value in captured.program.state_dict.items())
    kept = {name: value for (name, *_), value in moments.kept.items() if value is not None}
    stored = [value for value in program.state_dict.values() if isinstance(value, Tensor)]
    for value in kept.values():
        assert any(value.shape == other.shape and torch.equal(value, other) for other in stored)
    errors = []
    for each in (nearest, program):
        runner = each.module(check_guards=False)
        with torch.no_grad():
            pairs = [(module(_image(seed))[0], runner(_image(seed))[0]) for seed in range(100, 132)]
        errors.append(sum(float((one - two).square().sum()) for one, two in pairs))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("depthwise", [False, True])
def test_what_pruning_set_to_zero_stays_zero(depthwise: bool) -> None:
    weight = torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(1)) if depthwise else correlated(8, 12, 1)
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = 0
    known = torch.stack([moment(9, seed) for seed in range(8)], 1) if depthwise else moment(12)
    found = rounded(weight, known, 15, True)
    assert found is not None
    assert bool((found[weight == 0] == 0).all())


def test_clustered_weights_stay_few_numbers() -> None:
    weight = torch.linspace(-1, 1, 16)[torch.randint(16, (8, 24), generator=torch.Generator().manual_seed(4))]
    assert rounded(weight, moment(24), 63, True) is None


def test_it_has_the_strides_of_the_weight() -> None:
    """litert-torch reads a weight whose channels come last in memory as another one."""
    weight = torch.randn(4, 3, 3, 3)
    found = rounded(weight, moment(27), 63, True)
    assert found is not None and found.stride() == weight.stride()


def test_the_same_grid_is_rounded_once() -> None:
    moments = Moments({"layer": moment(6)})
    weight = torch.randn(3, 6)
    assert moments.rounded("layer", weight, 63, True) is moments.rounded("layer", weight, 63, True)
    assert moments.rounded("other", weight, 63, True) is None
