"""Masks: made finite where a softmax takes them, exact where they reach an output."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import Captured, capture
from edgeopt.errors import NotFiniteError
from edgeopt.model.model import Model
from tests.captures import run

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)
LOWEST = torch.finfo(torch.float32).min
X, KEEP = torch.randn(1, 4, 8), torch.tensor([True, False, True, True, False, True, True, True])


class Masks(nn.Module):
    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mask = mask
        self.register_buffer("triangle", torch.full((4, 8), -math.inf).triu(2))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.mask(x + self.triangle if self.mask is CAUSAL else x, keep)


def CAUSAL(x: Tensor, keep: Tensor) -> Tensor:  # noqa: N802
    return x.softmax(-1)


def numbers(captured: Captured) -> list[float]:
    """Every number that the program holds, stored or written."""
    state = [*captured.program.state_dict.values(), *captured.program.constants.values()]
    stored = [float(bound) for value in state if value.is_floating_point() for bound in torch.aminmax(value)]
    return stored + [a for node in captured.program.graph.nodes for a in node.args if isinstance(a, float)]


BOUNDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_fill": lambda x, keep: x.masked_fill(~keep, LOWEST).softmax(-1),
    "where, inf": lambda x, keep: torch.where(keep, x, -math.inf).softmax(-1),
    "added": lambda x, keep: (x + (1.0 - keep.float()) * LOWEST).softmax(-1),
    "scaled and moved": lambda x, keep: (x.masked_fill(~keep, -math.inf) / 8).transpose(1, 2).reshape(8, 4).T.softmax(-1),
    "by hand": lambda x, keep: (lambda y: (y - y.amax(-1, keepdim=True)).exp())(x.masked_fill(~keep, LOWEST)),
    "sigmoid": lambda x, keep: x.masked_fill(~keep, -math.inf).sigmoid(),
    "stored": CAUSAL,
}


@pytest.mark.parametrize("case", BOUNDED)
def test_a_mask_before_a_softmax_becomes_a_number_that_16_bits_hold(case: str) -> None:
    module = Masks(BOUNDED[case])
    captured = capture(Model(module, (X, KEEP)))
    assert max(map(abs, numbers(captured)), default=0) <= torch.finfo(torch.float16).max
    torch.testing.assert_close(run(captured)[0], module(X, KEEP))


REACHING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": lambda x, keep: x.masked_fill(~keep, LOWEST),
    "logits, inf": lambda x, keep: x.masked_fill(~keep, -math.inf),
    "where": lambda x, keep: torch.where(keep, x, -math.inf),
    "log softmax": lambda x, keep: x.masked_fill(~keep, -math.inf).log_softmax(-1),
    "added": lambda x, keep: x + torch.where(keep, 0.0, LOWEST),
    "also through a softmax": lambda x, keep: (lambda y: torch.cat([y, y.softmax(-1)]))(x.masked_fill(~keep, -math.inf)),
    "a share of it": lambda x, keep: (x.masked_fill(~keep, -3e38) * 1e-38).softmax(-1),
}


@pytest.mark.parametrize("case", REACHING)
def test_a_mask_that_reaches_an_output_stays_what_it_is(case: str) -> None:
    module = Masks(REACHING[case])
    captured = capture(Model(module, (X, KEEP)))
    wanted = module(X, KEEP)
    torch.testing.assert_close(run(captured)[0], wanted)
    none_masked = torch.ones(8, dtype=torch.bool)  # the same where the example happens to mask nothing
    quiet = capture(Model(module, (X, none_masked)))
    torch.testing.assert_close(run(quiet, X, KEEP)[0], wanted)


def test_infinity_that_no_mask_puts_into_an_output_is_refused() -> None:
    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1e3).exp()

    with pytest.raises(NotFiniteError, match="an infinity reaches the output"):
        capture(Model(Overflows(), torch.ones(2)))


def test_nan_beside_a_mask_is_refused() -> None:
    with pytest.raises(NotFiniteError, match="holds NaN or infinity"):
        capture(Model(Masks(lambda x, keep: x.masked_fill(~keep, -math.inf) * 0), (X, KEEP)))


@pytest.mark.parametrize("additive", [False, True])
def test_attention_to_nothing_is_no_reason_to_refuse(additive: bool) -> None:
    """Fully masked rows have no answer that could be kept; the first example row here attends to nothing."""

    class Attention(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            mask = torch.where(keep, 0.0, LOWEST) if additive else keep
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    keep = torch.rand(4, 4) > 0.3
    keep[0] = False
    captured = capture(Model(Attention(), (X, keep)))
    keep[0, 1] = True
    torch.testing.assert_close(run(captured, X, keep)[0], captured.witness(X, keep)[0])


def test_inputs_that_attend_to_nothing_judge_no_artifact() -> None:
    """Nothing is right there: the lowest float makes of all scores one number, and 3e4 leaves them apart."""

    class Attention(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            scores = x + torch.arange(16.0).reshape(4, 4) % 5  # told apart on zeros, too
            return (scores + (1.0 - keep.float()) * LOWEST).softmax(-1) @ torch.arange(8.0).reshape(4, 2)

    captured = capture(Model(Attention(), (torch.randn(1, 4, 4), torch.tensor([1, 0, 1, 1]))))
    assert len(captured.unlike) == 3 and all(bool(keep.any()) for _, keep in captured.unlike)
