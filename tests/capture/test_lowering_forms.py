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
    given: Any = [*pool.args, [0, 0]]
    assert all(window <= size + 2 * low for window, size, low in zip(given[1], IMAGE.shape[2:], given[3], strict=True))


def test_other_averages_stay_one_operator() -> None:
    found = operators(exact(Calls(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)), IMAGE))
    assert found == [aten.avg_pool2d.default]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0, -2.0, 1e6])
def test_a_way_between_two_tensors_is_written_out(weight: float) -> None:
    gone(lambda x: torch.lerp(x, x.flip(-1), weight), IMAGE, aten.lerp.Scalar)


def test_the_logarithm_of_a_sigmoid_far_below_zero() -> None:
    gone(F.logsigmoid, torch.linspace(-200, 200, 41)[None], aten.log_sigmoid.default)


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


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_products_are_a_few_products(axis: int) -> None:
    found = gone(lambda x: torch.cumprod(x, axis), SIGNAL, aten.cumprod.default)
    assert found.count(aten.mul.Tensor) <= 4  # of 13 elements at most


def test_axes_that_are_longer_than_one_are_not_squeezed() -> None:
    assert aten.squeeze.dims not in gone(lambda x: x.squeeze(-1) + 0, IMAGE, aten.squeeze.dim)
    exact(Calls(lambda x: (x.squeeze((0, 1)), x.squeeze(0))), torch.randn(1, 4, 3))


def test_places_along_one_element_and_in_a_whole_tensor() -> None:
    one, many = torch.randn(1, 1, 4), torch.randn(2, 5)
    gone(lambda x: (x.argmax(1), x.argmin(1, keepdim=True)), one, aten.argmax.default, aten.argmin.default)
    exact(Calls(lambda x: (x.argmax(), x.argmin(), x.argmax(1))), many)


def test_orders_are_one_operator() -> None:
    x = torch.randn(5, 4)
    gone(lambda x: (x.argsort(), x.argsort(0, descending=True), torch.msort(x)), x, aten.argsort.default, aten.msort.default)
    gone(lambda x: torch.argsort(x, stable=True), x, aten.argsort.stable)


def test_bits_of_booleans_are_logic_and_of_integers_bits() -> None:
    def both(x: Tensor) -> tuple[Tensor, ...]:
        a, b = x > 0, x > 0.5
        return a & b, a | b, a ^ b, ~a, torch.logical_xor(a, b), x.int() & 3, ~x.int(), x.int() ^ 5

    found = operators(exact(Calls(both), torch.randn(1, 9) * 4))
    bits = [str(target) for target in found if "bitwise" in str(target) or "__" in str(target)]
    assert sorted(bits) == ["aten.__and__.Scalar", "aten.__xor__.Scalar", "aten.bitwise_not.default"]


def test_the_softmax_of_one_score_is_one() -> None:
    x = torch.randn(3, 1, 4)
    gone(lambda x: (x.softmax(1), F.log_softmax(x, 1)), x, aten.softmax.int, aten.log_softmax.int)
    assert aten.softmax.int in operators(exact(Calls(lambda x: x.softmax(2)), x))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "options", [{"size": (3, 3)}, {"size": (12, 5)}, {"scale_factor": 0.5}, {"scale_factor": (0.4, 1.5)}, {"size": (1, 20)}]
)
def test_resizing_with_antialias_is_two_products(mode: str, options: dict[str, Any]) -> None:
    found = operators(exact(Calls(lambda x: F.interpolate(x, mode=mode, antialias=True, **options)), IMAGE))
    assert found == [aten.matmul.default] * 2


@pytest.mark.parametrize("options", [(2, 3, 0), (3, 2, 1), (2, 2, 0), (3, 3, 1)])
@pytest.mark.parametrize("size", [11, 12, 13])
def test_ceil_mode_stays_only_where_it_makes_a_window(options: tuple[int, int, int], size: int) -> None:
    """ONNX counts windows that begin behind the input; torch leaves them out."""
    x = torch.randn(1, 2, size)
    poolings = (nn.AvgPool1d(*options, ceil_mode=True), nn.MaxPool1d(*options, ceil_mode=True))
    more = poolings[0](x).shape != nn.AvgPool1d(*options)(x).shape
    for pooling in poolings:
        (node,) = [node for node in exact(pooling, x).program.graph.nodes if "pool" in str(node.target)]
        assert (True in node.args) == more


def test_memory_that_is_written_to_is_zeros() -> None:
    def copies(x: Tensor) -> tuple[Tensor, ...]:
        like, new, empty = torch.empty_like(x), x.new_empty((2, 3)), torch.empty(4)
        return like.copy_(x), new.fill_(2.0) + 0, empty.zero_() + x.sum()

    assert not [target for target in operators(exact(Calls(copies), SIGNAL)) if "empty" in str(target)]


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 6, 3, 2, 1, groups=2), nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2)])
def test_convolutions_of_a_traced_module_have_the_names_of_their_axes(layer: nn.Module) -> None:
    for axes, x in ((1, SIGNAL), (2, IMAGE)):
        kind = getattr(nn, type(layer).__name__.replace("1", str(axes)))
        own: Any = kind(4, 6, 3, 2, 1, groups=2).eval()
        found = operators(exact(torch.jit.trace(own, x), x))  # type: ignore[no-untyped-call]
        assert len(found) == 1 and f"conv{'_transpose' if 'Transpose' in type(layer).__name__ else ''}{axes}d" in str(found[0])


def test_what_is_filled_with_a_number_is_a_constant() -> None:
    def assigned(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0, ::2] = 7.0
        y[:, 1].fill_(2.0)
        return y

    gone(assigned, IMAGE, aten.fill.Tensor, aten.fill.Scalar)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "both_ways", "batch_first"), [(1, False, True), (2, True, False)])
def test_a_recurrent_layer_with_projections_is_written_out(layers: int, both_ways: bool, batch_first: bool, bias: bool) -> None:
    class States(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 8, layers, bias=bias, bidirectional=both_ways, batch_first=batch_first, **options)

        def forward(self, x: Tensor) -> Tensor:
            outputs, (hidden, cells) = self.layer(x)
            return torch.cat([outputs.flatten(), hidden.flatten(), cells.flatten()])

    assert aten.lstm.input not in operators(exact(States(proj_size=3), torch.randn(2, 5, 4)))
    assert aten.lstm.input in operators(exact(States(), torch.randn(2, 5, 4)))


def test_slopes_that_training_draws_are_their_mean() -> None:
    assert operators(exact(nn.RReLU(0.1, 0.4), IMAGE)) == [aten.leaky_relu.default]
    assert aten.leaky_relu.default in gone(F.rrelu, IMAGE)


def test_relu6_is_one_operator_however_it_is_called() -> None:
    assert operators(exact(Calls(F.relu6), IMAGE)) == operators(exact(nn.ReLU6(), IMAGE)) == [aten.hardtanh.default]


@pytest.mark.parametrize("function", [F.relu6, F.hardtanh, lambda x: F.hardtanh(x, -3, 5)])
def test_bounds_of_integers_are_no_activation(function: Callable[[Tensor], Tensor]) -> None:
    gone(lambda x: function(x) + 1, torch.arange(-10, 10), aten.relu6.default, aten.hardtanh.default)
