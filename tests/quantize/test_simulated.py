"""A simulation computes what the quantized program computes, and any part of it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.rounding import moments_of
from edgeopt.quantize.simulated import Simulation, Values, on_grid, simulation_of
from edgeopt.targets import loader
from edgeopt.verify.verdicts import sqnr_db
from tests.quantize.networks import Convolutional, captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Transformed(nn.Module):
    """A transposed convolution, a split, a concatenation, an attention and an embedded number."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.attention = nn.ConvTranspose2d(4, 8, 2, stride=2), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.up(x).chunk(2, 1)
        rows = torch.cat([first * second.sigmoid(), first + second], 1).flatten(2).transpose(1, 2)
        rows = torch.cat([rows, rows.tanh()], -1)
        return self.head(self.norm(rows + self.attention(rows, rows, rows)[0]))


class Recurrent(nn.Module):
    """A whole recurrent layer between linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.recurrent, self.behind = nn.Linear(6, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.recurrent(self.before(x))[0])


NETWORKS = {
    "convolutions": (Convolutional, (1, 3, 8, 8)),
    "attention": (Transformed, (1, 4, 3, 3)),
    "recurrent": (Recurrent, (2, 5, 6)),
    "shared": (lambda: nn.Sequential(nn.Hardswish(), layer := nn.Linear(6, 6), nn.SiLU(), layer), (2, 6)),
}


def sqnr(one: list[Tensor], other: list[Tensor]) -> float:
    return sqnr_db([tuple(value.numpy() for value in one)], [tuple(value.numpy() for value in other)])


def results(simulation: Simulation, values: Values) -> list[Tensor]:
    return [values[node] for node in simulation.outputs]


@pytest.mark.parametrize("target", ["arm-xnnpack", "x86-fbgemm", "x86-fbgemm-avx2", "apple-ane"])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_operators_in_integers_are_the_quantized_program(network: str, target: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    captured, _, statistics = captured_and_observed(make().eval(), torch.randn(shape))
    samples = [(torch.randn(shape),) for _ in range(9)]
    profile, moments = loader.load(target), moments_of(captured.program, samples)
    arguments = (statistics, profile, profile.schemes[0], False)
    simulation = simulation_of(captured.program, *arguments, moments=moments)
    program, _ = quantize(captured.program, captured.example, *arguments, fold=True, moments=moments)
    for sample in samples:
        with torch.no_grad():
            made = list(torch.utils._pytree.tree_leaves(program.module(check_guards=False)(*sample)))
        assert sqnr(made, results(simulation, simulation.run(sample, simulation.decided.integer))) > 60


def test_no_operator_in_integers_is_the_float_program_whatever_its_weights_are_rounded_to() -> None:
    captured, _, statistics = captured_and_observed(Convolutional(), torch.randn(1, 3, 8, 8))
    profile, moments = loader.load("arm-xnnpack"), moments_of(captured.program, [(torch.randn(1, 3, 8, 8),)] * 9)
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], True, moments)
    simulation.run(captured.example, simulation.decided.integer)
    assert any(weight is not None for weight in moments.kept.values())
    with torch.no_grad():
        (made,) = captured.program.module(check_guards=False)(*captured.example)
    assert torch.equal(made, results(simulation, simulation.run(captured.example, ()))[0])


def test_what_is_known_is_not_computed_again_and_what_is_behind_an_operator_is() -> None:
    captured, _, statistics = captured_and_observed(Transformed(), torch.randn(1, 4, 3, 3))
    profile = loader.load("x86-fbgemm")
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float=True)
    known = simulation.run(captured.example, ())
    for op in simulation.decided.integer:
        behind = simulation.behind(op)
        kept = {node: value for node, value in known.items() if node not in behind}
        assert op.output in behind and not behind & set(op.operands)
        alone = simulation.run(captured.example, {op}, known=kept)
        whole = simulation.run(captured.example, {op})
        assert all(torch.equal(whole[node], alone[node]) for node in simulation.outputs)
        assert all(alone[node] is kept[node] for node in kept)


def test_weights_rounded_against_data_leave_the_float_program_as_it_is() -> None:
    torch.manual_seed(0)
    captured, _, statistics = captured_and_observed(Convolutional(), torch.randn(1, 3, 8, 8))
    profile, samples = loader.load("arm-xnnpack"), [(torch.randn(1, 3, 8, 8),) for _ in range(9)]
    moments = moments_of(captured.program, samples)
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float=True, moments=moments)
    with torch.no_grad():
        (made,) = captured.program.module(check_guards=False)(*captured.example)
    assert any(simulation.rounded(op) is not None for op in simulation.decided.integer)
    assert torch.equal(made, results(simulation, simulation.run(captured.example, ()))[0])


def test_a_value_goes_through_the_grid_it_is_given_or_through_none() -> None:
    captured, _, statistics = captured_and_observed(Convolutional(), torch.randn(1, 3, 8, 8))
    profile = loader.load("arm-xnnpack")
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float=True)
    exact, op = simulation.run(captured.example, ()), simulation.decided.integer[0]
    grid = simulation.decided.scales.values[op.output]
    rounded = simulation.run(captured.example, (), grids={op.output: grid})
    assert torch.equal(rounded[op.output], on_grid(exact[op.output], grid))
    floats = dict.fromkeys((*op.operands, op.output))
    untouched = simulation.run(captured.example, (replace(op, weight=None),), grids=floats)
    assert torch.equal(untouched[op.output], exact[op.output])
