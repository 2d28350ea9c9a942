"""Which values stay in float because no single scale can hold what they consist of."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.planner import Quantization, decide
from edgeopt.targets import loader
from tests.captures import Calls
from tests.quantize.networks import captured_and_observed, kinds

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
aten = torch.ops.aten
LOWEST = torch.finfo(torch.float32).min


def decided_on(module: nn.Module, data: Iterable[tuple[Tensor, ...]], target: str = "arm-xnnpack") -> Quantization:
    first, *others = data
    profile = loader.load(target)
    _, graph, statistics = captured_and_observed(module.eval(), *first, data=others)
    return decide(graph, statistics, profile, profile.schemes[0], profile.io.float_type != "int8")


def border(found: Quantization) -> dict[tuple[str, int], str]:
    return {(one.side, one.position): one.reason for one in found.float_border}


class Heads(nn.Module):
    """Two heads of which the first is ``ratio`` times as large, joined by ``join``."""

    def __init__(self, join: Callable[[Tensor, Tensor], Any], ratio: float = 300.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large, self.small, self.join, self.ratio = nn.Linear(16, 6), nn.Linear(16, 6), join, ratio

    def forward(self, x: Tensor) -> Any:
        return self.join(self.large(x) * self.ratio, self.small(x))


def written(a: Tensor, b: Tensor) -> Tensor:
    both = a.new_zeros(a.shape[0], 12)
    both[:, :6], both[:, 6:] = a, b
    return both


JOINS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "cat": lambda a, b: torch.cat([a, b], 1),
    "concat": lambda a, b: torch.concat([a, b], 1),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "stack": lambda a, b: torch.stack([a, b], 1),
    "where": lambda a, b: torch.where(torch.arange(6) > 2, a, b),
    "write": written,
    "maximum": lambda a, b: torch.maximum(a, b),
    "add": lambda a, b: a + b,
    "moved": lambda a, b: torch.stack([a, b], 1).permute(0, 2, 1).flatten(1).unsqueeze(1),
    "twice": lambda a, b: torch.cat([torch.cat([b, b * 0.5], 1), a], 1),
    "expanded": lambda a, b: torch.cat([a, b], 1)[:, None].expand(-1, 3, -1),
    "padded": lambda a, b: nn.functional.pad(torch.cat([a, b], 1), (1, 1)),
}
ROWS = [(torch.randn(16, 16),) for _ in range(4)]


@pytest.mark.parametrize("join", JOINS)
def test_an_output_that_joins_values_far_apart_stays_float(join: str) -> None:
    found = decided_on(Heads(JOINS[join]), ROWS)
    assert list(border(found)) == [("output", 0)]


@pytest.mark.parametrize("join", JOINS)
def test_an_output_that_joins_values_alike_is_integer(join: str) -> None:
    assert border(decided_on(Heads(JOINS[join], ratio=1.0), ROWS)) == {}


def test_parts_keep_their_own_scale_before_a_join_in_float() -> None:
    found = decided_on(Heads(JOINS["cat"]), ROWS)
    layers = [op.output for op in found.integer if op.kind in ("linear", "mul")]
    scales = [found.parameters[value].scale for value in layers]
    assert max(scales) > 100 * min(scales)
    assert "256 levels" in next(one.reason for one in found.kept_float if one.operator == "concat")


@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-ort", "nvidia-sparse24", "apple-ane"])
def test_a_layer_that_reads_values_far_apart_stays_in_float_on_every_target(target: str) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.body = Heads(JOINS["cat"]), nn.Linear(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.heads(x)).relu()

    found = decided_on(Inner(), ROWS, target)
    assert [op.head.meta["nn_module_stack"] for op in found.integer if op.kind == "linear"]
    assert any(one.layer == "body" and "too far apart" in one.reason for one in found.kept_float)


def test_channels_that_one_layer_or_a_product_gives_different_scales_make_a_float_output() -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 5)
            self.register_buffer("unit", torch.tensor([640.0, 640.0, 640.0, 640.0, 1.0]))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.head(x)
            return found * self.unit, found

    found = border(decided_on(Boxes(), ROWS))
    assert list(found) == [("output", 0)]
    assert "1 of 5 along axis 1" in found["output", 0]


def test_one_sample_says_nothing_about_the_scale_of_a_channel() -> None:
    assert border(decided_on(nn.Linear(16, 1000), [(torch.randn(1, 16),)])) == {}


@pytest.mark.parametrize("low", [LOWEST, -1e9, -1e4, -float("inf")])
def test_masked_logits_stay_float_whether_or_not_the_data_masked_anything(low: float) -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 8)

        def forward(self, x: Tensor, legal: Tensor) -> Tensor:
            return self.head(x).masked_fill(~legal, low)

    everything = torch.ones(4, 8, dtype=torch.bool)
    for legal in (everything, everything.tril(4)) if low > LOWEST else (everything,):
        found = decided_on(Policy(), [(torch.randn(4, 16), legal)])
        assert list(border(found)) == [("output", 0)]
        assert kinds(found) == ["linear"]


def test_a_mask_that_is_computed_or_comes_as_an_input_keeps_its_output_float() -> None:
    class Additive(nn.Module):
        def __init__(self, computed: bool) -> None:
            super().__init__()
            self.head, self.computed = nn.Linear(16, 8), computed

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.head(x) + ((1 - mask) * -1e9 if self.computed else mask)

    keep = torch.ones(4, 8).tril(4)
    computed = border(decided_on(Additive(True), [(torch.randn(4, 16), keep)]))
    given = border(decided_on(Additive(False), [(torch.randn(4, 16), (1 - keep) * -1e9)]))
    assert list(computed) == [("output", 0)]
    assert list(given) == [("input", 1), ("output", 0)]


def test_a_mask_behind_an_activation_that_bounds_it_is_no_reason() -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return x.masked_fill(~keep, -1e9).softmax(-1) + x.tanh()

    keep = torch.ones(16, 8, dtype=torch.bool).tril(4)
    assert ("output", 0) not in border(decided_on(Chosen(), [(torch.randn(16, 8), keep)]))


def test_an_open_slice_that_is_written_is_no_mask() -> None:
    assert border(decided_on(Heads(written, ratio=1.0), ROWS)) == {}


def test_inputs_of_ones_and_zeros_are_integers() -> None:
    found = decided_on(nn.Linear(16, 8), [((torch.randn(16, 16) > 1).float(),)])
    assert border(found) == {}


def test_features_of_far_apart_scales_are_a_float_input() -> None:
    scales = torch.tensor([1.0, 1.0, 9000.0, 1.0])
    found = border(decided_on(nn.Linear(4, 8), [(torch.randn(16, 4) * scales,) for _ in range(3)]))
    assert next(iter(found)) == ("input", 0)


def test_pooling_to_a_mean_of_little_range_does_not_share_the_input_s_scale() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.adaptive_avg_pool2d(self.stem(x), 1))

    torch.manual_seed(0)
    found = decided_on(Pooled(), [(torch.randn(1, 3, 96, 96),) for _ in range(3)])
    (pool,) = (one for one in found.kept_float if one.operator == "adaptive_avg_pool")
    assert "share one 8-bit scale" in pool.reason
    assert kinds(found) == ["conv", "conv"]


@pytest.mark.parametrize("activation", [torch.tanh, torch.sigmoid, lambda x: x.softmax(-1)], ids=["tanh", "sigmoid", "softmax"])
def test_a_prescribed_scale_is_not_given_to_a_group_that_it_does_not_hold(activation: Callable[[Tensor], Tensor]) -> None:
    found = decided_on(Heads(lambda a, b: torch.cat([activation(b * 4), a], 1), ratio=2.0), ROWS)
    (join,) = (op for op in found.integer if op.kind == "concat")
    assert len({found.scales.of(join, value) for value in join.operands} | {found.parameters[join.output]}) == 1
    bounded = next(op.output for op in found.integer if op.kind in ("tanh", "sigmoid", "softmax"))
    assert found.parameters[bounded].scale in (1 / 128, 1 / 256) != found.parameters[join.output].scale


def test_two_prescribed_scales_in_one_group_take_the_one_that_holds_both() -> None:
    found = decided_on(Heads(lambda a, b: torch.cat([b.sigmoid(), a.tanh()], 1), ratio=1.0), ROWS)
    (join,) = (op for op in found.integer if op.kind == "concat")
    assert found.parameters[join.output].scale == 1 / 128
    assert {found.parameters[value].scale for value in join.operands} == {1 / 128, 1 / 256}


def test_a_prescribed_scale_alone_stays_what_the_runtime_asks_for() -> None:
    found = decided_on(Calls(lambda x: x.sigmoid().reshape(-1, 8)), [(torch.randn(16, 16),)])
    assert {found.parameters[op.output].scale for op in found.integer} == {1 / 256}
