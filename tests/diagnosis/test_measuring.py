"""A layer answers for its weights and its result, and what all answer for adds up to what the model loses."""

import time

import pytest
import torch

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import kind_of
from edgeopt.diagnosis.measuring import Measurements
from edgeopt.diagnosis.noise import decibel
from tests.diagnosis import networks

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def rows(count: int = 6) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randn(4, 16),) for _ in range(count)]


def names(found: Measurements) -> list[str]:
    return [layer_of(one.source.head) for one in found.each]


@pytest.mark.parametrize("planted", range(4))
def test_a_weight_that_8_bits_cannot_hold_is_first_and_blamed_on_the_weight(planted: int) -> None:
    torch.manual_seed(planted)
    found = networks.measured(networks.stretched_weight(planted), rows())
    worst = found.each[0]
    assert names(found)[0] == f"layers.{planted}"
    assert worst.own.weights is not None and worst.own.inputs is not None
    assert worst.own.weights.db + 10 < min(worst.own.inputs.db, worst.own.result.db)
    assert worst.without is not None and found.worst(worst.without)[0] > found.worst(found.whole)[0] + 5


@pytest.mark.parametrize("planted", [0, 1, 2])
def test_a_coarse_value_is_blamed_on_the_layer_that_makes_it_not_on_those_that_read_it(planted: int) -> None:
    torch.manual_seed(planted)
    found = networks.measured(networks.outlier_channel(planted), rows())
    assert names(found)[0] == f"layers.{planted}"
    worst = found.each[0]
    assert [one.channel for one in worst.watched.outliers] == [5]
    reader = next(one for one in found.each if layer_of(one.source.head) == f"layers.{planted + 1}")
    assert reader.own.inputs is not None and reader.own.inputs.db + 6 < reader.own.result.db


def test_what_each_layer_brings_adds_up_to_what_the_model_loses() -> None:
    torch.manual_seed(0)
    found = networks.measured(networks.Chain(), rows())
    every = sum(one.alone for one in found.each if one.alone is not None)
    assert abs(float(decibel(every, found.whole)[0])) < 1.5
    shares = found.parts.shares(found.signal, found.whole, [one.alone for one in found.each if one.alone is not None])
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert found.done == 6


def test_a_join_answers_for_the_scale_that_its_parts_share() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(1, 3, 32, 32),) for _ in range(6)]
    found = networks.measured(networks.Detector(size=4.0), data, "arm-xnnpack", io_float=False)
    (join,) = (one for one in found.each if kind_of(one.source.head) == "concat")
    assert [kind_of(node) for node in join.source.joined] == ["sigmoid"]
    scores = next(one for one in found.each if one.source.value in join.source.joined)
    assert join.alone is not None and scores.alone is not None
    assert found.worst(join.alone)[0] + 6 < found.worst(scores.alone)[0]
    assert join.without is not None and found.worst(join.without)[0] > found.worst(found.whole)[0]


def test_scores_beside_boxes_are_judged_on_their_own() -> None:
    torch.manual_seed(0)
    found = networks.measured(networks.Detector(), [(torch.randn(1, 3, 32, 32),) for _ in range(6)])
    assert [str(part).partition(", ")[2] for part in found.parts.judged] == ["", "channel 0..3", "channel 4..9"]


def test_without_time_each_layers_own_noise_is_known_and_little_else() -> None:
    torch.manual_seed(0)
    simulation = networks.simulated(networks.stretched_weight(2), data := rows())
    now = time.monotonic()
    found = Measurements.begun(simulation, data, {}, (), now)
    found.first(now)
    found.more(now)
    assert [one.alone is not None for one in found.each] == [True] + [False] * (len(found.each) - 1)
    assert names(found)[0] == "layers.2"  # the worst by its own noise is measured first
    assert found.done == 0 and all(one.without is None for one in found.each)


def test_infinite_values_do_no_harm() -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).masked_fill(x > 1, float("-inf"))

    torch.manual_seed(0)
    found = networks.measured(Masked(), rows())
    assert 20 < found.worst(found.whole)[0] < 80


def test_an_empty_value_is_watched() -> None:
    class Empty(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return torch.cat([y, y[:0]])

    torch.manual_seed(0)
    found = networks.measured(Empty(), rows(2))
    assert found.each
