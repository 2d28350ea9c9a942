"""The remedies on networks and data that are out of the ordinary: nothing is refused for them, and nothing gets worse."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import Captured, capture
from edgeopt.capture.operator_kinds import kind_of
from edgeopt.model.model import Model
from edgeopt.quantize.calibrate import calibrate
from edgeopt.quantize.channel_ties import tied_channels
from edgeopt.quantize.equalization import HEADROOM, Equalizer, gains_of
from edgeopt.quantize.replay import rows
from edgeopt.quantize.rounding import moments_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
functional = nn.functional


class Between(nn.Module):
    """Two layers and what is computed between them."""

    def __init__(self, first: nn.Module, between: Callable[[Tensor], Tensor], second: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


class Row(nn.Module):
    """A linear layer whose weight is one row, [inputs]: its outputs have no channel axis."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Expanded(nn.Module):
    """A convolution whose weight is one number in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(1, 1, 1, 1).expand(4, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight)  # type: ignore[arg-type]


class Masked(nn.Module):
    """Switches off what its first channel says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x[:, :1] > 0.3, -torch.inf)


def uneven(layer: nn.Conv1d | nn.Conv2d | nn.Linear, seed: int = 0) -> nn.Module:
    """Channels of very different ranges."""
    sizes = torch.exp(1.5 * torch.randn(len(layer.weight), generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        layer.weight.mul_(sizes.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(sizes)
    return layer


def equalized(module: nn.Module, samples: list[Tensor]) -> tuple[Captured, Equalizer]:
    captured = capture(Model(module.eval(), (samples[0],)))
    equalizer = Equalizer(captured.program)
    for sample in samples:
        if equalizer.wanted:
            equalizer.watch(sample)
    equalizer.equalized()
    return captured, equalizer


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(6, 8), Row(8), nn.Linear(3, 5)), (4, 3, 6)),
        (Between(nn.Conv2d(3, 8, 3), torch.relu, Expanded()), (1, 3, 20, 20)),
    ],
    ids=["a weight of one row", "an expanded weight"],
)
def test_weights_that_cannot_be_scaled_stay_as_they_are(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    samples = [torch.randn(shape) for _ in range(8)]
    captured, equalizer = equalized(module, samples)
    assert equalizer.values == 0
    assert moments_of(captured.program, [(sample,) for sample in samples]).of


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Between(nn.Linear(6, 8), lambda x: functional.avg_pool1d(x, 3, 1, 1), nn.Linear(8, 5)), (4, 6)),
        (Between(nn.Conv1d(3, 8, 3), lambda x: functional.max_pool2d(x, (3, 1), 1, (1, 0)), nn.Conv1d(8, 5, 3)), (2, 3, 12)),
    ],
    ids=["a row", "series taken for an image"],
)
def test_a_pooling_over_the_channels_holds_them(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert not tied_channels(capture(Model(module.eval(), (torch.randn(shape),))).program)


def test_a_channel_of_which_few_values_were_seen_is_not_scaled() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(uneven(nn.Linear(16, 24)), nn.ReLU6(), nn.Linear(24, 5))
    few, many = [torch.randn(1, 16) for _ in range(32)], [torch.randn(64, 16) for _ in range(32)]
    assert equalized(module, few)[1].values == 0
    assert equalized(module, many)[1].values == 1


@pytest.mark.parametrize("seed", range(4))
def test_inputs_that_were_not_seen_come_out_as_before_where_values_are_clipped(seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(
        uneven(nn.Conv2d(3, 8, 3), seed), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 6, 1)
    )
    _, equalizer = equalized(module, [torch.randn(1, 3, 12, 12) for _ in range(32)])
    assert equalizer.values
    others = torch.randn(64, 1, 3, 12, 12)
    program = equalizer.program.module(check_guards=False)
    with torch.no_grad():
        wanted, found = torch.stack([module(x) for x in others]), torch.stack([program(x)[0] for x in others])
    assert (wanted - found).square().sum() < 1e-4 * wanted.square().sum()


def test_a_scaled_channel_leaves_headroom_below_the_largest_and_the_clip() -> None:
    peaks = torch.tensor([[5.0, 4.5, 3.0, 0.5, 0.01]])
    for clip, limit in ((None, 5.0), (6.0, 6.0)):
        gains = gains_of(peaks, clip, free=True)
        assert gains[:2].tolist() == [1.0, 1.0]
        assert bool((gains[2:] > 1).all()) and bool(((gains * peaks)[0, 2:] * HEADROOM <= limit * 1.0001).all())


def test_infinite_outputs_of_a_mask_do_not_keep_the_network_from_being_scaled() -> None:
    torch.manual_seed(0)
    second = nn.Conv2d(8, 4, 3)
    module = Between(uneven(nn.Conv2d(3, 8, 3)), torch.relu, nn.Sequential(second, Masked()))
    samples = [torch.randn(1, 3, 12, 12) for _ in range(16)]
    assert equalized(module, samples)[1].values == 1


def test_inputs_whose_squares_overflow_leave_the_nearest_rounding() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    samples = [(1e25 * torch.randn(4, 8),) for _ in range(8)]
    moments = moments_of(capture(Model(module.eval(), samples[0])).program, samples)
    assert moments.of
    weight = module[0].weight.detach()
    assert moments.rounded(next(iter(moments.of)), weight, 127, True) is None


def test_thinned_rows_are_those_of_all() -> None:
    for module, shape in ((nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)), (nn.Linear(8, 5), (3, 7, 8))):
        value = torch.randn(shape)
        program = capture(Model(module.eval(), (value,))).program
        (node,) = (node for node in program.graph.nodes if kind_of(node) in ("conv", "linear"))
        assert torch.equal(rows(node, value, 3), rows(node, value)[::3])


def test_samples_from_an_array_that_is_filled_again_are_those_that_were_given() -> None:
    torch.manual_seed(0)
    samples = [torch.randn(1, 3, 12, 12) * (1 + index) for index in range(33)]

    def refilled() -> Iterator[Tensor]:
        array = torch.empty(1, 3, 12, 12)
        for sample in samples:
            yield array.copy_(sample)

    captured = capture(Model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(), (samples[0],)))

    def found(data: object) -> tuple[object, ...]:
        module = captured.program.module(check_guards=False)
        equalizer = Equalizer(captured.program)
        calibrated = calibrate({"dense": module}, captured.signature, captured.example, data, keep=True, equalizer=equalizer)  # type: ignore[arg-type]
        known = calibrated.statistics["dense"]
        ranges = {name: (each.minimum, each.maximum) for name, each in known.items()}
        return calibrated.digest, equalizer.values, ranges, [value.tolist() for (value,) in calibrated.kept]

    assert found(refilled()) == found(samples)
