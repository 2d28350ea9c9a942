"""A bundle that somebody else made: what it says is bounded before it is believed, and one bad artifact costs itself."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bench.artifacts import load, selected
from edgeopt.bench.interface import LARGEST_BYTES, check_interface
from edgeopt.converters.onnx.converter import OnnxConverter
from edgeopt.core import TWIN, TargetResult, TensorSpec
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.errors import ConfigError, worst_of
from edgeopt.support.files import sha256_of, size_of
from edgeopt.targets import loader
from tests.bench.parts import QUICK, bench, here
from tests.bench.test_artifacts import made, written
from tests.devices.runner.jobs import onnx_model

LOCAL = DeviceSpec(name="local", url="local")
SPARSE = 200 << 30


def whole(bundle: Path, target: str) -> TargetResult:
    """A result whose file is a real model."""
    result, path = made(bundle, target), bundle / target / "model.onnx"
    assert result.artifact is not None
    inputs, outputs, _ = OnnxConverter().inspect(onnx_model(path), loader.load(TWIN))
    artifact = replace(result.artifact, sha256=sha256_of(path), bytes=size_of(path), inputs=inputs, outputs=outputs)
    return replace(result, artifact=artifact)


def said(result: TargetResult, **changes: Any) -> TargetResult:
    """``result`` with another first input."""
    assert result.artifact is not None
    spec = replace(result.artifact.inputs[0], **changes)
    return replace(result, artifact=replace(result.artifact, inputs=(spec,)))


def named(result: TargetResult, path: str) -> TargetResult:
    assert result.artifact is not None
    return replace(result, artifact=replace(result.artifact, path=path))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(SPARSE)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (fifo, "a FIFO"),
        (sparse, "more than 64 GiB"),
        (link, "outside the bundle"),
        (folder, "a folder of that name"),
    ],
)
def test_what_is_no_artifact_costs_itself(tmp_path: Path, damage: Callable[[Path], None], why: str) -> None:
    bundle = tmp_path / "b"
    results = [whole(bundle, "bad"), whole(bundle, "good")]
    damage(bundle / "bad" / "model.onnx")
    bad, good = load(written(bundle, *results))
    assert good.failure is None and good.path == bundle / "good" / "model.onnx"
    assert bad.failure is not None and why in str(bad.failure)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "object"}, "of the type 'object'"),
        ({"dtype": "U2000000000"}, "of the type 'U2000000000'"),
        ({"dtype": "complex64"}, "of the type 'complex64'"),
        ({"dtype": "nonsense" * 1000}, "nonsense"),
        ({"shape": (10**10,)}, "40000000000 bytes"),
        ({"shape": (10**30,)}, "bytes"),
        ({"shape": (10**300,) * 30}, "too large to show"),
        ({"shape": (1,) * 70}, "70 dimensions"),
        ({"scale": 0.5}, "only integers"),
        ({"dtype": "int8", "scale": 0.0}, "scale 0.0"),
        ({"dtype": "int8", "scale": 1e-320}, "scale 1e-320"),
        ({"dtype": "int8", "scale": float("nan")}, "scale nan"),
        ({"dtype": "int8", "scale": 1.0, "zero_point": 10**400}, "zero point"),
        ({"dtype": "int8", "scale": 1.0, "zero_point": 128}, "zero point 128"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused_in_few_words(changes: dict[str, Any], why: str) -> None:
    spec = replace(TensorSpec(name="x", shape=(1, 2), dtype="float32"), **changes)
    for inputs, outputs in (((spec,), ()), ((), (spec,))):
        with pytest.raises(ConfigError) as refused:
            check_interface("it", inputs, outputs)
        assert why in str(refused.value) and len(str(refused.value)) < 800


def test_what_can_be_is_taken() -> None:
    check_interface("it", (TensorSpec(name="x", shape=(1, 3, 7680, 4320), dtype="float32"),), ())
    check_interface("it", (TensorSpec(name="x", shape=(-1, 2), dtype="int64"),), (TensorSpec(name="c", shape=(), dtype="str"),))
    check_interface("it", (TensorSpec(name="x", shape=(0, 2), dtype="uint8", scale=0.5, zero_point=255),), ())


@given(st.lists(st.integers(-1, 2**40), max_size=5), st.sampled_from(["int8", "float64", "bfloat16"]))
def test_what_is_taken_has_room(shape: list[int], dtype: str) -> None:
    spec, size = TensorSpec(name="x", shape=tuple(shape), dtype=dtype), 1
    try:
        check_interface("it", (spec, spec), ())
    except ConfigError:
        return
    for dimension in shape:
        size *= max(1, dimension)
    assert size <= LARGEST_BYTES


def test_a_bad_row_does_not_hide_a_good_one_with_the_same_digest(tmp_path: Path) -> None:
    one = whole(tmp_path / "b", "good")
    assert one.artifact is not None
    bad = replace(said(one, dtype="object"), target="bad")
    found = selected(load(written(tmp_path / "b", bad, one)), (), LOCAL)
    assert [(each.name, each.failure is None) for each in found] == [("bad/onnx", False), ("good/onnx", True)]


@pytest.mark.parametrize("version", ["true", "-5", "0", "1.0", '"1"', "null", "1" + "0" * 5000], ids=lambda text: text[:4])
def test_a_version_that_is_none_is_a_damaged_manifest(tmp_path: Path, version: str) -> None:
    bundle = written(tmp_path / "b", made(tmp_path / "b", "arm-ort"))
    text = json.loads((bundle / "manifest.json").read_text())
    text["schema_version"] = "VERSION"
    (bundle / "manifest.json").write_text(json.dumps(text).replace('"VERSION"', version))
    with pytest.raises(ConfigError, match="damaged"):
        load(bundle)


def test_a_manifest_that_is_no_regular_file_or_has_no_end_is_refused(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", made(tmp_path / "b", "arm-ort"))
    sparse(bundle / "manifest.json")
    with pytest.raises(ConfigError, match="more than 32 MiB"):
        load(bundle)
    fifo(bundle / "manifest.json")
    with pytest.raises(ConfigError):
        load(bundle)


def test_bare_artifacts_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    for name in ("f.onnx", "f.tflite", "f.pt2", "f.mlpackage"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ConfigError, match="a FIFO"):
            load(tmp_path / name)


def test_the_good_ones_are_measured_and_the_bad_ones_named(tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    names = ("fifo", "sparse", "gone", "shape", "dtype", "outside", "long", "good")
    results = {name: whole(bundle, name) for name in names}
    fifo(bundle / "fifo" / "model.onnx")
    sparse(bundle / "sparse" / "model.onnx")
    (bundle / "gone" / "model.onnx").unlink()
    results["shape"], results["dtype"] = said(results["shape"], shape=(10**18,)), said(results["dtype"], dtype="object")
    results["outside"] = named(results["outside"], "../../../etc/passwd")
    results["long"] = named(results["long"], "a" * 5000 + ".onnx")
    artifacts = load(written(bundle, *results.values()))
    assert len(artifacts) == len(names)
    (run,) = bench(tmp_path, artifacts, here(tmp_path), settings=replace(QUICK, launches=1))
    found = {result.subject.target: result for result in run.results}
    assert found["good"].status == "ok" and found["good"].measurement is not None
    bad = [found[name] for name in names if name != "good"]
    assert all(one.status == "failed" and one.error == "ConfigError" and one.reason for one in bad)
    assert worst_of(one.error for one in bad) == ConfigError.exit_code


def test_a_name_that_is_no_text_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.onnx"))
    onnx_model(path)
    with pytest.raises(ConfigError, match="not UTF-8") as refused:
        load(path)
    refused.value.message().encode()
