"""State that forward writes, and chance: refused by name and line where an output depends on it, else left out and said."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.errors import CaptureError
from edgeopt.model.model import Model
from tests.captures import exact

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)
CHUNK = torch.randn(1, 4, 6)


def refusal(module: nn.Module, *example: Tensor) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(Model(module.eval(), example))
    return caught.value.message()


class Streaming(nn.Module):
    """The last frames are kept in ``way``; the first result starts with zeros."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        if way in ("copied", "assigned", "sliced"):
            self.register_buffer("past", torch.zeros(1, 4, 2))
        elif way == "listed":
            self.past = [torch.zeros(1, 4, 2)]
        else:
            self.past = torch.zeros(1, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        past = self.past[0] if self.way == "listed" else self.past
        y = torch.cat([past, x], -1)
        last = y[..., -2:].clone()
        if self.way in ("copied", "plain copied"):
            self.past.copy_(last)
        elif self.way == "sliced":
            self.past[:, :, :] = last
        elif self.way == "listed":
            self.past[0] = last
        else:
            self.past = last
        return y


@pytest.mark.parametrize("way", ["copied", "assigned", "sliced", "plain", "plain copied", "listed"])
def test_state_of_every_kind_is_refused_by_name_with_the_way_out(way: str) -> None:
    module = Streaming(way)
    said = refusal(module, CHUNK)
    assert "forward writes past" in said
    assert "make it an input and an output" in said
    kept = module.past[0] if way == "listed" else module.past
    assert float(kept.abs().max()) == 0


def test_the_line_that_writes_a_buffer_is_named() -> None:
    assert "test_state.py, line" in refusal(Streaming("copied"), CHUNK)
    assert "self.past.copy_(last)" in refusal(Streaming("copied"), CHUNK)


def test_the_way_out_of_the_refusal_works() -> None:
    class Explicit(nn.Module):
        def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.cat([past, x], -1)
            return y, y[..., -2:]

    captured = exact(Explicit(), CHUNK, torch.zeros(1, 4, 2))
    assert [spec.name for spec in captured.signature.specs] == ["x", "past"]


class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(1, 16, 8))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        self.cache.index_copy_(1, position, self.keys(x))
        return x @ self.cache.transpose(1, 2)


@pytest.mark.parametrize("position", [0, 3])
def test_a_cache_of_keys_is_refused(position: int) -> None:
    module = Cache()
    assert "forward writes cache" in refusal(module, torch.randn(1, 1, 8), torch.tensor([position]))
    assert float(module.cache.abs().max()) == 0


def test_a_counter_that_enters_the_result_is_refused() -> None:
    class Counting(nn.Module):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps = self.steps + 1
            return x * self.steps

    assert "its outputs depend on it" in refusal(Counting(), CHUNK)


class Harmless(nn.Module):
    """Writes what no result depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scratch", torch.ones(1, 4, 6))
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.scratch.copy_(x)
        if self.table is None:
            self.table = torch.arange(6.0).cos()
        return self.scratch * self.table


def test_state_that_no_output_depends_on_is_left_out_and_said() -> None:
    module = Harmless()
    captured = exact(module, CHUNK)
    assert [(d.subject, d.choice) for d in captured.decisions] == [("calls, scratch, table", "not kept between calls")]
    assert not captured.program.graph_signature.buffers_to_mutate
    x = torch.randn(1, 4, 6)
    torch.testing.assert_close(captured.witness(x)[0], x * torch.arange(6.0).cos())


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x + torch.rand(6),
        lambda x: nn.functional.dropout(x, 0.5, training=True),
        lambda x: x * torch.bernoulli(torch.full((6,), 0.5)),
        lambda x: x + torch.randn_like(x),
    ],
    ids=["rand", "dropout", "bernoulli", "randn_like"],
)
def test_a_model_that_draws_random_numbers_is_refused_with_the_line(draw: Any) -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return draw(x)

    said = refusal(Draws(), CHUNK)
    assert "the model gives another answer each time" in said
    assert "test_state.py, line" in said


def test_random_numbers_that_no_output_depends_on_are_no_reason() -> None:
    class Idle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            return nn.functional.dropout(x, 0.0, training=True) * 2

    exact(Idle(), CHUNK)


def test_the_graph_of_an_exported_program_is_no_state() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    decisions = capture(Model(program)).decisions
    assert [decision.subject for decision in decisions] == ["dynamic shape"]
