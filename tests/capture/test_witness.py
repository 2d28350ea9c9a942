from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.capture.unlike import unlike
from edgeopt.capture.witness import Witness, copied
from edgeopt.model.model import Model
from tests.captures import Calls

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)


def witness_of(module: nn.Module, *example: Tensor) -> Witness:
    return capture(Model(module, example)).witness


def test_it_computes_what_the_user_s_module_computes_in_eval_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    witness = witness_of(module, torch.randn(3, 4))
    x = torch.randn(3, 4)
    with torch.no_grad():
        (wanted,) = witness(x)
        assert torch.equal(wanted, module.eval()(x))
    assert not wanted.requires_grad


def test_nested_arguments_reach_the_module_as_the_user_gave_them() -> None:
    class Nested(nn.Module):
        def forward(self, batch: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
            return {"product": batch["x"] * scale, "more": [batch["y"], None]}

    example = {"batch": {"x": torch.rand(3), "y": torch.rand(3)}, "scale": torch.rand(3)}
    x, y, scale = torch.rand(3, 3)
    found = capture(Model(Nested(), example)).witness(x, y, scale)
    assert [torch.equal(a, b) for a, b in zip(found, (x * scale, y), strict=True)] == [True, True]


class Stateful(nn.Module):
    """State of every kind, which all enter the result."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(3))
        self.plain, self.history, self.steps = torch.zeros(3), [torch.zeros(3)], 0

    def forward(self, x: Tensor) -> Tensor:
        self.total += x
        self.weight.data.mul_(2)
        self.plain = self.plain + x
        self.history.append(self.history[-1] + x)
        self.steps += 1
        return self.total + self.weight + self.plain + self.history[-1] + self.steps


def test_a_module_that_writes_its_state_gives_the_same_answer_each_time() -> None:
    module = Stateful()
    witness = Witness(copied(module), torch.utils._pytree.tree_flatten(((torch.ones(3),), {}))[1], (torch.float32,))
    first, second = witness(torch.ones(3))[0], witness(torch.ones(3))[0]
    assert torch.equal(first, second)
    assert torch.equal(first, torch.full((3,), 6.0))
    assert (module.steps, len(module.history)) == (0, 1)
    assert torch.equal(module.weight, torch.ones(3))


def test_an_input_that_the_module_writes_into_stays_what_it_was() -> None:
    x = torch.ones(3)
    witness = witness_of(Calls(lambda x: x.add_(1)), x.clone())
    assert torch.equal(witness(x)[0], torch.full((3,), 2.0))
    assert torch.equal(x, torch.ones(3))


def test_torch_s_random_numbers_go_on_as_if_nothing_had_run() -> None:
    module = copied(Calls(lambda x: torch.rand(3) * 0 + x))
    witness = Witness(module, torch.utils._pytree.tree_flatten(((torch.ones(3),), {}))[1], (torch.float32,))
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    witness(torch.ones(3))
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_in_low_precision_computes_in_it_and_is_read_in_float32(dtype: torch.dtype) -> None:
    module = nn.Linear(4, 2).to(dtype)
    witness = witness_of(module, torch.rand(1, 4, dtype=dtype))
    x = torch.rand(1, 4)
    (found,) = witness(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, module(x.to(dtype)).float())


def test_an_exported_program_is_its_own_witness() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    witness = capture(Model(torch.export.export(module, (torch.rand(1, 4),)))).witness
    x = torch.rand(1, 4)
    torch.testing.assert_close(witness(x)[0], module(x).detach())


def test_the_weights_of_a_trained_module_may_be_results_of_a_computation() -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(4, 8, 3)))
    x = torch.randn(1, 4, 16)
    module(x).sum().backward()
    (found,) = witness_of(module, x)(x)
    torch.testing.assert_close(found, module(x).detach())


def test_inputs_unlike_the_example_have_its_shapes_dtypes_and_indices() -> None:
    example = (torch.randn(2, 3, 4), torch.tensor([[5, 9, 7]]), torch.rand(4) > 0.5, torch.zeros(0), torch.tensor(3.0))
    found = unlike(example)
    assert len(found) >= 4
    for sample in found:
        assert [(v.shape, v.dtype) for v in sample] == [(v.shape, v.dtype) for v in example]
        assert set(sample[1].flatten().tolist()) <= {0, 5, 7, 9}
        assert not any(a is b for a, b in zip(sample, example, strict=True))
    scales = sorted(float(sample[0].abs().max() / example[0].abs().max()) for sample in found)
    assert (scales[0], scales[-1]) == (0.0, 8.0)
    assert any(not torch.equal(sample[2], example[2]) for sample in found)


def test_inputs_unlike_the_example_are_the_same_at_every_call() -> None:
    example = (torch.randn(5, 5), torch.arange(9))
    torch.manual_seed(1)
    first = unlike(example)
    torch.manual_seed(2)
    for a, b in zip(first, unlike(example), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
