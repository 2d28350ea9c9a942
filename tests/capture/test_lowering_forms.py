"""Operators written as others compute exactly what they did, with every option that they have."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everybody calls it
from torch import Tensor, nn

from tests.captures import Calls, exact, operators

pytestmark = pytest.mark.filterwarnings("default")  # of torch and torchao

aten = torch.ops.aten
SIGNAL, IMAGE, VOLUME = torch.randn(2, 4, 13), torch.randn(1, 4, 9, 8), torch.randn(1, 2, 5, 6, 7)


def gone(function: Callable[[Tensor], Any], x: Tensor, *targets: Any) -> list[Any]:
    found = operators(exact(Calls(function), x))
    assert not set(targets) & set(found)
    return found


@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(3, 1, 1), (4, 1, 1), (4, 3, 2), (2, 2, 4), (1, 1, 1)])
def test_padding_by_name_becomes_numbers(kernel: int, dilation: int, groups: int) -> None:
    for x, layer, by_name in (
        (SIGNAL, nn.Conv1d, aten.conv1d.padding),
        (IMAGE, nn.Conv2d, aten.conv2d.padding),
        (VOLUME[:, :1].repeat(1, 4, 1, 1, 1), nn.Conv3d, aten.conv3d.padding),
    ):
        for padding in ("same", "valid"):
            if padding == "same" or dilation * (kernel - 1) < 5:
                convolution = layer(4, 8, kernel, padding=padding, dilation=dilation, groups=groups)
                found = exact(convolution, x)
                assert by_name not in operators(found)
                (node,) = (node for node in found.program.graph.nodes if "conv" in str(node.target))
                given = [each for each in node.args[3:] if isinstance(each, list)]
                assert all(len(each) == x.dim() - 2 for each in given), "converters want a number for each axis"


def test_padding_by_name_with_other_kernels_for_each_axis_and_strides() -> None:
    weight = torch.randn(6, 4, 4, 3)
    gone(lambda x: F.conv2d(x, weight, padding="same", dilation=(1, 2)), IMAGE, aten.conv2d.padding)
    gone(lambda x: F.conv2d(x, weight, padding="valid", stride=(2, 1)), IMAGE, aten.conv2d.padding)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "constant"])
@pytest.mark.parametrize("amounts", [(1, 2), (0, 3), (1, 2, 0, 3), (-1, 2, 1, -2), (-1, -2), (0, 0, 0, 0)])
def test_paddings_of_every_mode_and_sign(mode: str, amounts: tuple[int, ...]) -> None:
    x = IMAGE if len(amounts) == 4 else SIGNAL
    gone(lambda x: F.pad(x, amounts, mode=mode) + 0, x, aten.pad.default)


def test_padding_with_a_value_and_along_the_channels() -> None:
    gone(lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), IMAGE, aten.pad.default)
    gone(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), IMAGE, aten.pad.default)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), ((3, 2), (2, 1), (1, 0)), (2, None, 0), (3, 3, 1)])
def test_an_average_with_a_divisor_of_its_own_is_a_factor(kernel: Any, stride: Any, padding: Any, ceil: bool) -> None:
    for size, divisor in product((8, 9, 10), (1, 5)):
        pooling = nn.AvgPool2d(kernel, stride, padding, ceil, divisor_override=divisor)
        found = exact(pooling, torch.randn(1, 2, 9, size))
        (pool,) = (node for node in found.program.graph.nodes if node.target is aten.avg_pool2d.default)
        assert len(pool.args) < 7


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(640, None, 0), ((640, 3), (640, 2), (4, 1)), ((3, 64), (1, 99), (0, 2))]
)
def test_an_average_over_more_than_there_is_has_a_window_as_large_as_what_there_is(
    kernel: Any, stride: Any, padding: Any, counted: bool
) -> None:
    found = exact(nn.AvgPool2d(kernel, stride, padding, ceil_mode=True, count_include_pad=counted), IMAGE)
    (pool,) = (node for node in found.program.graph.nodes if node.target is aten.avg_pool2d.default)
    given: Any = pool.args
    assert all(window <= size + 2 * low for window, size, low in zip(given[1], IMAGE.shape[2:], given[3], strict=True))


def test_other_averages_stay_one_operator() -> None:
    found = operators(exact(Calls(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)), IMAGE))
    assert found == [aten.avg_pool2d.default]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0, -2.0, 1e6])
def test_a_way_between_two_tensors_is_written_out(weight: float) -> None:
    gone(lambda x: torch.lerp(x, x.flip(-1), weight), IMAGE, aten.lerp.Scalar)


@pytest.mark.parametrize("size", [1, 5, (5, 3), (9, 8), (2, 7)])
def test_adaptive_maxima_are_written_out(size: Any) -> None:
    gone(lambda x: F.adaptive_max_pool2d(x, size), IMAGE, aten.adaptive_max_pool2d.default)


def test_adaptive_maxima_along_one_and_three_axes_and_their_places() -> None:
    gone(lambda x: F.adaptive_max_pool1d(x, 5), SIGNAL, aten.adaptive_max_pool1d.default)
    gone(lambda x: F.adaptive_max_pool3d(x, (2, 3, 5)), VOLUME, aten.adaptive_max_pool3d.default)
    gone(lambda x: F.adaptive_max_pool2d(x, (5, 3), return_indices=True), IMAGE, aten.adaptive_max_pool2d.default)


@pytest.mark.parametrize("alpha", [0.3, -2, 1])
def test_a_factor_inside_a_sum_or_difference_stands_before_it(alpha: float) -> None:
    for function in (torch.add, torch.sub, torch.rsub):
        found = exact(Calls(lambda x, f=function: (f(x, x.relu(), alpha=alpha), f(x, 2.0, alpha=alpha))), IMAGE)
        assert aten.rsub.Tensor not in operators(found)
        assert all("alpha" not in node.kwargs for node in found.program.graph.nodes)


@pytest.mark.parametrize("axis", [-4, -3, -1, 2])
def test_the_axis_of_a_running_sum_is_counted_from_the_front(axis: int) -> None:
    found = exact(Calls(lambda x: x.cumsum(axis)), IMAGE)
    assert [node.args[1] for node in found.program.graph.nodes if node.target is aten.cumsum.default] == [axis % 4]


def test_one_hot_vectors_are_comparisons() -> None:
    ids = torch.tensor([[0, 4, 2], [1, 1, 3]])
    assert aten.one_hot.default not in operators(exact(Calls(lambda x: F.one_hot(x, 5).float()), ids))


@pytest.mark.parametrize("size", [4, 9, 3])
def test_a_split_into_one_part_is_the_whole(size: int) -> None:
    found = operators(exact(Calls(lambda x: [part * 2 for part in x.split(size, 1)]), IMAGE))
    assert (aten.split.Tensor in found) == (size < 4)
