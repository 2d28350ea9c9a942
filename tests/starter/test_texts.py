"""What the two files of ``edgeopt init`` say, of whatever was seen."""

import ast
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.cli.app import app
from edgeopt.core import TensorSpec
from edgeopt.model.config import Settings, read
from edgeopt.starter.choices import Choice, choices
from edgeopt.starter.code_text import code_text
from edgeopt.starter.config_text import config_text
from edgeopt.starter.seen import Seen
from edgeopt.targets import loader

IMAGE = TensorSpec(name="image", shape=(2, 3, 8, 8), dtype="float32")
IDS = TensorSpec(name="ids", shape=(1, 16), dtype="int64")
SCORES = TensorSpec(name="output", shape=(2, 10), dtype="float32")
CHOICES = (Choice("arm-ort", "ONNX"), Choice("apple-ane", "coremltools", "pip install 'edgeopt[coreml]'"))


def meanings() -> dict[str, str]:
    """As the options of ``edgeopt export`` have them."""
    from typer.main import get_command

    group = get_command(app)
    return {parameter.name: parameter.help for parameter in group.commands["export"].params}  # type: ignore[attr-defined]


def config(seen: Seen, chosen: tuple[Choice, ...] = CHOICES) -> str:
    return config_text(seen, chosen, meanings(), "edgeopt_model.py", "edgeopt export --config edgeopt.toml")


def code(seen: Seen) -> str:
    return code_text(seen, "edgeopt.toml", "edgeopt export --config edgeopt.toml")


def of(**more: object) -> Seen:
    return Seen(**{"name": "net", "reference": "net.py:build", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "seen", [of(given=("1x4:float32",), inputs=(IMAGE,)), of(inputs=(IMAGE, IDS)), of(), of(parameters=("ids", "mask"))]
)
def test_every_setting_stands_there_once_with_its_meaning_and_default(seen: Seen, tmp_path: Path) -> None:
    text = config(seen)
    for field in fields(Settings):
        assert len(re.findall(rf"^(?:# )?{field.name} = ", text, re.MULTILINE)) == 1, field.name
        meaning = re.sub(r"\s*\[default.*", "", meanings()[field.name])
        assert meaning.split(".")[0] in " ".join(text.replace("\n# ", " ").split())
    assert text.count("Default: ") == len(fields(Settings))
    (tmp_path / "edgeopt.toml").write_text(text)
    assert read(tmp_path / "edgeopt.toml").model == f"{tmp_path}/edgeopt_model.py:model"


def test_settings_behind_a_hash_say_what_is_the_default_anyway(tmp_path: Path) -> None:
    text = config(of(given=("1x4:float32",), inputs=(IMAGE,)))
    (tmp_path / "edgeopt.toml").write_text(
        re.sub(r"^# (timeout|jobs|cache|io_float|never_slower|strict_scheme|quality) =", r"\1 =", text, flags=re.MULTILINE)
    )
    settings = read(tmp_path / "edgeopt.toml")
    assert None not in (settings.timeout, settings.jobs, settings.cache, settings.io_float, settings.strict_scheme)
    said, default = settings.options("net"), Settings().options("net")
    for name in ("timeout_s", "jobs", "use_cache", "io_float", "never_slower", "strict_scheme", "quality"):
        assert getattr(said, name) == getattr(default, name)
    everything = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "edgeopt.toml").write_text(everything)
    assert read(tmp_path / "edgeopt.toml").calibration == f"{tmp_path}/edgeopt_model.py:batches"


def test_inputs_are_those_of_the_command_line_else_as_seen_else_to_be_filled_in() -> None:
    assert tomllib.loads(config(of(given=("ids=1x16:int64",), inputs=(IDS,))))["inputs"] == ["ids=1x16:int64"]
    seen = config(of(inputs=(IMAGE, IDS)))
    assert '# inputs = ["image=2x3x8x8:float32", "ids=1x16:int64"]' in seen
    assert "inputs" not in tomllib.loads(seen), "random numbers must not take the place of the model's own"
    unknown = config(of(parameters=("ids", "mask")))
    assert "FILL IN" in unknown
    assert '# inputs = ["ids=SHAPE:DTYPE", "mask=SHAPE:DTYPE"]' in unknown


def test_a_target_that_cannot_be_made_here_is_left_out_with_the_way_to_it() -> None:
    text = config(of())
    assert "targets" not in tomllib.loads(text), "what is named has to be made, also for a model with nothing to quantize"
    assert '# targets = ["arm-ort"]' in text
    assert re.search(r"^#   apple-ane .*pip install", text, re.MULTILINE)


def test_the_targets_are_those_for_which_everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choice.name for choice in choices()] == list(loader.names())
    assert [choice.name for choice in choices() if choice.without] == ["android-nnapi"], "legacy"
    from edgeopt import registry
    from edgeopt.errors import MissingExtra

    real = registry.converter

    def without(fmt: str) -> object:
        if fmt in missing:
            raise MissingExtra(f"{fmt} cannot be made here", fix=f"pip install 'edgeopt[{fmt}]'")
        return real(fmt)

    monkeypatch.setattr(registry, "converter", without)
    missing = {"coreml"}
    left_out = {choice.name: choice.without for choice in choices() if choice.without}
    assert left_out["apple-ane"] == "pip install 'edgeopt[coreml]'"
    missing = {"coreml", "tflite"}
    made = [choice.name for choice in choices() if not choice.without]
    assert "portable-fp32" in made and "arm-ort" in made and "arm-xnnpack" not in made
    missing = {"coreml", "onnx", "tflite"}
    with pytest.raises(MissingExtra):
        choices()


@pytest.mark.parametrize(
    "outputs", [(), (SCORES,), (SCORES, SCORES), (TensorSpec(name="boxes", shape=(1, 4, 100), dtype="float32"),)]
)
@pytest.mark.parametrize("calibration", [False, True])
@pytest.mark.parametrize("evaluate", [False, True])
def test_the_code_has_the_three_functions_and_imports_what_it_needs_alone(
    outputs: tuple[TensorSpec, ...], calibration: bool, evaluate: bool
) -> None:
    inputs = (IMAGE, IDS) if outputs else ()
    text = code(of(inputs=inputs, outputs=outputs, calibration=calibration, evaluate=evaluate))
    tree = ast.parse(text)
    assert {"model", "batches", "evaluate"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert text.count("@edgeopt.placeholder  # FILL IN") == 2 - calibration - evaluate
    names = [name.id for name in ast.walk(tree) if isinstance(name, ast.Name)]
    imported = [
        (alias.asname or alias.name)
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert set(imported) <= set(names)
    assert "\n\n\n\n" not in text and text.endswith("\n") and not text.endswith("\n\n")


def test_scores_of_classes_are_measured_by_top_1() -> None:
    assert "top1" in code(of(inputs=(IMAGE,), outputs=(SCORES,)))
    for other in (
        TensorSpec(name="y", shape=(2, 1), dtype="float32"),
        TensorSpec(name="y", shape=(3, 10), dtype="float32"),
        TensorSpec(name="y", shape=(2, 10), dtype="int64"),
        TensorSpec(name="y", shape=(2, 10, 4), dtype="float32"),
    ):
        assert "top1" not in code(of(inputs=(IMAGE,), outputs=(other,)))


@given(st.text(), st.text(), st.text())
def test_no_name_can_leave_its_place(name: str, path: str, why: str) -> None:
    seen = of(name=name, reference=f"{path}.py:build", inputs=(IMAGE,), outputs=(SCORES,))
    tree = ast.parse(code(seen))
    assert not [node for node in tree.body if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)]
    assert any(isinstance(node, ast.Constant) and node.value == seen.reference for node in ast.walk(tree))
    found = tomllib.loads(config(seen, (Choice("arm-ort", why), Choice("apple-ane", "", why))))
    assert set(found) == {"model", "out"}
    assert Path(found["out"]).parent == Path("build")
