"""TFLite artifacts compute what the program computes, keep its interface, and come from the same bytes every time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgeopt.converters.tflite import file as tflite_file
from edgeopt.converters.tflite.converter import TfliteConverter
from edgeopt.errors import ConversionError
from edgeopt.targets.schema import IoSettings, TargetProfile
from tests.converters import programs
from tests.converters.programs import IMAGE, INT8_IO, PAIR, SEQUENCE, TOKENS

# litert-torch and torch warn about their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

CONVERTER = TfliteConverter()
FLOAT = programs.profile()
FLOAT16 = programs.profile("float16", "float16")


def convert(program: Path, profile: TargetProfile, *names: str, io_float: bool = False) -> Path:
    out = program.with_name(f"{program.stem}-{profile.schemes[0].weight}-{io_float}.tflite")
    CONVERTER.convert(program, profile, out, io_float=io_float, output_names=names)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tflite")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return programs.save_quantized(programs.Network(), IMAGE, folder / "network.pt2", torch.int8, fold=False)


@pytest.fixture(scope="module")
def float_program(folder: Path) -> Path:
    return programs.save(programs.Network(), IMAGE, folder / "float.pt2")


@pytest.fixture(scope="module")
def artifact(program: Path) -> Path:
    return convert(program, INT8_IO, "scores", "features")


def test_results_agree_with_the_program(program: Path, artifact: Path) -> None:
    arrays = programs.example(IMAGE, 9)
    results = CONVERTER.load(artifact, threads=1)(*arrays)
    for want, got in zip(programs.reference(program, arrays), results, strict=True):
        assert got.dtype == np.float32 and programs.sqnr_db(want, got) > 30


def test_integers_go_in_and_come_out_with_no_conversion_inside(artifact: Path) -> None:
    inputs, outputs, structure = CONVERTER.inspect(artifact, INT8_IO)
    assert [spec.name for spec in (*inputs, *outputs)] == ["image", "scores", "features"]
    assert all(spec.dtype == "int8" and spec.scale and spec.zero_point is not None for spec in (*inputs, *outputs))
    assert structure.quantize == structure.dequantize == 0
    assert structure.operators["CONV_2D"] == structure.operators["DEPTHWISE_CONV_2D"] == 1
    predictor = CONVERTER.load(artifact, threads=1)
    assert (predictor.inputs, predictor.outputs) == (inputs, outputs)


def test_floats_go_in_and_come_out_where_asked(program: Path, artifact: Path) -> None:
    path = convert(program, INT8_IO, "scores", "features", io_float=True)
    inputs, outputs, structure = CONVERTER.inspect(path, INT8_IO)
    assert all(spec.dtype == "float32" and spec.scale is None for spec in (*inputs, *outputs))
    assert (structure.quantize, structure.dequantize) == (1, 2)
    arrays = programs.example(IMAGE, 9)
    results = zip(CONVERTER.load(path, threads=1)(*arrays), CONVERTER.load(artifact, threads=1)(*arrays), strict=True)
    for floats, integers in results:
        np.testing.assert_allclose(floats, integers, rtol=1e-6)


def test_float_model_agrees_and_float16_halves_it(float_program: Path) -> None:
    arrays = programs.example(IMAGE)
    want = programs.reference(float_program, arrays)[0]
    full, half = (convert(float_program, profile, "scores", "features") for profile in (FLOAT, FLOAT16))
    assert programs.sqnr_db(want, CONVERTER.load(full, threads=1)(*arrays)[0]) > 100
    assert 50 < programs.sqnr_db(want, CONVERTER.load(half, threads=1)(*arrays)[0]) < 100
    types = {tflite_file.type_name(tensor) for tensor in weights(half)}
    assert types == {"float16"} and {tflite_file.type_name(tensor) for tensor in weights(full)} == {"float32"}


def weights(path: Path) -> list[schema.TensorT]:
    """Constants with more than one dimension, shapes and axes aside."""
    model = tflite_file.read(path.read_bytes())
    constants = [tensor for tensor in model.subgraphs[0].tensors if tflite_file.is_constant(model, tensor)]
    return [tensor for tensor in constants if len(tensor.shape) > 1 and not tflite_file.type_name(tensor).startswith("int32")]


def test_every_buffer_is_aligned_to_sixteen_bytes(artifact: Path) -> None:
    content = artifact.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    found = [model.Buffers(index) for index in range(model.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in found if buffer.DataLength()]
    assert starts and all(start % tflite_file.BUFFER_ALIGNMENT == 0 for start in starts)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(program: Path, folder: Path) -> None:
    names = ("scores", "features")
    first, second = (programs.convert_elsewhere(TfliteConverter, program, folder / f"{n}.tflite", names, n) for n in (1, 2))
    assert first == second and b"site-packages" not in first and b".py" not in first


def test_token_ids_become_32_bits_and_are_checked(folder: Path) -> None:
    program = programs.save(programs.TokenModel(), TOKENS, folder / "tokens.pt2")
    predictor = CONVERTER.load(convert(program, FLOAT, "hidden"), threads=1)
    assert [(spec.name, spec.dtype) for spec in predictor.inputs] == [("ids", "int32"), ("mask", "float32")]
    arrays = programs.example(TOKENS)
    np.testing.assert_allclose(predictor(*arrays)[0], programs.reference(program, arrays)[0], atol=1e-5)


def test_many_outputs_of_one_shape_keep_their_order(folder: Path) -> None:
    program = programs.save_quantized(programs.ManyOutputs(), PAIR, folder / "many.pt2", torch.int8, fold=False)
    names = tuple(f"head_{index}" for index in range(12))
    predictor = CONVERTER.load(convert(program, INT8_IO, *names), threads=1)
    arrays = programs.example(PAIR, 2)
    assert tuple(spec.name for spec in predictor.outputs) == names
    for want, got in zip(programs.reference(program, arrays), predictor(*arrays), strict=True):
        assert programs.sqnr_db(want, got) > 40


def test_sequences_agree_with_the_program(folder: Path) -> None:
    program = programs.save(programs.Sequences(), SEQUENCE, folder / "sequences.pt2")
    arrays = programs.example(SEQUENCE)
    (result,) = CONVERTER.load(convert(program, FLOAT, "up"), threads=1)(*arrays)
    np.testing.assert_allclose(result, programs.reference(program, arrays)[0], atol=1e-5)


def test_outputs_are_copies(artifact: Path) -> None:
    predictor = CONVERTER.load(artifact, threads=1)
    first = predictor(*programs.example(IMAGE, 1))
    kept = [array.copy() for array in first]
    predictor(*programs.example(IMAGE, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_an_operator_without_tflite_form_is_named_with_its_layer(folder: Path) -> None:
    program = programs.save(programs.Unconvertible(), PAIR[:1], folder / "svd.pt2")
    with pytest.raises(ConversionError, match=r"aten\._linalg_svd.* of layer body\.1"):
        convert(program, FLOAT, "values")


def test_unsigned_inputs_are_refused(program: Path) -> None:
    unsigned = programs.profile(io=IoSettings(float_type="uint8"))
    with pytest.raises(ConversionError, match="uint8 inputs and outputs"):
        convert(program, unsigned, "scores", "features")


def test_operators_outside_the_device_table_are_listed(artifact: Path) -> None:
    listed = programs.profile("int8", "int8", table="nnapi.toml")
    assert CONVERTER.inspect(artifact, listed)[2].unsupported == ("MEAN (input and output ranges differ)",)


@pytest.mark.parametrize("content", [b"", b"short", b"\x08\x00\x00\x00TFL3" + b"\xff" * 64, b"x" * 4096])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content)
    with pytest.raises(ConversionError, match="not a TFLite file"):
        CONVERTER.load(broken, threads=1)


def test_a_weight_too_large_for_float16_is_refused_by_name() -> None:
    with pytest.raises(ConversionError, match="head/weight"):
        tflite_file.as_float16(np.frombuffer(np.float32([1, 7e4]).tobytes(), np.uint8), "head/weight")


def test_fp32_and_fp16_share_one_lowering(folder: Path) -> None:
    program = programs.save(programs.Network(), IMAGE, folder / "shared.pt2")
    first = convert(program, FLOAT, "scores", "features").read_bytes()
    (kept,) = folder.glob(".shared-*.tflite")
    written = kept.stat().st_mtime_ns
    half = convert(program, FLOAT16, "scores", "features").read_bytes()
    assert kept.stat().st_mtime_ns == written
    kept.unlink()
    assert convert(program, FLOAT16, "scores", "features").read_bytes() == half
    assert convert(program, FLOAT, "scores", "features").read_bytes() == first


def test_a_changed_program_is_lowered_anew(folder: Path) -> None:
    torch.manual_seed(1)
    program = programs.save(programs.Network(), IMAGE, folder / "changed.pt2")
    first = convert(program, FLOAT, "scores", "features").read_bytes()
    torch.manual_seed(2)
    programs.save(programs.Network(), IMAGE, program)
    assert convert(program, FLOAT, "scores", "features").read_bytes() != first
