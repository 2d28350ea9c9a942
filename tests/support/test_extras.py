"""What an extra brings, and what is said where a part of it is missing."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import edgeopt.compress
from edgeopt.cli import app as cli
from edgeopt.core import TWIN
from edgeopt.errors import MissingExtra, UnknownName
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline import selection
from edgeopt.pipeline.plan import plan
from edgeopt.support import extras
from edgeopt.targets import loader
from tests.imports_of import third_party

RUN = CliRunner()
ROOT = Path(__file__).parents[2]


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if the packages of ``modules`` were not installed."""
    real = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in modules else real(name))


def test_an_extra_brings_what_the_extras_that_it_names_bring() -> None:
    names = [one.name for one in extras.brought("onnx")]
    assert {"torch", "torchao", "networkx", "onnx", "onnxscript", "onnxruntime"} == set(names)
    assert {"scipy", "coremltools", "ai-edge-litert", "dahuffman"} <= {one.name for one in extras.brought("all")}


@pytest.mark.parametrize("module", ["networkx", "onnxscript", "onnxruntime", "torchao"])
def test_each_package_of_an_extra_is_asked_for_by_name(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, module)
    with pytest.raises(MissingExtra) as caught:
        extras.require("onnx", "nothing works")
    assert caught.value.why == f"not installed: {module}"
    assert caught.value.fix == "pip install 'edgeopt[onnx]'"


def test_nothing_is_said_to_be_missing_where_edgeopt_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", nothing)
    monkeypatch.setattr(extras, "metadata", nothing)
    extras.own.cache_clear()
    assert (extras.names(), extras.missing("onnx")) == ((), ())
    extras.own.cache_clear()


def test_an_import_that_fails_late_names_the_extra_that_brings_the_module() -> None:
    found = extras.missing_for(ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript.rewriter"))
    assert found is not None
    assert "pip install 'edgeopt[onnx]'" in found.message()
    assert extras.missing_for(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert extras.missing_for(ImportError("without a name")) is None


def test_a_command_that_meets_a_missing_module_ends_as_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(cli.plan, "load", broken)
    done = RUN.invoke(cli.app, ["plan", "x"])
    assert done.exit_code == MissingExtra.exit_code
    assert "pip install 'edgeopt[onnx]'" in done.stderr


@pytest.mark.parametrize(
    ("names", "twins"),
    [(["arm-ort"], ("onnx",)), (["arm-xnnpack", "apple-ane"], ("tflite",)), (["arm-ort", "arm-xnnpack"], ("onnx", "tflite"))],
)
def test_twins_are_made_in_the_formats_of_the_targets_asked_for(names: list[str], twins: tuple[str, ...]) -> None:
    first, *others = selection.asked(names)
    assert (first.name, first.formats) == (TWIN, twins)
    assert [profile.name for profile in others] == names


def test_a_format_without_twins_has_none() -> None:
    assert [profile.name for profile in selection.asked(["apple-ane"])] == ["apple-ane"]


def test_without_a_target_named_what_is_not_installed_is_left_out_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "litert_torch", "coremltools")
    found = selection.select(())
    assert {fmt for profile in found.profiles for fmt in profile.formats} == {"onnx"}
    every = {(profile.name, fmt) for profile in map(loader.load, loader.names()) for fmt in profile.formats}
    made = {(profile.name, fmt) for profile in found.profiles for fmt in profile.formats}
    assert made | {(result.target, result.format) for result in found.left_out} == every
    assert all(result.status == "skipped" and "pip install 'edgeopt[" in result.reason for result in found.left_out)


def test_a_target_that_was_named_and_cannot_be_made_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "coremltools")
    with pytest.raises(MissingExtra, match="the format 'coreml' cannot be made here") as caught:
        selection.select(["arm-ort", "apple-ane"])
    assert caught.value.fix == "pip install 'edgeopt[coreml]'"


def test_a_named_target_of_two_formats_is_made_in_the_one_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ai_edge_litert")
    found = selection.select([TWIN])
    assert [profile.formats for profile in found.profiles] == [("onnx",)]
    assert [result.format for result in found.left_out] == ["tflite"]


def test_where_no_format_is_installed_every_command_that_would_mend_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    with pytest.raises(MissingExtra, match="no target can be made here") as caught:
        selection.select(())
    assert all(f"pip install 'edgeopt[{extra}]'" in caught.value.fix for extra in ("onnx", "tflite", "coreml", "all"))


def test_what_python_takes_from_an_extra_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "dahuffman", "coremltools")
    with pytest.raises(MissingExtra, match=r"edgeopt\.compress\.Channels cannot be used here") as caught:
        _ = edgeopt.compress.Channels
    assert caught.value.fix == "pip install 'edgeopt[compress]'"
    with pytest.raises(MissingExtra, match=r"edgeopt\.coreml cannot be used here"):
        edgeopt.__getattr__("coreml")


def test_an_unknown_target_is_one_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    with pytest.raises(UnknownName):
        selection.select(["arm-otr"])


@pytest.mark.filterwarnings("default")  # torch's exporter warns about its own deprecated calls
def test_a_plan_needs_no_format_s_own_packages_and_says_what_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    without(monkeypatch, "onnx", "litert_torch")
    model = Model(torch.nn.Linear(4, 2).eval(), (torch.randn(1, 4),))
    plans = plan(model, Options(out=tmp_path, targets=("arm-ort", "arm-xnnpack")))
    said = {(plan.format, decision.reason) for plan in plans for decision in plan.decisions if decision.subject == "made here"}
    assert said == {
        ("onnx", "not installed: onnx; pip install 'edgeopt[onnx]'"),
        ("tflite", "not installed: litert-torch; pip install 'edgeopt[tflite]'"),
    }


def every(*folders: str, but: tuple[str, ...] = ()) -> list[str]:
    files = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    names = (".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files)
    return [name for name in names if not name.endswith(but or ("\0",))]


COMPANIONS = {"onnx": {"onnx_ir"}, "tflite": {"flatbuffers"}, "devices": {"cryptography"}}
"""Libraries that a package of the extra needs itself, and that are imported here too."""
ENTRIES = {
    "": ["edgeopt.api", "edgeopt.pipeline.selection", *every("edgeopt/cli", "edgeopt/report", "edgeopt/targets")],
    "torch": every("edgeopt/pipeline", "edgeopt/verify", "edgeopt/capture", "edgeopt/quantize"),
    "onnx": ["edgeopt.converters.onnx.converter", "edgeopt.converters.onnx.kernels", "edgeopt.converters.onnx.passes"],
    "tflite": ["edgeopt.converters.tflite.converter"],
    "coreml": ["edgeopt.converters.coreml.converter", *every("edgeopt/mil")],
    "compress": every("edgeopt/compress", "edgeopt/recipe", but=("pattern_onnx", "pattern_tflite")),
    "devices": every("edgeopt/bench", "edgeopt/devices", but=("runtimes", "runner")),
}


def declared(extra: str) -> set[str]:
    """Modules of the packages that pyproject.toml has for ``extra``, and for the extras that it names."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = settings["optional-dependencies"][extra] if extra else settings["dependencies"]
    inner = {name for one in map(Requirement, lines) for name in one.extras}
    return {extras.module_of(one) for one in map(Requirement, lines)}.union(*map(declared, inner))


@pytest.mark.parametrize("extra", ENTRIES)
def test_what_an_extra_is_for_imports_nothing_that_it_does_not_bring(extra: str) -> None:
    found = third_party(ENTRIES[extra], sys.stdlib_module_names)
    assert found <= declared("") | declared(extra) | COMPANIONS.get(extra, set())
