"""Reading a target: by name, by path, from another package; and what is said when it does not fit."""

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import ConfigError, UnknownName
from edgeopt.targets import loader

BASE = files("edgeopt.targets").joinpath("arm-ort.toml").read_text(encoding="utf-8").replace('"arm-ort"', '"mine"', 1)


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_new_target_of_a_known_format_needs_one_toml(tmp_path: Path) -> None:
    profile = loader.load(write(tmp_path, BASE))
    assert profile.name == "mine"
    assert profile.formats == ("onnx",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("float_type", "flot_type", ("io.flot_type", "did you mean 'float_type'")),
        ("reduce_range", "reduced_range", ("reduced_range", "did you mean 'reduce_range'")),
        ("fused =", "fusd =", ("operators.fusd", "did you mean 'fused'")),
        ("[limits]", "[limit]", ("'limit'", "did you mean 'limits'")),
        ("summary =", "sumary =", ("'sumary'", "did you mean 'summary'")),
        ('"conv", ', '"convv", ', ("operators.integer.0", "did you mean 'conv'")),
        ("opset = 20", 'opset = "new"', ("limits.opset", "'new'")),
        ('weight = "int8"', 'weight = "float16"', ("schemes.0", "do not go together")),
        ('weight = "int8"', 'weight = "lut4"', ("schemes.0", "do not go together")),
        ('weight = "int8"', 'weight = "int8"\npalette_channels = 16', ("schemes.0", "goes with the weights lut4 and lut6")),
        ('activation = "int8"\nweight = "int8"', 'activation = "float16"\nweight = "lut4"', ("only Core ML stores palettes",)),
        ("[limits]", "[limits", ("is not TOML", "line")),
        ('name = "mine"', 'name = "other"', ("has the name 'other'", 'write name = "mine"')),
        ('formats = ["onnx"]', "formats = []", ("has no formats",)),
    ],
)
def test_what_does_not_fit_is_named_with_the_nearest_known_key(
    tmp_path: Path, old: str, new: str, said: tuple[str, ...]
) -> None:
    assert old in BASE
    with pytest.raises(ConfigError) as caught:
        loader.load(write(tmp_path, BASE.replace(old, new, 1)))
    for part in ("mine.toml", *said):
        assert part in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    without = "\n".join(line for line in BASE.splitlines() if not line.startswith("runtime ="))
    with pytest.raises(ConfigError, match="'runtime' is missing"):
        loader.load(write(tmp_path, without))


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        loader.load("arm-xnpack")
    assert "did you mean 'arm-xnnpack'" in str(caught.value)
    assert "portable-fp32" in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no target file"):
        loader.load(str(tmp_path / "none.toml"))


def test_a_folder_or_binary_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (folder, binary):
        with pytest.raises(ConfigError, match="cannot be read"):
            loader.load(str(path))


@given(name=st.text(max_size=40))
def test_any_text_as_a_name_gives_a_profile_or_an_error_of_ours(name: str) -> None:
    try:
        assert loader.load(name).name == name
    except (UnknownName, ConfigError) as error:
        assert str(error)


def test_another_package_offers_a_target_through_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "offers_target"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.toml").write_text(BASE, encoding="utf-8")
    info = tmp_path / "offers_target-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offers-target\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[edgeopt.targets]\nmine = offers_target\nlost = no_such_module_here\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"mine", "lost"} <= set(loader.names())
    assert loader.load("mine").name == "mine"
    with pytest.raises(ConfigError, match="cannot be loaded from the package that offers it"):
        loader.load("lost")
