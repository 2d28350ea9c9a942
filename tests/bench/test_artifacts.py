"""What there is to run: a bundle's artifacts checked against its manifest, bare files, and what each device is asked to run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeopt.bench.artifacts import Runnable, is_bundle, load, selected
from edgeopt.core import Artifact, Format, Manifest, ModelFacts, Plan, QuantScheme, Structure, TargetResult, to_json
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.errors import ConfigError, EdgeoptError, ReferenceNotFound, UnknownName
from edgeopt.support.files import sha256_of, size_of
from tests.bench.parts import X, runnable
from tests.devices.runner.jobs import onnx_model, tflite_model

PI = DeviceSpec(name="pi5", url="ssh://pi5")


def made(bundle: Path, target: str, form: Format = "onnx", content: str = "artifact") -> TargetResult:
    path = bundle / target / f"model.{form}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    artifact = Artifact(
        path=path.relative_to(bundle).as_posix(), format=form, sha256=sha256_of(path), bytes=size_of(path), inputs=(X,),
        outputs=(X,), structure=Structure(operators={}), tool_versions={},
    )  # fmt: skip
    plan = Plan(target=target, format=form, scheme=QuantScheme(activation="int8", weight="int8"), io_float=True)
    return TargetResult(target=target, format=form, status="ok", artifact=artifact, plan=plan, calibrated=target != "raw")


def written(bundle: Path, *results: TargetResult) -> Path:
    model = ModelFacts(name="m", sha256="0" * 64, parameters=1, macs=1, inputs=(X,), outputs=(X,))
    bundle.mkdir(exist_ok=True)
    (bundle / "manifest.json").write_text(
        to_json(Manifest(edgeopt_version="0.1.0", model=model, calibration="none", results=results))
    )
    return bundle


# --- bundles -------------------------------------------------------------------------------------------------------------


def test_a_bundle_gives_every_artifact_that_was_made(tmp_path: Path) -> None:
    failed = TargetResult(target="apple-ane", format="coreml", status="failed", reason="refused")
    skipped = TargetResult(target="nvidia-trt", format="onnx", status="skipped")
    bundle = written(tmp_path / "b", made(tmp_path / "b", "arm-ort"), failed, skipped, made(tmp_path / "b", "raw", "tflite"))
    found = load(bundle)
    assert [one.name for one in found] == ["arm-ort/onnx", "raw/tflite"]
    assert [one.subject.calibrated for one in found] == [True, False]
    assert found[0].subject.scheme == "s8 affine / s8 per-channel"
    assert (found[0].path, found[0].inputs) == (bundle / "arm-ort" / "model.onnx", (X,))


@pytest.mark.parametrize(
    ("damage", "why"),
    [("Artifact", "its SHA-256 is another"), ("changed", "it has 7 bytes instead of 8"), ("", "the file is missing")],
)
def test_an_artifact_that_is_not_the_manifests_is_refused(tmp_path: Path, damage: str, why: str) -> None:
    bundle = written(tmp_path / "b", made(tmp_path / "b", "arm-ort"))
    artifact = bundle / "arm-ort" / "model.onnx"
    artifact.write_text(damage) if damage else artifact.unlink()
    with pytest.raises(ConfigError) as refused:
        load(bundle)
    assert refused.value.why == why


@pytest.mark.parametrize("path", ["../secret.onnx", "/etc/passwd", "arm-ort/../../secret.onnx"])
def test_a_manifest_that_names_a_path_outside_is_refused(tmp_path: Path, path: str) -> None:
    result = made(tmp_path / "b", "arm-ort")
    assert result.artifact is not None
    written(tmp_path / "b", replace(result, artifact=replace(result.artifact, path=path)))
    with pytest.raises(ConfigError, match="is not used"):
        load(tmp_path / "b")


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    result = made(tmp_path / "b", "arm-ort")
    (tmp_path / "secret.onnx").write_text("artifact")
    (tmp_path / "b" / "arm-ort" / "model.onnx").unlink()
    (tmp_path / "b" / "arm-ort" / "model.onnx").symlink_to(tmp_path / "secret.onnx")
    written(tmp_path / "b", result)
    with pytest.raises(ConfigError, match="is not used"):
        load(tmp_path / "b")


def test_a_bundle_without_anything_to_run_says_so(tmp_path: Path) -> None:
    failed = TargetResult(target="apple-ane", format="coreml", status="failed", reason="refused")
    with pytest.raises(ConfigError, match="no artifact that could be run"):
        load(written(tmp_path / "b", failed))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 999}', '{"schema_version": 1}', "\x00"])
def test_a_damaged_manifest_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError):
        load(tmp_path)


# --- bare files ----------------------------------------------------------------------------------------------------------


def test_a_bare_file_tells_its_interface_itself(tmp_path: Path) -> None:
    (onnx,) = load(onnx_model(tmp_path / "a.onnx", "Add", ("x", "z")))
    assert [(spec.name, spec.shape, spec.dtype) for spec in onnx.inputs] == [("x", (4, 8), "float32"), ("z", (4, 8), "float32")]
    assert (onnx.subject.target, onnx.subject.format, onnx.name) == ("", "onnx", "a.onnx")
    (tflite,) = load(tflite_model(tmp_path / "b.tflite", "RELU"))
    assert (tflite.subject.format, tflite.subject.sha256) == ("tflite", sha256_of(tmp_path / "b.tflite"))


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.pt2"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 200, bytes(range(256)) * 20])
def test_a_bare_file_that_is_none_is_an_error_with_a_reason(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        found = load(tmp_path / name)
    except EdgeoptError:
        return
    assert (name, found[0].inputs) == ("a.onnx", ()), "no bytes at all are a model without a graph, for protobuf"


@pytest.mark.parametrize("name", ["model.bin", "folder", "no suffix"])
def test_what_is_neither_bundle_nor_artifact_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="neither a bundle nor an artifact"):
        load(tmp_path / name)
    with pytest.raises(ReferenceNotFound):
        load(tmp_path / "not there.onnx")


def test_a_core_ml_package_is_no_bundle_where_disks_ignore_case(tmp_path: Path) -> None:
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    (package / "manifest.json").write_text(json.dumps({"fileFormatVersion": "1.0.0"}))
    assert not is_bundle(package)


# --- what a device runs --------------------------------------------------------------------------------------------------


def artifacts() -> list[Runnable]:
    return [
        runnable("portable-fp32", "onnx", "a"), runnable("portable-fp32", "tflite", "b"), runnable("arm-ort", "onnx", "c"),
        runnable("arm-xnnpack", "tflite", "d"), runnable("android-nnapi", "tflite", "d"), runnable("x86-fbgemm", "onnx", "e"),
    ]  # fmt: skip


def chosen(device: DeviceSpec = PI, targets: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in selected(artifacts(), targets, device)]


def test_a_target_named_by_its_file_is_the_one_of_that_name() -> None:
    assert chosen(targets=("/somewhere/arm-ort.toml",)) == ["arm-ort/onnx"]
    assert chosen(replace(PI, targets=("/a b/arm-ort.toml",))) == ["portable-fp32/onnx", "arm-ort/onnx"]


def test_without_targets_everything_is_run_and_equal_files_once() -> None:
    assert chosen() == ["portable-fp32/onnx", "portable-fp32/tflite", "arm-ort/onnx", "arm-xnnpack/tflite", "x86-fbgemm/onnx"]


def test_a_devices_own_targets_come_with_their_twins() -> None:
    assert chosen(replace(PI, targets=("arm-ort",))) == ["portable-fp32/onnx", "arm-ort/onnx"]
    both = replace(PI, targets=("arm-xnnpack", "not-exported"))
    assert chosen(both) == ["portable-fp32/tflite", "arm-xnnpack/tflite"]


def test_targets_on_the_command_line_mean_exactly_these() -> None:
    assert chosen(replace(PI, targets=("arm-ort",)), ("android-nnapi",)) == ["android-nnapi/tflite"]


def test_an_unknown_target_has_its_nearest_name() -> None:
    with pytest.raises(UnknownName) as unknown:
        chosen(targets=("arm-xnpack",))
    assert unknown.value.fix == "did you mean 'arm-xnnpack'?"


def test_a_device_for_which_there_is_nothing_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="nothing for pi5"):
        chosen(replace(PI, targets=("apple-ane",)))


def test_a_bare_file_goes_to_every_device_and_has_no_targets() -> None:
    bare: list[Any] = [runnable()]
    assert selected(bare, (), replace(PI, targets=("arm-ort",))) == bare
    with pytest.raises(UnknownName) as unknown:
        selected(bare, ("arm-ort",), PI)
    assert unknown.value.why == "a bare file has no targets"
