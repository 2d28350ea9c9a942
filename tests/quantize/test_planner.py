import math

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.planner import Quantization
from tests.quantize.networks import Attention, Convolutional, decided, kinds

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
IMAGE = torch.randn(1, 3, 8, 8)


def kept(quantization: Quantization) -> dict[str, str]:
    return {one.operator: one.reason for one in quantization.kept_float}


def scale_of(quantization: Quantization, kind: str) -> tuple[float, int]:
    (op,) = (op for op in quantization.integer if op.kind == kind)
    found = quantization.parameters[op.output]
    return found.scale, found.zero_point


@pytest.mark.parametrize("target", ["arm-xnnpack", "arm-ort", "x86-fbgemm", "apple-ane", "nvidia-sparse24"])
def test_a_convolutional_network_is_integer_throughout(target: str) -> None:
    found = decided(Convolutional(), IMAGE, target=target)
    assert kinds(found).count("conv") == 2
    assert "linear" in kinds(found)


def test_relu_belongs_to_the_convolution_that_feeds_it() -> None:
    found = decided(Convolutional(), IMAGE)
    convolutions = [op for op in found.integer if op.kind == "conv"]
    assert all("relu" in op.output.name and op.output is not op.head for op in convolutions)
    assert not any(op.head in found.parameters for op in convolutions)
    assert "relu" not in kinds(found)


def test_a_lone_elementwise_operator_stays_in_float_with_float_inputs_and_outputs() -> None:
    found = decided(nn.Sigmoid(), torch.randn(1, 64), io_float=True)
    assert found.integer == ()
    assert "would cost more" in kept(found)["sigmoid"]


def test_integer_inputs_and_outputs_are_quantized_whatever_is_between() -> None:
    found = decided(nn.LayerNorm(64), torch.randn(1, 64))
    assert {node.op for node in found.outputs} == {"placeholder", "call_function"}
    assert kept(found) == {"layer_norm": "LiteRT, XNNPACK delegate has no integer kernel for layer_norm"}


def test_arithmetic_on_integers_is_never_quantized() -> None:
    class Indices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table((ids + 1) * 2) + ids[..., None] * 0.5)

    found = decided(Indices(), torch.tensor([[1, 2, 3]]), io_float=True)
    for op in found.integer:
        assert op.kind == "embedding" or all(n.meta["val"].dtype == torch.float32 for n in op.carrier.all_input_nodes)
    assert not [node for node in found.parameters if node.meta["val"].dtype != torch.float32]
    assert "mul" not in kinds(found)


def test_attention_without_a_mask_is_integer() -> None:
    found = decided(Attention(), torch.randn(1, 12, 16), target="arm-ort")
    assert kinds(found).count("matmul") == 2
    assert scale_of(found, "softmax") == (1 / 256, -128)


def test_a_large_depthwise_kernel_stays_in_float_where_the_runtime_is_slow_with_it() -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(8, 8, 7, padding=3, groups=8)
            self.usual = nn.Conv2d(8, 8, 5, padding=2, groups=8)

        def forward(self, value: Tensor) -> Tensor:
            return self.usual(self.wide(value))

    found = decided(Depthwise(), torch.randn(1, 8, 16, 16))
    assert kept(found)["conv"] == "a 7-wide depthwise kernel is slower in integers on LiteRT, XNNPACK delegate"
    assert kinds(found).count("conv") == 1


def test_masked_attention_stays_in_float_although_no_padding_was_seen() -> None:
    found = decided(Attention(), torch.randn(1, 12, 16), torch.ones(1, 12))
    assert "a mask may push its values out of any range that 8 bits can hold" in kept(found).values()
    scores = [op for op in found.integer if op.kind in ("softmax", "matmul")]
    assert all(found.parameters[value].scale < 1 for op in scores for value in op.operands)
    assert kinds(found).count("linear") == 3


def test_what_a_concatenation_joins_has_one_scale_where_the_runtime_asks_for_it() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.small(x) * 0.5, self.large(x) * 2], -1))

    joined = decided(Joined(), torch.randn(8, 16))
    (concat,) = (op for op in joined.integer if op.kind == "concat")
    assert len({joined.parameters[value] for value in (*concat.operands, concat.output)}) == 1
    free = decided(Joined(), torch.randn(8, 16), target="x86-fbgemm")
    (concat,) = (op for op in free.integer if op.kind == "concat")
    assert len({free.parameters[value].scale for value in concat.operands}) == 2


def test_what_only_moves_values_keeps_their_scale() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4))
    found = decided(module, IMAGE)
    for op in found.integer:
        if op.kind in ("max_pool", "reshape"):
            assert found.parameters[op.output] == found.parameters[op.operands[0]]


def test_an_operator_that_is_not_known_stays_in_float_and_is_listed_with_its_layer() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.special.i0e(self.stem(x)))

    found = decided(Odd(), torch.randn(4, 64))
    assert kept(found) == {"aten.special_i0e.default": "edgeopt does not know this operator"}
    assert kinds(found) == ["linear", "linear"]


def test_a_layer_is_named_as_the_user_s_module_path() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.LayerNorm(64)), nn.Linear(64, 64))
    (one,) = decided(module, torch.randn(4, 64)).kept_float
    assert one.layer == "1.0"


def test_values_as_large_as_masks_stay_in_float() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + torch.full((16,), -3e5))

    found = decided(Large(), torch.randn(1, 16), io_float=True)
    assert found.integer == ()
    assert any("as masks do" in reason or "a mask" in reason for reason in kept(found).values())


def test_a_weight_that_is_computed_at_run_time_is_told() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return nn.functional.linear(x, weight)

    found = decided(Dynamic(), torch.randn(2, 64), torch.randn(8, 64), io_float=True)
    assert kept(found)["linear"] == "its weight is computed at run time, not stored"


def test_a_value_that_is_not_finite_on_the_data_is_told() -> None:
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.exp(-(x.abs() * math.inf))) + self.head((x - x) / (x + 1))

    found = decided(Logs(), torch.ones(1, 16), io_float=True)
    assert all(math.isfinite(one.scale) for one in found.parameters.values())


def test_signed_symmetric_schemes_have_no_zero_point_and_leave_out_the_lowest_integer() -> None:
    found = decided(Convolutional(), IMAGE, target="nvidia-sparse24")
    assert {(one.zero_point, one.low, one.high) for one in found.parameters.values()} == {(0, -127, 127)}


def test_unsigned_symmetric_schemes_begin_with_zero_behind_a_relu_and_have_it_in_the_middle_elsewhere() -> None:
    torch.manual_seed(0)
    found = decided(Convolutional(), IMAGE, target="apple-ane")
    zeros = {node.name: one.zero_point for node, one in found.parameters.items()}
    assert [name for name, zero in zeros.items() if zero == 128] == ["image", "linear"]
    assert set(zeros.values()) == {0, 128}
