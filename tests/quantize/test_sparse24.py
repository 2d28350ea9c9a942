"""2:4 in a whole program: which layers, the pattern, what it costs, and that nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeopt.capture import capture
from edgeopt.model.model import Model
from edgeopt.quantize import sparse24
from edgeopt.targets.schema import Sparsity

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
SPARSITY = Sparsity(pattern="2:4", min_input_channels=32, min_output_channels=32, channel_multiple=16)
LOW = Sparsity(pattern="2:4", min_input_channels=4, min_output_channels=4, channel_multiple=4)


class Net(nn.Module):
    """One layer of every fate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.full = nn.Conv2d(32, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.up = nn.ConvTranspose2d(32, 32, 2, 2)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.short = nn.Conv2d(16, 32, 1)
        self.wide = nn.Linear(32, 64)
        self.scores = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.full(self.stem(x).relu()).relu())
        x = self.short(self.narrow(self.up(x)).relu())
        scores: Tensor = self.scores(self.wide(x.mean((2, 3))).relu())
        return scores


def program_of(module: nn.Module, *example: Tensor) -> ExportedProgram:
    return capture(Model(module.eval(), example)).program


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    torch.manual_seed(0)
    return program_of(Net(), torch.randn(1, 3, 8, 8))


@pytest.fixture(scope="module")
def samples() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 3, 8, 8, generator=generator),) for _ in range(24)]


def is_sparse(weight: Tensor) -> bool:
    return bool(((weight.movedim(1, -1).reshape(-1, 4) != 0).sum(1) <= 2).all())


def test_every_layer_is_listed_with_the_reason_where_it_stays_dense(program: ExportedProgram) -> None:
    found = {layer.layer: layer.reason for layer in sparse24.considered(program, SPARSITY)}
    pruned = [layer.layer for layer in sparse24.considered(program, SPARSITY) if layer.pruned]
    assert pruned == ["full", "wide"]
    assert {name: reason.split(":")[0] for name, reason in found.items() if name not in pruned} == {
        "stem": "3 -> 32 channels",
        "depthwise": "a grouped or depthwise convolution",
        "up": "a transposed convolution",
        "narrow": "16 output channels",
        "short": "16 input channels",
        "scores": "64 -> 10 channels",
    }


@pytest.mark.parametrize("calibrated", [False, True])
def test_pruned_layers_have_the_pattern_and_nothing_else_changes(
    program: ExportedProgram, samples: list[tuple[Tensor]], calibrated: bool
) -> None:
    before = {name: value.detach().clone() for name, value in program.state_dict.items()}
    after = sparse24.prune(program, SPARSITY, samples if calibrated else ())
    changed = {name for name, value in after.state_dict.items() if not torch.equal(value, before[name])}
    assert changed == {"module.full.weight", "module.wide.weight"}
    assert all(is_sparse(after.state_dict[name]) for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())
    assert after.state_dict["module.full.weight"].is_contiguous()


def test_samples_keep_the_outputs_nearer_to_the_model_and_the_same_ones_give_the_same_weights(
    program: ExportedProgram, samples: list[tuple[Tensor]]
) -> None:
    def noise(pruned: ExportedProgram) -> float:
        with torch.no_grad():
            modules = program.module(check_guards=False), pruned.module(check_guards=False)
            return sum(float(((modules[0](*s)[0] - modules[1](*s)[0]) ** 2).sum()) for s in samples)

    first, second = (sparse24.prune(program, SPARSITY, samples) for _ in range(2))
    assert all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())
    assert noise(first) < 0.5 * noise(sparse24.prune(program, SPARSITY))


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Conv2d(8, 12, 3, padding="same"), (1, 8, 5, 5)),
    (nn.Conv2d(4, 4, 2, stride=2), (1, 4, 5, 5)),
    (nn.Conv1d(12, 8, 3, dilation=2), (1, 12, 9)),
    (nn.Linear(20, 4, bias=False), (2, 3, 20)),
])  # fmt: skip
@pytest.mark.parametrize("calibrated", [False, True])
def test_every_kind_of_layer_gets_the_pattern(layer: nn.Module, shape: tuple[int, ...], calibrated: bool) -> None:
    example = torch.randn(shape)
    after = sparse24.prune(program_of(layer, example), LOW, [(example,)] if calibrated else ())
    assert is_sparse(after.state_dict["module.weight"])


class Tied(nn.Module):
    """``twice`` serves two layers; the embedding's table also serves as a layer's weights; ``made`` is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.twice = nn.Embedding(16, 8), nn.Linear(8, 8)
        self.made = nn.Parameter(torch.randn(8, 8))

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        x = self.twice(self.twice(self.table(tokens)).relu())
        x = nn.functional.linear(x, self.made * scale)
        return nn.functional.linear(x, self.table.weight)


def test_shared_weights_are_pruned_once_and_only_where_all_their_users_are_layers() -> None:
    torch.manual_seed(0)
    example = torch.arange(4)[None], torch.ones(1)
    program = program_of(Tied(), *example)
    considered = sparse24.considered(program, LOW)
    assert [layer.pruned for layer in considered] == [True, True, False, False]
    assert [layer.reason for layer in considered[2:]] == [
        "its weights are computed inside the model",
        "its weights serve another operator as well",
    ]
    after = sparse24.prune(program, LOW, [example])
    assert is_sparse(after.state_dict["module.twice.weight"])
    assert not is_sparse(after.state_dict["module.table.weight"])


def test_inputs_that_are_not_finite_leave_the_choice_to_the_rest() -> None:
    torch.manual_seed(0)
    example = torch.randn(6, 8)
    program = program_of(nn.Linear(8, 8), example)
    broken = example.clone()
    broken[2:] = float("nan")
    after, rest = (sparse24.prune(program, LOW, [(value,)]) for value in (broken, torch.cat([example[:2], torch.zeros(4, 8)])))
    assert torch.equal(after.state_dict["module.weight"], rest.state_dict["module.weight"])
