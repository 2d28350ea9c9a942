"""The registry: names, what is missing, and formats that other packages offer."""

from pathlib import Path

import pytest

from edgeopt import registry
from edgeopt.errors import ConfigError, MissingExtra, UnknownName

CONVERTER = "class Mine:\n    suffix = '.mine'\n    runs_here = False\n"


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offers_format.py").write_text(CONVERTER, encoding="utf-8")
    info = tmp_path / "offers_format-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offers-format\nVersion: 1.0\n", encoding="utf-8")
    mine = "offers_format:Mine"
    points = {"mine": mine, "onnx": mine, "lost": "offers_format:Nothing", "nowhere": "no_such_module_here:A"}
    lines = ["[edgeopt.converters]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", ["onnx", "tflite", "coreml", "pt2"])
def test_every_built_in_format_has_a_converter(name: str) -> None:
    converter = registry.converter(name)
    assert converter.suffix.startswith(".")
    assert isinstance(converter.runs_here, bool)


def test_an_unknown_format_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        registry.converter("onyx")
    assert "coreml, onnx, pt2, tflite" in str(caught.value)
    assert "did you mean 'onnx'" in str(caught.value)


def test_a_missing_package_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingExtra) as caught:
        registry.converter("onnx")
    assert "not installed: onnxscript" in str(caught.value)
    assert "pip install 'edgeopt[onnx]'" in str(caught.value)


@pytest.mark.usefixtures("other_package")
def test_another_package_offers_a_format_but_cannot_replace_a_built_in_one() -> None:
    assert {"mine", "onnx"} <= set(registry.formats())
    assert registry.converter("mine").suffix == ".mine"
    assert registry.converter("onnx").suffix == ".onnx"


@pytest.mark.usefixtures("other_package")
@pytest.mark.parametrize("name", ["lost", "nowhere"])
def test_an_entry_point_that_leads_nowhere_is_said_to(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        registry.converter(name)
