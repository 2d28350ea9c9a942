"""The registry: names, what is missing, and formats and kinds of devices that other packages offer."""

from pathlib import Path

import pytest

from edgeopt import registry
from edgeopt.errors import ConfigError, MissingExtra, UnknownName
from edgeopt.support import extras

CONVERTER = """
class Mine:
    suffix, runs_here, stand_in, preload, folds_weights, takes_long = ".mine", False, "", (), True, False

def connect(url, ask):
    return url
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offers_format.py").write_text(CONVERTER, encoding="utf-8")
    info = tmp_path / "offers_format-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offers-format\nVersion: 1.0\n", encoding="utf-8")
    mine = "offers_format:Mine"
    points = {"mine": mine, "onnx": mine, "lost": "offers_format:Nothing", "nowhere": "no_such_module_here:A"}
    lines = ["[edgeopt.converters]", *(f"{name} = {value}" for name, value in points.items())]
    lines += [
        "[edgeopt.devices]",
        "serial = offers_format:connect",
        "local = offers_format:connect",
        "dead = offers_format:Nothing",
    ]
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
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else object())
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


def test_local_is_a_device() -> None:
    transport = registry.transport("local")
    assert transport.run(["echo", "here"], timeout_s=10).stdout == b"here\n"
    transport.close()


@pytest.mark.parametrize("url", ["ssd://pi", "pi5", "", "://x"])
def test_an_unknown_kind_of_device_lists_the_known_ones(url: str) -> None:
    with pytest.raises(UnknownName) as caught:
        registry.transport(url)
    assert "adb://..., local, ssh://..." in str(caught.value)


def test_a_mistyped_kind_of_device_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'ssh'"):
        registry.transport("shh://pi")


def test_a_device_whose_library_is_missing_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "adbutils" else object())
    with pytest.raises(MissingExtra) as caught:
        registry.transport("adb://pi")
    assert "the kind of device 'adb' cannot be reached here" in str(caught.value)
    assert "pip install 'edgeopt[devices]'" in str(caught.value)


@pytest.mark.usefixtures("other_package")
def test_another_package_offers_a_kind_of_device_but_cannot_replace_a_built_in_one() -> None:
    assert {"serial", "adb"} <= set(registry.schemes())
    assert str(registry.transport("serial://x")) == "serial://x"
    registry.transport("local").close()
    with pytest.raises(ConfigError, match="the kind of device 'dead' cannot be loaded"):
        registry.transport("dead://x")
