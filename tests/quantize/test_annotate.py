from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

import edgeopt
from edgeopt.quantize.annotate import quantize
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile
from tests.quantize.networks import Convolutional, captured_and_observed, quantized_nodes

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
qd = torch.ops.quantized_decomposed
Q, DQ = qd.quantize_per_tensor.default, qd.dequantize_per_tensor.default
DQ_CHANNEL = qd.dequantize_per_channel.default
IMAGE = torch.randn(1, 3, 8, 8)


def of(nodes: list[Node], *targets: Any) -> list[Node]:
    return [node for node in nodes if node.target in targets]


@pytest.mark.parametrize(
    ("target", "dtype", "low", "high"),
    [
        ("arm-xnnpack", torch.int8, -128, 127),
        ("arm-ort", torch.int8, -128, 127),
        ("x86-fbgemm", torch.uint8, 0, 255),
        ("apple-ane", torch.uint8, 0, 255),
        ("nvidia-sparse24", torch.int8, -127, 127),
    ],
)
def test_activations_have_the_scheme_s_dtype_and_range(target: str, dtype: torch.dtype, low: int, high: int) -> None:
    nodes = quantized_nodes(Convolutional(), IMAGE, target=target)
    found = {tuple(node.args[3:6]) for node in of(nodes, Q, DQ) if "weight" not in str(node.args[0])}
    assert found == {(low, high, dtype)}


def test_between_a_convolution_and_its_relu_nothing_is_quantized() -> None:
    nodes = quantized_nodes(Convolutional(), IMAGE)
    for convolution in of(nodes, torch.ops.aten.conv2d.default):
        assert [user.target for user in convolution.users] == [torch.ops.aten.relu.default]
        assert convolution.args[0].target is DQ
    for relu in of(nodes, torch.ops.aten.relu.default):
        assert {user.target for user in relu.users} == {Q}


def test_a_value_is_quantized_once_however_many_use_it() -> None:
    nodes = quantized_nodes(Convolutional(), IMAGE)
    sources = [node.args[0] for node in of(nodes, Q)]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize(
    ("module", "example", "axis", "channels"),
    [
        (nn.Conv2d(4, 6, 3), torch.randn(1, 4, 8, 8), 0, 6),
        (nn.Conv2d(8, 8, 3, groups=8), torch.randn(1, 8, 8, 8), 0, 8),
        (nn.Conv1d(4, 6, 3), torch.randn(1, 4, 32), 0, 6),
        (nn.ConvTranspose2d(4, 6, 3), torch.randn(1, 4, 8, 8), 1, 6),
        (nn.Linear(16, 12), torch.randn(4, 16), 0, 12),
    ],
    ids=["conv2d", "depthwise", "conv1d", "transposed", "linear"],
)
def test_weights_have_a_scale_per_output_channel(module: nn.Module, example: Tensor, axis: int, channels: int) -> None:
    nodes = quantized_nodes(module, example)
    (weight,) = (node for node in of(nodes, DQ_CHANNEL) if node.args[6] == torch.int8)
    assert weight.args[3] == axis
    assert tuple(weight.args[1].meta["val"].shape) == (channels,)
    assert tuple(weight.args[4:6]) == (-127, 127)


def scheme_of(profile: TargetProfile, **changes: Any) -> TargetProfile:
    return replace(profile, schemes=(replace(profile.schemes[0], **changes),))


def test_a_reduced_range_leaves_the_weights_seven_bits() -> None:
    nodes = quantized_nodes(Convolutional(), IMAGE, target="x86-fbgemm-avx2")
    weights = [node for node in of(nodes, DQ_CHANNEL) if node.args[6] == torch.int8]
    assert {tuple(node.args[4:6]) for node in weights} == {(-63, 63)}


def test_weights_per_tensor_have_one_scale() -> None:
    nodes = quantized_nodes(Convolutional(), IMAGE, target=scheme_of(loader.load("x86-fbgemm"), per_channel=False))
    assert not [node for node in of(nodes, DQ_CHANNEL) if node.args[6] == torch.int8]
    assert len([node for node in of(nodes, DQ) if tuple(node.args[3:5]) == (-127, 127)]) == 3


def test_inputs_and_outputs_are_quantized_unless_floats_are_asked_for() -> None:
    def borders(io_float: bool) -> tuple[list[Any], Any]:
        nodes = quantized_nodes(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)), torch.randn(4, 16), io_float=io_float)
        (image,) = (node for node in nodes if node.op == "placeholder" and node.meta["val"].shape == (4, 16))
        return [user.target for user in image.users], nodes[-1].args[0][0].target

    assert borders(io_float=False) == ([Q], DQ)
    assert Q not in borders(io_float=True)[0]


def test_the_quantized_program_stays_near_the_float_one() -> None:
    torch.manual_seed(0)
    module = Convolutional().eval()
    captured, _, statistics = captured_and_observed(module, IMAGE)
    profile = loader.load("arm-xnnpack")
    program, _ = quantize(captured.program, captured.example, statistics, profile, profile.schemes[0], False, fold=False)
    with torch.no_grad():
        expected, found = module(IMAGE), program.module(check_guards=False)(IMAGE)[0]
    noise = (expected - found).square().sum() / expected.square().sum()
    assert float(noise) < 0.01


def test_quantizing_leaves_the_captured_program_as_it_was() -> None:
    captured, _, statistics = captured_and_observed(Convolutional(), IMAGE)
    before = captured.sha256()
    profile = loader.load("x86-fbgemm")
    quantize(captured.program, captured.example, statistics, profile, profile.schemes[0], True, fold=True)
    assert captured.sha256() == before


class Twice(nn.Module):
    """Layers that are called twice, on inputs of other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.convolution = nn.Linear(8, 8), nn.Conv2d(4, 4, 3, padding=1)
        for part in (self.layer, self.convolution):
            nn.init.uniform_(part.bias, -3, 3)  # type: ignore[arg-type]

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(torch.relu(self.layer(x)) * 5), self.convolution(torch.relu(self.convolution(image)) * 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-ort", "arm-xnnpack", "apple-ane"])
def test_a_layer_that_is_called_twice_has_a_bias_in_the_steps_of_each_call(target: str, tmp_path: Path) -> None:
    data = [(torch.randn(1, 8) * 0.3, torch.randn(1, 4, 6, 6) * 9) for _ in range(20)]
    model = edgeopt.Model(Twice().eval(), data[0], calibration=data)
    bundle = edgeopt.export(model, targets=[target], out=tmp_path / "out", jobs=1, use_cache=False)
    for result in bundle.manifest.results:
        assert result.status == "ok", result.reason
        sqnr = {verdict.check: verdict.value for verdict in result.verdicts}
        assert (sqnr["sqnr_float"] or 0) > 35 and (sqnr["sqnr_program"] or 0) > 45
