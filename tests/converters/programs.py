"""Small programs for the converters' tests, quantized by an annotator of a few lines: converters choose nothing themselves."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.converters.interface import Array
from edgeopt.core import ActivationDtype, QuantScheme, WeightDtype
from edgeopt.targets.schema import IoSettings, Limits, OperatorSettings, TargetProfile

aten = torch.ops.aten
_WEIGHTED = {aten.conv2d.default, aten.conv1d.default, aten.linear.default}
_FUSED = {aten.relu.default, aten.hardtanh.default}
_OTHERS = {aten.add.Tensor, aten.mean.dim, aten.max_pool2d.default}


class Network(nn.Module):
    """Convolutions, a residual sum, spatial means and a linear layer; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stem(image).relu()
        hidden = hidden + self.depthwise(hidden).relu()
        features = hidden.mean((2, 3))
        return self.head(features), features


class TokenModel(nn.Module):
    """Token ids and a mask; a sequence's linear layers, so their weights reach MatMul transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        hidden = self.embedding(ids)
        hidden = hidden + self.down(self.up(hidden).relu())
        return (hidden * mask[..., None],)


class ManyOutputs(nn.Module):
    """Twelve outputs of one shape: an alphabetical order would put the tenth before the second."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(6, 6) for _ in range(12))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(first if index % 2 else second) for index, head in enumerate(self.heads))


class Sequences(nn.Module):
    """A one-dimensional and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv1d(4, 8, 3, padding=1), nn.ConvTranspose1d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.up(self.conv(x).relu()),)


class Svd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


class Unconvertible(nn.Module):
    """Its layer ``body.1`` computes what no format has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), Svd())

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.body(x),)


IMAGE = (torch.zeros(1, 3, 16, 16),)
TOKENS = (torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7))
PAIR = (torch.zeros(2, 6), torch.zeros(2, 6))
SEQUENCE = (torch.zeros(1, 4, 10),)


def profile(
    activation: ActivationDtype = "float32",
    weight: WeightDtype = "float32",
    io: IoSettings | None = None,
    limits: Limits | None = None,
    table: str | None = None,
) -> TargetProfile:
    return TargetProfile(
        name="test-target",
        summary="for tests",
        formats=("onnx", "tflite", "pt2"),
        runtime="any",
        schemes=(QuantScheme(activation=activation, weight=weight),),
        sources={},
        io=io or IoSettings(),
        limits=limits or Limits(),
        operators=OperatorSettings(table=table),
    )


INT8_IO = profile("int8", "int8", io=IoSettings(float_type="int8"))


def example(inputs: tuple[Tensor, ...], seed: int = 0) -> tuple[Array, ...]:
    """Random arrays like ``inputs``: normal floats, ids below 50."""
    random = np.random.default_rng(seed)
    floats = (random.standard_normal(x.shape).astype(np.float32) for x in inputs)
    return tuple(a if x.is_floating_point() else random.integers(0, 50, x.shape) for a, x in zip(floats, inputs, strict=True))


def save(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Path:
    """The float program."""
    torch.manual_seed(0)
    torch.export.save(torch.export.export(module.eval(), inputs, strict=False), path)
    return path


def save_quantized(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, activation: torch.dtype = torch.uint8, fold: bool = True
) -> Path:
    """The program with Q/DQ nodes, calibrated on random data; ``fold`` False is what TFLite asks for."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    torch.manual_seed(0)
    prepared = prepare_pt2e(torch.export.export(module.eval(), inputs, strict=False).module(), _annotator(activation))
    for seed in range(4):
        prepared(*map(torch.from_numpy, example(inputs, seed)))
    torch.export.save(torch.export.export(convert_pt2e(prepared, fold_quantize=fold), inputs, strict=False), path)
    return path


def _annotator(activation: torch.dtype) -> object:
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    limits = torch.iinfo(activation)
    act = QuantizationSpec(activation, MinMaxObserver, limits.min, limits.max, torch.per_tensor_affine)
    weight = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0)

    class Annotator(Quantizer):
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in _WEIGHTED:
                    inputs = {node.args[0]: act, node.args[1]: weight}
                    fused = len(node.users) == 1 and next(iter(node.users)).target in _FUSED
                    output = None if fused else act
                elif node.target in _FUSED:
                    inputs, output = {}, act
                elif node.target in _OTHERS:
                    inputs, output = {arg: act for arg in node.args if isinstance(arg, torch.fx.Node)}, act
                else:
                    continue
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=inputs, output_qspec=output, _annotated=True
                )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            pass

    return Annotator()


def reference(program: Path, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """What PyTorch computes with the saved program."""
    import torchao  # noqa: F401

    with torch.no_grad():
        outputs = torch.export.load(program).module()(*map(torch.from_numpy, arrays))
    return tuple(output.numpy() for output in (outputs if isinstance(outputs, tuple | list) else (outputs,)))


def sqnr_db(want: Array, got: Array) -> float:
    """Signal to noise; 200 where both are equal."""
    noise = float(((want - got).astype(np.float64) ** 2).sum())
    return 200.0 if noise == 0 else 10 * float(np.log10((want.astype(np.float64) ** 2).sum() / noise))


def convert_elsewhere(converter: Callable[[], object], program: Path, out: Path, names: tuple[str, ...], seed: int) -> bytes:
    """The bytes that another process makes, its hashes seeded with ``seed``."""
    module, name = converter.__module__, converter.__name__
    code = (
        f"from pathlib import Path\nfrom {module} import {name}\nfrom tests.converters.programs import profile\n"
        f"{name}().convert(Path({str(program)!r}), profile(), Path({str(out)!r}), io_float=False, output_names={names!r})"
    )
    environment = {"PYTHONHASHSEED": str(seed), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment, timeout=300)
    return out.read_bytes()
