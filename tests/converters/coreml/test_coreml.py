"""Core ML: what the package holds, that the same program gives the same bytes, and what cannot be held."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.converters.coreml.converter import FRONTEND_KEY, CoremlConverter
from edgeopt.converters.interface import Examined
from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConfigError, ConversionError
from edgeopt.mil.loading import LAYERS_KEY, read_spec
from edgeopt.targets.loader import load
from edgeopt.targets.schema import TargetProfile

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

FP16 = load("apple-ane-fp16")
W8A8 = load("apple-ane")


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        hidden: Tensor = self.conv(image)
        return torch.as_tensor(self.head(hidden.relu().mean((2, 3))))


class QuantizedByHand(Convolutions):
    """Q/DQ as PT2E leaves it: int8 activations per tensor, folded int8 weights per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", self.conv.weight.detach().abs().amax((1, 2, 3)) / 127)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))
        codes = torch.round(self.conv.weight.detach() / self.scales.view(8, 1, 1, 1))
        self.register_buffer("codes", codes.to(torch.int8))

    def forward(self, image: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        codes = ops.quantize_per_tensor.default(image, 0.02, 0, -128, 127, torch.int8)
        image = ops.dequantize_per_tensor.default(codes, 0.02, 0, -128, 127, torch.int8)
        weight = ops.dequantize_per_channel.default(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        hidden = nn.functional.conv2d(image, weight, self.conv.bias).relu()
        return torch.as_tensor(self.head(hidden.mean((2, 3))))


class Mixed(nn.Module):
    """Two float inputs, ids and a mask; a float, an integer and a truth value out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)

    def forward(self, ids: Tensor, mask: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.embed(ids) * mask[..., None] + offset
        return scores, scores.argmax(-1), scores > 0


IDS = torch.randint(0, 50, (1, 6), generator=torch.Generator().manual_seed(0))
IMAGE = torch.linspace(-1, 1, 300).reshape(1, 3, 10, 10)


def saved(folder: Path, module: nn.Module, *inputs: Tensor) -> Path:
    import torchao  # noqa: F401  registers quantized_decomposed

    path = folder / "program.pt2"
    torch.export.save(torch.export.export(module.eval(), inputs, strict=False), path)
    return path


def converted(
    folder: Path, module: nn.Module, *inputs: Tensor, names: tuple[str, ...] = ("scores",), profile: TargetProfile = FP16
) -> tuple[Path, tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
    out = folder / "model.mlpackage"
    converter = CoremlConverter()
    converter.convert(saved(folder, module, *inputs), profile, out, io_float=False, output_names=names)
    return out, *converter.inspect(out, profile)


def tree(package: Path) -> dict[str, bytes]:
    return {str(path.relative_to(package)): path.read_bytes() for path in sorted(package.rglob("*")) if path.is_file()}


def test_fp16_package_has_float_borders_and_the_given_names(tmp_path: Path) -> None:
    package, inputs, outputs, structure = converted(tmp_path, Convolutions(), IMAGE)
    assert inputs == (TensorSpec(name="image", shape=(1, 3, 10, 10), dtype="float32"),)
    assert outputs == (TensorSpec(name="scores", shape=(1, 4), dtype="float32"),)
    assert {"conv", "relu", "reduce_mean", "linear"} <= set(structure.operators)
    assert (structure.quantize, structure.dequantize) == (0, 0)
    assert read_spec(package).specificationVersion == FP16.limits.specification_version
    assert set(tree(package)) == {
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    }


def test_w8a8_package_keeps_int8_weights_and_activations(tmp_path: Path) -> None:
    package, _, _, structure = converted(tmp_path, QuantizedByHand(), IMAGE, profile=W8A8)
    assert structure.quantize == structure.dequantize == 1
    assert structure.operators["constexpr_affine_dequantize"] == 1
    assert read_spec(package).description.metadata.userDefined[FRONTEND_KEY] == "torch.export"


def test_float16_borders_where_the_profile_asks_for_them(tmp_path: Path) -> None:
    half = replace(FP16, io=replace(FP16.io, float_type="float16"))
    _, inputs, outputs, _ = converted(tmp_path, Convolutions(), IMAGE, profile=half)
    assert [spec.dtype for spec in (*inputs, *outputs)] == ["float16", "float16"]


class Remainders(nn.Module):
    """Of a number: one frontend of coremltools knows that, the other does not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.remainder(5.0, x)


def test_what_the_exported_program_frontend_lacks_is_traced_and_said_so(tmp_path: Path) -> None:
    package, inputs, _, structure = converted(tmp_path, Remainders(), torch.ones(1, 6))
    assert inputs == (TensorSpec(name="x", shape=(1, 6), dtype="float32"),)
    assert structure.operators["floor_div"] == 1
    metadata = read_spec(package).description.metadata.userDefined
    assert metadata[FRONTEND_KEY].startswith("torch.jit.trace, because of torch.export: ")
    assert "remainder" in metadata[FRONTEND_KEY]
    assert metadata[LAYERS_KEY] == "{}"


def test_several_inputs_and_outputs_of_other_types_keep_their_order_and_names(tmp_path: Path) -> None:
    mask, offset = torch.ones(1, 6), torch.zeros(1, 6, 8)
    _, inputs, outputs, _ = converted(tmp_path, Mixed(), IDS, mask, offset, names=("z", "a", "m"))
    assert [(spec.name, spec.dtype) for spec in inputs] == [("ids", "int32"), ("mask", "float32"), ("offset", "float32")]
    # Core ML has no truth values at its border: 0.0 and 1.0 stand for them
    assert [(spec.name, spec.dtype) for spec in outputs] == [("z", "float32"), ("a", "int32"), ("m", "float32")]


class WhereScalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.where.ScalarOther(x > 0, x, 1.5) + 0


def test_an_operator_that_coremltools_lacks_is_opened_into_those_it_has(tmp_path: Path) -> None:
    package, _, _, structure = converted(tmp_path, WhereScalar(), torch.randn(2, 3))
    assert structure.operators["select"] == 1
    assert read_spec(package).description.metadata.userDefined[FRONTEND_KEY] == "torch.export"


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.cells(x)[0])


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    programs = {"int8": (QuantizedByHand(), IMAGE), "lstm": (Recurrent(), torch.ones(1, 6, 8))}
    for name, (module, example) in programs.items():
        (tmp_path / name).mkdir()
        saved(tmp_path / name, module, example)
    code = (
        "import sys, pathlib; from edgeopt.targets.loader import load\n"
        "from edgeopt.converters.coreml.converter import CoremlConverter\n"
        "for name, outputs in (('int8', ('a',)), ('lstm', ('a',))):\n"
        "    folder = pathlib.Path(sys.argv[1]) / name\n"
        "    CoremlConverter().convert(folder / 'program.pt2', load('apple-ane'), folder / f'{sys.argv[2]}.mlpackage',"
        " io_float=False, output_names=outputs)\n"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path), seed], env=environment, check=True, capture_output=True)
    for name in programs:
        first, second = (tree(tmp_path / name / f"{seed}.mlpackage") for seed in ("1", "2"))
        assert first == second
        assert not [path for path, data in first.items() if str(tmp_path).encode() in data]


class HighRank(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 2, 2, 2, 2, 2, 3).sum(3) * 2


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x))


def test_a_tensor_of_too_high_rank_is_refused_with_its_layer(tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        converted(tmp_path, Wrapper(HighRank()), torch.randn(64, 3))
    assert re.search(r"Core ML refused the operator \w+ of layer inner", str(caught.value))
    assert "rank <= 5" in str(caught.value)
    assert "the traced program was refused too" in str(caught.value)


class QuantizedRemainders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Remainders()

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        codes = ops.quantize_per_tensor.default(x, 0.02, 0, -128, 127, torch.int8)
        return torch.as_tensor(self.inner(ops.dequantize_per_tensor.default(codes, 0.02, 0, -128, 127, torch.int8)))


def test_w8a8_is_refused_where_only_a_trace_would_do(tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        converted(tmp_path, QuantizedRemainders(), torch.ones(3, 8), profile=W8A8)
    assert "the operator remainder of layer inner" in str(caught.value)
    assert "cannot carry Q/DQ" in str(caught.value)


def test_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    shapes = {"image": {0: torch.export.Dim("batch", min=2, max=8)}}
    program = torch.export.export(Convolutions().eval(), (IMAGE.repeat(2, 1, 1, 1),), dynamic_shapes=shapes, strict=False)
    path = tmp_path / "program.pt2"
    torch.export.save(program, path)
    with pytest.raises(ConversionError, match="needs fixed shapes"):
        CoremlConverter().convert(path, FP16, tmp_path / "m.mlpackage", io_float=False, output_names=("scores",))


def test_a_weight_too_large_for_float16_keeps_its_operator_in_float32(tmp_path: Path) -> None:
    module = Convolutions()
    with torch.no_grad():
        module.conv.weight[0, 0, 0, 0] = 1e6
    package, *_ = converted(tmp_path, module, IMAGE)
    weights = (package / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    assert module.conv.weight.detach().numpy().tobytes() in weights


def test_a_weight_that_is_not_a_number_is_found(tmp_path: Path) -> None:
    module = Convolutions()
    package, *_ = converted(tmp_path, module, IMAGE)
    blob = package / "Data/com.apple.CoreML/weights/weight.bin"
    stored = module.conv.weight.detach().numpy().astype(np.float16)
    assert stored.tobytes() in blob.read_bytes()
    blob.write_bytes(blob.read_bytes().replace(stored.tobytes(), np.full_like(stored, np.nan).tobytes()))
    with pytest.raises(ConversionError, match="it holds NaN"):
        CoremlConverter().inspect(package, FP16)


def test_a_specification_version_other_than_the_profiles_is_refused(tmp_path: Path) -> None:
    package, *_ = converted(tmp_path, Convolutions(), IMAGE)
    older = replace(FP16, limits=replace(FP16.limits, specification_version=7))
    with pytest.raises(ConversionError, match="specification version 8"):
        CoremlConverter().inspect(package, older)


def test_an_unknown_minimum_os_is_a_mistake_in_the_target(tmp_path: Path) -> None:
    wrong = replace(FP16, limits=replace(FP16.limits, minimum_os="iOS177"))
    with pytest.raises(ConfigError, match="did you mean 'iOS17'"):
        converted(tmp_path, Convolutions(), IMAGE, profile=wrong)


def test_a_damaged_package_is_an_error_of_ours(tmp_path: Path) -> None:
    package, *_ = converted(tmp_path, Convolutions(), IMAGE)
    model = Path("Data/com.apple.CoreML/model.mlmodel")
    weights = Path("Data/com.apple.CoreML/weights/weight.bin")
    for damaged, data in ((model, b""), (model, b"\xff" * 40), (weights, b"")):
        copy = tmp_path / "copy.mlpackage"
        shutil.copytree(package, copy)
        (copy / damaged).write_bytes(data)
        with pytest.raises(ConversionError):
            CoremlConverter().inspect(copy, FP16)
        shutil.rmtree(copy)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_its_formula(tmp_path: Path, approximate: str) -> None:
    gelu = nn.GELU(approximate)
    package, *_, structure = converted(tmp_path, gelu, IMAGE)
    found = edgeopt.coreml.load(package, precision="float32")(input=IMAGE.numpy())["scores"]
    np.testing.assert_allclose(found, gelu(IMAGE).numpy(), rtol=0, atol=2e-5)  # the two differ by 4.7e-4
    assert structure.operators["gelu"] == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_elsewhere_than_on_a_mac_the_package_is_evaluated(tmp_path: Path) -> None:
    module = Convolutions()
    package, *_ = converted(tmp_path, module, IMAGE)
    predictor = CoremlConverter().load(package, threads=1)
    assert isinstance(predictor, Examined)
    (found,), findings = predictor.examine(IMAGE.numpy())
    np.testing.assert_allclose(found, module(IMAGE).detach().numpy(), atol=1e-2)
    assert not findings


def test_the_package_names_the_layers_of_its_operators(tmp_path: Path) -> None:
    package, *_ = converted(tmp_path, Convolutions(), IMAGE)
    layers = json.loads(read_spec(package).description.metadata.userDefined[LAYERS_KEY])
    operations = read_spec(package).mlProgram.functions["main"].block_specializations["CoreML7"].operations
    kinds = {operation.outputs[0].name: operation.type for operation in operations}
    found = {layer: [kinds[name] for name in names] for layer, names in layers.items()}
    assert found == {"conv": ["cast", "conv"], "head": ["linear", "cast"]}


@pytest.mark.skipif(sys.platform != "darwin", reason="the Core ML framework exists on macOS only")
def test_on_a_mac_the_package_gives_the_models_numbers(tmp_path: Path) -> None:
    module = Convolutions()
    package, *_ = converted(tmp_path, module, IMAGE)
    (found,) = CoremlConverter().load(package, threads=1)(IMAGE.numpy())
    np.testing.assert_allclose(found, module(IMAGE).detach().numpy(), atol=1e-2)
