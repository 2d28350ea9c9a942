"""Channels that share a scale are scaled to fill it, and the model computes what it did."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeopt.capture import capture
from edgeopt.model.model import Model
from edgeopt.quantize.calibrate import calibrate
from edgeopt.quantize.channel_ties import tied_channels
from edgeopt.quantize.equalization import HEADROOM, LEAST_SAMPLES, MOST_GAIN, Equalizer, gains_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
IMAGES = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2 * LEAST_SAMPLES)]


def uneven(layer: nn.Module) -> nn.Module:
    """Its output channels differ in size by a hundred."""
    with torch.no_grad():
        for value in layer.parameters():
            value.mul_(torch.logspace(-2, 0, len(value)).reshape(-1, *[1] * (value.dim() - 1)))
    return layer


class Network(nn.Module):
    """``between`` two convolutions, of which the first has uneven channels; ``depthwise``: the second one's kind."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu, depthwise: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = uneven(nn.Conv2d(4, 8, 3, padding=1))
        self.second = nn.Conv2d(8, 8, 3, groups=8 if depthwise else 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).flatten(1).sum(1, keepdim=True)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = uneven(nn.Conv2d(4, 8, 1)), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        return self.head((hidden + self.body(hidden)).relu().mean((2, 3)))


def program_of(module: nn.Module, example: Tensor = IMAGES[0]) -> ExportedProgram:
    return capture(Model(module.eval(), (example,))).program


def equalizer_of(program: ExportedProgram, samples: list[Tensor] = IMAGES) -> Equalizer:
    equalizer = Equalizer(program)
    for sample in samples:
        equalizer.watch(sample)
    return equalizer


def peaks(program: ExportedProgram, name: str) -> Tensor:
    """Of each channel of the node's value, over all images."""
    found = [torch.zeros(())]

    class Watcher(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> object:
            value = super().run_node(node)
            if node.name == name:
                found[0] = torch.maximum(found[0], value.abs().amax((0, 2, 3)))
            return value

    for image in IMAGES:
        Watcher(program.module(check_guards=False)).run(image)
    return found[0]


def same(program: ExportedProgram, other: ExportedProgram) -> None:
    with torch.no_grad():
        for image in IMAGES:
            for one, two in zip(
                program.module(check_guards=False)(image), other.module(check_guards=False)(image), strict=True
            ):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_channels_fill_the_range_and_the_model_computes_the_same(depthwise: bool) -> None:
    program = program_of(Network(depthwise=depthwise))
    before = {name: value.clone() for name, value in program.state_dict.items()}
    equalized = equalizer_of(program).equalized()
    same(program, equalized)
    spread = [float(found.max() / found.min()) for found in (peaks(program, "relu"), peaks(equalized, "relu"))]
    assert spread[0] > 20
    assert spread[1] < (max(HEADROOM, spread[0] / MOST_GAIN) if depthwise else (HEADROOM * spread[0]) ** 0.5) * 1.01
    assert [node.name for node in program.graph.nodes] == [node.name for node in equalized.graph.nodes]
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())


def test_what_a_sum_joins_is_scaled_alike() -> None:
    program = program_of(Residual())
    (tied,) = [tied for tied in tied_channels(program) if len(tied.makers) == 4]  # two weights, two biases
    assert len(tied.readers) == 2 and not tied.free
    equalizer = equalizer_of(program)
    same(program, equalizer.equalized())
    assert equalizer.values >= 2


def test_a_clip_stays_above_what_was_seen() -> None:
    program = program_of(Network(nn.functional.relu6, depthwise=True))
    (tied,) = tied_channels(program)
    assert tied.clip == 6.0
    equalized = equalizer_of(program).equalized()
    same(program, equalized)
    assert float(peaks(equalized, tied.values[-1]).max()) <= 6 / HEADROOM + 1e-4


@pytest.mark.parametrize(
    "between",
    [torch.sigmoid, lambda x: x + 1, lambda x: x * x, lambda x: x.flip(1), lambda x: x.clamp(-1, 1), nn.functional.gelu,
     lambda x: x.softmax(1), lambda x: x + x.mean(1, keepdim=True), lambda x: torch.cat((x[:, :4], x[:, 4:]), 1)],
)  # fmt: skip
def test_through_what_is_not_proportional_nothing_is_scaled(between: Callable[[Tensor], Tensor]) -> None:
    program = program_of(Network(between))
    assert not tied_channels(program)
    assert not Equalizer(program).wanted


def test_weights_that_serve_twice_are_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = uneven(nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.first(self.first(x).relu()).relu())

    assert not [tied for tied in tied_channels(program_of(Twice())) if any("first" in name for name, _ in tied.makers)]


def test_too_few_samples_tell_too_little() -> None:
    program = program_of(Network())
    assert equalizer_of(program, IMAGES[: LEAST_SAMPLES - 1]).equalized() is program


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=16), st.booleans(), st.none() | st.floats(1, 10))
@settings(max_examples=200)
def test_gains_never_shrink_a_channel_nor_push_it_beyond_the_largest(
    found: list[float], free: bool, clip: float | None
) -> None:
    peak = torch.tensor([found])
    if clip is not None:
        peak = peak.clamp(max=clip)
    gains = gains_of(peak, clip, free)
    assert bool((gains >= 1).all() and (gains <= MOST_GAIN).all())
    largest = peak.max() if clip is None else torch.maximum(peak.max(), torch.tensor(clip))
    assert bool((peak[0] * gains <= largest * 1.001).all())
    assert bool((gains[peak[0] == 0] == 1).all())


def test_calibration_records_the_equalized_program_and_each_sample_once() -> None:
    captured = capture(Model(Network(depthwise=True).eval(), (IMAGES[0],)))
    equalizer = Equalizer(captured.program)
    module = captured.program.module(check_guards=False)
    data = [(image,) for image in (*IMAGES, *IMAGES, *IMAGES, *IMAGES, *IMAGES)]
    found = calibrate({"dense": module}, captured.signature, captured.example, data, equalizer=equalizer)
    again = calibrate(
        {"dense": equalizer.program.module(check_guards=False)}, captured.signature, captured.example, data
    )  # fmt: skip
    assert equalizer.values
    for name, histogram in again.statistics["dense"].items():
        assert (found.statistics["dense"][name].counts == histogram.counts).all(), name


def test_a_sample_that_fails_is_named_while_the_equalizer_watches() -> None:
    from edgeopt.errors import ForwardError

    class Picky(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + nn.functional.embedding(x[:, 0, 0, 0].long().clamp(min=0), torch.ones(2, 1))

    captured = capture(Model(Picky().eval(), (torch.zeros(1, 4, 8, 8),)))
    module = captured.program.module(check_guards=False)
    data = [(torch.full((1, 4, 8, 8), value),) for value in (0.0, 0.0, 9.0, 0.0)]
    with pytest.raises(ForwardError, match="calibration sample 2"):
        calibrate({"dense": module}, captured.signature, captured.example, data, equalizer=Equalizer(captured.program))
