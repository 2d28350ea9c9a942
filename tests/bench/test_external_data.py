"""An ONNX file whose weights stand in files beside it: all of them go to the device, and nothing else does."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.bench.artifacts import load
from edgeopt.bench.external_data import external_files
from edgeopt.bench.types import DeviceRun
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.errors import ConfigError
from edgeopt.support.files import sha256_of
from tests.bench.faults import Bed
from tests.bench.faults_ssh import bed, server
from tests.bench.parts import QUICK, bench, here, onnx_file
from tests.emulators.sshd import Server

__all__ = ["bed", "server"]

LOCATIONS = ("my weights/first.bin", "model.onnx.data")
ONCE = replace(QUICK, launches=1)


def external(array: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", location: str, name: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(array, name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def saved(folder: Path, *locations: str, write: bool = True, scale: float = 2.0) -> Path:
    """``y = x * first + constant``: an initializer in the first file, and a tensor of an attribute in the second."""
    weights = [np.full((1, 3), scale, np.float32), np.arange(3, dtype=np.float32).reshape(1, 3)]
    tensors = [
        external(array, place, f"w{number}") for number, (array, place) in enumerate(zip(weights, locations, strict=True))
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    nodes = [
        helper.make_node("Mul", ["x", "w0"], ["scaled"]),
        helper.make_node("Constant", [], ["constant"], value=tensors[1]),
        helper.make_node("Add", ["scaled", "constant"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "m", [values[0]], [values[1]], initializer=[tensors[0]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for array, place in zip(weights, locations, strict=True) if write else ():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(array.tobytes())
    return folder / "model.onnx"


def assert_exact(run: DeviceRun) -> None:
    (result,) = run.results
    assert result.status == "ok", result.reason
    assert result.measurement is not None
    assert result.measurement.agreement is not None
    assert result.measurement.agreement.bit_exact


def test_the_files_are_those_that_tensors_name_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_text("not of this model")
    assert external_files(saved(tmp_path, *LOCATIONS)) == tuple(sorted(LOCATIONS))
    assert external_files(saved(tmp_path, "./a.bin", "a.bin")) == ("a.bin",)
    assert external_files(onnx_file(tmp_path).path) == ()


def test_weights_of_a_subgraph_count_too(tmp_path: Path) -> None:
    tensor = external(np.zeros(3, np.float32), "deep.bin", "w")
    (tmp_path / "deep.bin").write_bytes(bytes(12))
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "b", [], [], initializer=[tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    onnx.save(helper.make_model(helper.make_graph([node], "m", [], [])), tmp_path / "if.onnx")
    assert external_files(tmp_path / "if.onnx") == ("deep.bin",)


def test_digest_and_size_are_of_all_files(tmp_path: Path) -> None:
    (one,) = load(saved(tmp_path, *LOCATIONS))
    assert one.beside == tuple(sorted(LOCATIONS))
    assert one.subject.bytes == sum((tmp_path / name).stat().st_size for name in ("model.onnx", *LOCATIONS))
    (tmp_path / LOCATIONS[0]).write_bytes(np.full((1, 3), 5, np.float32).tobytes())
    (other,) = load(tmp_path / "model.onnx")
    assert other.subject.sha256 != one.subject.sha256
    assert other.subject.sha256 != sha256_of(tmp_path / "model.onnx")


@pytest.mark.slow
def test_they_are_run_on_this_computer(tmp_path: Path) -> None:
    artifacts = load(saved(tmp_path, *LOCATIONS))
    (run,) = bench(tmp_path, artifacts, here(tmp_path), settings=ONCE)
    assert_exact(run)
    assert not list((tmp_path / "edgeopt-device" / "sessions").iterdir())
    (tmp_path / LOCATIONS[0]).write_bytes(np.full((1, 3), 5, np.float32).tobytes())
    (run,) = bench(tmp_path, load(tmp_path / "model.onnx"), here(tmp_path), settings=ONCE)
    assert_exact(run)


@pytest.mark.slow
def test_they_are_run_over_ssh(bed: Bed, server: Server) -> None:
    device = DeviceSpec(name="board", url=server.url, root=str(bed.root("board")), python=sys.executable)
    (run,) = bench(bed.folder, load(saved(bed.folder, *LOCATIONS)), device, settings=ONCE)
    assert_exact(run)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "", "a\nb", "C:\\secret.bin"])
def test_a_place_outside_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    (tmp_path / "inside").mkdir()
    model = saved(tmp_path / "inside", location, "b.bin", write=False)
    (tmp_path / "inside" / "b.bin").write_bytes(bytes(12))
    with pytest.raises(ConfigError, match="outside its folder") as refused:
        load(model)
    assert repr(location) in refused.value.why


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    model = saved(tmp_path / "inside", "a.bin", "b.bin")
    (tmp_path / "inside" / "a.bin").rename(tmp_path / "secret.bin")
    (tmp_path / "inside" / "a.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ConfigError, match="outside its folder"):
        load(model)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    model = saved(tmp_path, *LOCATIONS)
    (tmp_path / LOCATIONS[0]).unlink()
    with pytest.raises(ConfigError, match=LOCATIONS[0]) as missing:
        load(model)
    assert "under that very name" in missing.value.fix
