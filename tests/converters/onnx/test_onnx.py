"""ONNX artifacts compute what the program computes, in integer kernels, from the same bytes every time."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeopt.converters.onnx.converter import OnnxConverter
from edgeopt.errors import ConversionError, InputError
from edgeopt.targets.schema import IoSettings, Limits
from edgeopt.verify.prover import prover
from tests.converters import programs
from tests.converters.programs import IMAGE, PAIR, SEQUENCE, TOKENS

# torch's exporter warns about its own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

CONVERTER = OnnxConverter()


def convert(program: Path, *names: str) -> Path:
    out = program.with_suffix(".onnx")
    CONVERTER.convert(program, programs.profile(), out, io_float=False, output_names=names)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return programs.save_quantized(programs.Network(), IMAGE, folder / "network.pt2")


@pytest.fixture(scope="module")
def artifact(program: Path) -> Path:
    return convert(program, "scores", "features")


def runtime_operators(path: Path) -> Counter[str]:
    """Operators after ONNX Runtime's own fusions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_runtime_computes_every_quantized_layer_in_integers(artifact: Path) -> None:
    found = runtime_operators(artifact)
    assert found["QLinearConv"] == 2 and found["QGemm"] == 1 and found["QLinearAdd"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert not found.keys() & {"Conv", "Gemm", "Add", "Relu", "Clip", "ReduceMean"}


def test_results_agree_with_the_program(program: Path, artifact: Path) -> None:
    arrays = programs.example(IMAGE, 9)
    results = prover(CONVERTER, artifact, threads=1).predictor(*arrays)
    for want, got in zip(programs.reference(program, arrays), results, strict=True):
        assert got.shape == want.shape and programs.sqnr_db(want, got) > 30


def test_weights_are_stored_as_int8(artifact: Path) -> None:
    weights = [tensor for tensor in onnx.load(artifact).graph.initializer if len(tensor.dims) > 1]
    assert weights and all(tensor.data_type == onnx.TensorProto.INT8 for tensor in weights)


def test_inspect_tells_interface_and_structure(artifact: Path) -> None:
    inputs, outputs, structure = CONVERTER.inspect(artifact, programs.profile())
    assert [(spec.name, spec.shape, spec.dtype, spec.scale) for spec in inputs] == [("image", (1, 3, 16, 16), "float32", None)]
    assert [(spec.name, spec.shape) for spec in outputs] == [("scores", (1, 5)), ("features", (1, 8))]
    assert structure.operators["Conv"] == 2 and structure.quantize == structure.operators["QuantizeLinear"] > 0
    predictor = CONVERTER.load(artifact, threads=1)
    assert (predictor.inputs, predictor.outputs) == (inputs, outputs)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(program: Path, folder: Path) -> None:
    names = ("scores", "features")
    first, second = (programs.convert_elsewhere(OnnxConverter, program, folder / f"{n}.onnx", names, n) for n in (1, 2))
    assert first == second


def test_file_holds_no_path_and_no_stack_trace(artifact: Path) -> None:
    content = artifact.read_bytes()
    assert b"stack_trace" not in content and b"site-packages" not in content and b".py" not in content


def test_sequence_weights_stand_transposed_before_matmul(folder: Path) -> None:
    program = programs.save_quantized(programs.TokenModel(), TOKENS, folder / "tokens.pt2")
    path = convert(program, "hidden")
    graph = onnx.load(path).graph
    producers = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 2 and all(producers[node.input[1]].op_type == "DequantizeLinear" for node in products)
    arrays = programs.example(TOKENS, 3)
    (result,) = CONVERTER.load(path, threads=1)(*arrays)
    assert programs.sqnr_db(programs.reference(program, arrays)[0], result) > 30


def test_many_outputs_keep_their_order(folder: Path) -> None:
    program = programs.save(programs.ManyOutputs(), PAIR, folder / "many.pt2")
    names = tuple(f"output_{index}" for index in range(12))
    predictor = CONVERTER.load(convert(program, *names), threads=1)
    arrays = programs.example(PAIR)
    assert tuple(spec.name for spec in predictor.outputs) == names
    for want, got in zip(programs.reference(program, arrays), predictor(*arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_float_sequences_agree_with_the_program(folder: Path) -> None:
    program = programs.save(programs.Sequences(), SEQUENCE, folder / "sequences.pt2")
    arrays = programs.example(SEQUENCE)
    (result,) = CONVERTER.load(convert(program, "up"), threads=1)(*arrays)
    np.testing.assert_allclose(result, programs.reference(program, arrays)[0], atol=1e-5)


class Interface(torch.nn.Module):
    """An input as an output, one value as two outputs, an unused input, a constant."""

    def forward(self, x: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        doubled = x * 2
        return x, doubled, doubled, torch.arange(3)


def test_names_that_collide_and_outputs_that_alias_are_kept_apart(folder: Path) -> None:
    program = programs.save(Interface(), PAIR, folder / "interface.pt2")
    predictor = CONVERTER.load(convert(program, "x", "mul", "again", "constant"), threads=1)
    assert [spec.name for spec in predictor.outputs] == ["x_output", "mul", "again", "constant"]
    x, unused = programs.example(PAIR)
    same, doubled, again, constant = predictor(x, unused)
    assert np.array_equal(same, x) and np.array_equal(doubled, x * 2) and np.array_equal(again, doubled)
    assert constant.tolist() == [0, 1, 2]


def test_an_operator_without_onnx_form_is_named_with_its_layer(folder: Path) -> None:
    program = programs.save(programs.Unconvertible(), PAIR[:1], folder / "svd.pt2")
    with pytest.raises(ConversionError, match=r"aten\._linalg_svd.* of layer body\.1") as caught:
        convert(program, "values")
    assert "No ONNX function found" in caught.value.why and caught.value.fix


def test_an_opset_the_exporter_cannot_reach_is_refused(program: Path, folder: Path) -> None:
    low = programs.profile(limits=Limits(opset=9))
    with pytest.raises(ConversionError, match="opset"):
        CONVERTER.convert(program, low, folder / "low.onnx", io_float=False, output_names=("a", "b"))


def test_integer_inputs_and_outputs_are_refused(program: Path, folder: Path) -> None:
    integers = programs.profile(io=IoSettings(float_type="int8"))
    with pytest.raises(ConversionError, match="int8 inputs and outputs"):
        CONVERTER.convert(program, integers, folder / "int8.onnx", io_float=False, output_names=("a", "b"))


def test_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ConversionError, match="ONNX Runtime refused"):
        CONVERTER.load(broken, threads=1)
    with pytest.raises(ConversionError, match="not an ONNX file"):
        CONVERTER.inspect(broken, programs.profile())


def test_wrong_shapes_are_refused_before_the_runtime_sees_them(artifact: Path) -> None:
    with pytest.raises(InputError, match=r"image has shape \[1, 3, 8, 8\]"):
        CONVERTER.load(artifact, threads=1)(np.zeros((1, 3, 8, 8), np.float32))


def test_onnx_runtime_writes_nothing_into_the_home(tmp_path: Path) -> None:
    """It would: a number of the device and a queue of uploads (telemetry, from 1.29 on, where no CI is recognised)."""
    code = "import edgeopt, onnxruntime; from edgeopt.converters.onnx.kernels import kernels; print(kernels())"
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    home = kept | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], env=home, check=True, capture_output=True, timeout=120)
    assert not list(tmp_path.rglob("*"))
    without = "import edgeopt, os; del os.environ['ORT_DISABLE_TELEMETRY']; import onnxruntime"
    written = code.replace("import edgeopt, onnxruntime", without)
    subprocess.run([sys.executable, "-c", written], env=home, check=True, capture_output=True, timeout=120)
    assert list(tmp_path.rglob("deviceid")), "what is switched off is there"
