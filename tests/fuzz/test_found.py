"""What mutants have found, as small as it gets: each is an error of edgeopt's that says what is wrong."""

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from edgeopt.bench.artifacts import load
from edgeopt.converters.tflite import file as tflite_file
from edgeopt.errors import ConfigError, ConversionError, EdgeoptError, ModelError, UnknownName
from edgeopt.model.program_file import read_program
from edgeopt.recipe import schema as recipe
from edgeopt.recipe.workload import _settings
from edgeopt.support.cache import Cache
from edgeopt.support.files import sha256_of
from edgeopt.support.untrusted import MESSAGE_BYTES, MOST_FILES, NotRead, check_artifact, read, shown
from tests.devices.runner.jobs import onnx_model, tflite_model

NO_TEXT = b"\xff\xfe"


# --- files ---------------------------------------------------------------------------------------------------------------


def test_a_small_file_is_read_in_little_memory_whatever_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert len(read(tmp_path / "small", MESSAGE_BYTES)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_package_holds_files_and_folders_of_them_and_not_without_end(tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    check_artifact(package)
    (package / "Data" / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotRead, match="link in it is a link"):
        check_artifact(package)
    (package / "Data" / "link").unlink()
    deep = package
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(NotRead, match="folders in each other"):
        check_artifact(package)
    many = tmp_path / "many.mlpackage"
    many.mkdir()
    for number in range(MOST_FILES + 1):
        (many / str(number)).touch()
    with pytest.raises(NotRead, match=f"more than {MOST_FILES} files"):
        check_artifact(many)


def test_what_is_shown_of_a_value_is_short() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert all(len(shown(value)) < 300 for value in ("x" * 10**6, 10**5000, nested, {"a": ["x" * 1000]}))


@pytest.mark.parametrize("text", ["[" * 100_000, "nothing", '{"value.json": 3}', "[]", "null"])
@pytest.mark.parametrize("name", ["digests.json", "files/value.json"])
def test_what_is_no_entry_of_a_cache_is_missing(name: str, text: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_json("key", 1)
    (tmp_path / "v1" / "key" / name).write_text(text)
    if name != "digests.json":
        digests = {"value.json": sha256_of(tmp_path / "v1" / "key" / name)}
        (tmp_path / "v1" / "key" / "digests.json").write_text(json.dumps(digests))
    assert cache.get_json("key") in (None, [], {"value.json": 3})


# --- recipes -------------------------------------------------------------------------------------------------------------


def test_a_technique_s_name_without_end_is_told_in_few_words(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'model = "a.py:m"\n[[step]]\ntechnique = "{"x" * 100_000}"\n')
    (step,) = recipe.read(tmp_path / "r.toml").steps
    with pytest.raises(UnknownName) as refused:
        _settings(1, step)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("line", ["seed = -1", "seed = 1180591620717411303424", "seed = 0.5"])
def test_a_seed_is_one_that_every_generator_takes(line: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'model = "a.py:m"\n{line}\n[[step]]\ntechnique = "channels"\n')
    with pytest.raises(ConfigError, match="seed"):
        recipe.read(tmp_path / "r.toml")


def test_steps_and_epochs_end(tmp_path: Path) -> None:
    step = '[[step]]\ntechnique = "channels"\n'
    for text, said in ((step + "epochs = 1000000000000000000", "epochs"), (step * 10_000, "10000 steps")):
        (tmp_path / "r.toml").write_text(f'model = "a.py:m"\n{text}\n')
        with pytest.raises(ConfigError, match=said):
            recipe.read(tmp_path / "r.toml")


# --- ONNX ----------------------------------------------------------------------------------------------------------------


def onnx_with(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(onnx_model(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_names_in_onnx_that_are_no_text_are_shown_as_far_as_they_are(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b"Relu", b"Re" + NO_TEXT).replace(b"\x0a\x01x", b"\x0a\x01\xff"))
    (one,) = load(path)
    assert one.inputs[0].name == "\N{REPLACEMENT CHARACTER}"


def test_a_file_of_weights_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "abcd"
        model.graph.initializer.append(tensor)

    path = onnx_with(tmp_path / "m.onnx", outside)
    path.write_bytes(path.read_bytes().replace(b"abcd", NO_TEXT * 2))
    with pytest.raises(ConfigError):
        load(path)


@pytest.mark.parametrize("element", [0, 8, 14, 77, -1])
def test_an_onnx_input_of_no_type_is_refused(element: int, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = element

    with pytest.raises(ConfigError, match="of the type"):
        load(onnx_with(tmp_path / "m.onnx", change))


def test_an_onnx_file_without_a_graph_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ConversionError, match="no graph"):
        load(tmp_path / "m.onnx")


def test_an_onnx_file_of_a_bundle_that_names_other_files_is_looked_at(tmp_path: Path) -> None:
    from edgeopt.bench.external_data import may_name_files
    from tests.bench.test_external_data import saved

    assert may_name_files(saved(tmp_path, "a.bin", "b.bin"))
    assert not may_name_files(onnx_model(tmp_path / "alone.onnx"))
    assert helper.make_tensor("location", TensorProto.FLOAT, [1], [1.0]).name == "location"


# --- TFLite --------------------------------------------------------------------------------------------------------------


def broken(path: Path, change: Callable[[Any], None]) -> bytes:
    """A chain of three operators with ``change`` made to its ``ModelT``."""
    model = tflite_file.read(tflite_model(path, "TANH", "RELU", "LOGISTIC").read_bytes())
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def no_inputs(model: Any) -> None:
    for operator in model.subgraphs[0].operators:
        operator.inputs = operator.outputs = None


CHANGES: dict[str, Callable[[Any], Any]] = {
    "no graph": lambda model: model.subgraphs.clear(),
    "this is not a TFLite file": lambda model: setattr(model.subgraphs[0].tensors[0], "buffer", 99),
    "of the type 99": lambda model: setattr(model.subgraphs[0].tensors[0], "type", 99),
    "an input or output is number 7": lambda model: model.subgraphs[0].inputs.__setitem__(0, 7),
    "an input or output is number -1": lambda model: model.subgraphs[0].outputs.__setitem__(0, -1),
    "an operator's code is number 9": lambda model: setattr(model.subgraphs[0].operators[0], "opcodeIndex", 9),
    "an operator's tensor is number 8": lambda model: model.subgraphs[0].operators[0].inputs.__setitem__(0, 8),
    "an operator's tensor is number -2": lambda model: model.subgraphs[0].operators[0].inputs.__setitem__(0, -2),
}


@pytest.mark.parametrize("said", CHANGES)
def test_an_index_that_leads_nowhere_is_named(said: str, tmp_path: Path) -> None:
    content = broken(tmp_path / "m.tflite", CHANGES[said])
    with pytest.raises(ConversionError, match=said):
        tflite_file.read(content)


def test_vectors_that_are_left_out_are_empty(tmp_path: Path) -> None:
    model = tflite_file.read(broken(tmp_path / "m.tflite", no_inputs))
    assert [operator.name for operator in tflite_file.operators(model)] == ["TANH", "RELU", "LOGISTIC"]


def test_a_scale_of_0_is_none(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        found = schema.QuantizationParametersT()
        found.scale, found.zeroPoint = [0.0], [0]
        model.subgraphs[0].tensors[0].quantization = found

    inputs, _ = tflite_file.interface(tflite_file.read(broken(tmp_path / "m.tflite", change)))
    assert inputs[0].scale is None


def test_a_million_tensors_that_are_the_same_bytes_are_refused_before_they_are_made() -> None:
    count, builder = 100_000, flatbuffers.Builder(1 << 20)
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependInt32(1)
    shape = builder.EndVector()
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    tensor = schema.TensorEnd(builder)
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    with pytest.raises(ConversionError, match="more elements than it has bytes"):
        tflite_file.read(bytes(builder.Output()))


# --- .pt2 ----------------------------------------------------------------------------------------------------------------


def test_a_member_of_a_pt2_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/models/model.jsö", "{}")
    path.write_bytes(path.read_bytes().replace("ö".encode(), NO_TEXT))
    with pytest.raises(ModelError, match=r"no \.pt2 archive"):
        read_program(path)


def test_members_of_a_pt2_that_overlap_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/weights/weight_0", bytes(1 << 20))
        for number in range(1, 1000):
            info = zipfile.ZipInfo(f"m/data/weights/weight_{number}")
            info.header_offset, info.CRC, info.file_size, info.compress_size = 0, 0, 1 << 20, 1 << 20
            archive.filelist.append(info)
    with pytest.raises(ModelError, match="more in it than bytes"):
        read_program(path)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", "[[1]]", '{"range_constraints": 1}', '{"range_constraints": [[]]}'])
def test_json_of_a_pt2_that_is_something_else_is_refused(text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/models/model.json", text)
    with pytest.raises(ModelError, match=r"is no object|names sizes"):
        read_program(tmp_path / "m.pt2")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x00" * 100, NO_TEXT * 50])
@pytest.mark.parametrize("name", ["m.onnx", "m.tflite", "m.pt2"])
def test_what_is_nothing_at_all_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgeoptError):
        load(tmp_path / name)
