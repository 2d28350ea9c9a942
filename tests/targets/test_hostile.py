"""Targets that somebody else wrote, to see what happens: each ends in an error that names the file and the key."""

import os
from importlib.resources import files
from pathlib import Path

import pytest

from edgeopt.errors import ConfigError
from edgeopt.pipeline.selection import asked
from edgeopt.support.untrusted import SETTINGS_BYTES
from edgeopt.targets import loader

BASE = files("edgeopt.targets").joinpath("arm-ort.toml").read_text(encoding="utf-8")
LONGEST = 4000


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        loader.load(str(path))
    assert path.name[:20] in str(refused.value) and len(str(refused.value)) < LONGEST
    return str(refused.value)


@pytest.mark.parametrize("name", ["..", "a\x1b[31mb", "a\nb", "a\\b", "c:", "a" * 240, "-rf", ".hidden", "a b", "ä"])
def test_a_name_that_is_no_folder_s_is_refused(name: str, tmp_path: Path) -> None:
    written = name.encode("unicode_escape").decode().replace("\\x1b", "\\u001b").replace("\\xe4", "ä")
    assert "name" in refusal(tmp_path / f"{name}.toml", BASE.replace('"arm-ort"', f'"{written}"', 1))


@pytest.mark.parametrize("name", ["logs", "LOGS", "manifest.json", "SHA256SUMS", "sha256sums"])
def test_a_name_of_the_bundle_s_own_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    said = refusal(tmp_path / f"{name}.toml", BASE.replace('"arm-ort"', f'"{name}"', 1))
    assert "a bundle has a file or folder of its own of that name" in said


def test_the_twins_name_is_theirs(tmp_path: Path) -> None:
    said = refusal(tmp_path / "portable-fp32.toml", BASE.replace('"arm-ort"', '"portable-fp32"', 1))
    assert "everything is compared with the target of that name" in said


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "arm-ort.toml").write_text(BASE)
    (tmp_path / "Arm-Ort.toml").write_text(BASE.replace('"arm-ort"', '"Arm-Ort"', 1))
    assert loader.load(str(tmp_path / "arm-ort.toml")).name == "arm-ort"
    for other in ("arm-ort", str(tmp_path / "Arm-Ort.toml")):
        with pytest.raises(ConfigError, match="two targets are called"):
            asked((str(tmp_path / "arm-ort.toml"), other))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("opset = 20", "opset = 999", "limits.opset"),
        ("opset = 20", "opset = -1", "limits.opset"),
        ("opset = 20", "opset = " + "9" * 5000, "not TOML"),
        ("opset = 20", "max_rank = -1", "limits.max_rank"),
        ("opset = 20", "max_depthwise_kernel = 0", "limits.max_depthwise_kernel"),
        ("opset = 20", "specification_version = 99999999", "limits.specification_version"),
        ("[operators]", '[operators]\ntable = "../../../etc/passwd"', "operators.table"),
        ("[operators]", '[operators]\ntable = "/dev/stdin"', "operators.table"),
        ("0.00390625, -128", "0.0, -128", "operators.fixed_output"),
        ("0.00390625, -128", "nan, -128", "operators.fixed_output"),
        ("0.00390625, -128", "0.5, 99999999999", "operators.fixed_output"),
        ("[operators]", "[costs]\nquantize = nan\n[operators]", "costs.quantize"),
        ("[operators]", "[costs]\nelement_gain = inf\n[operators]", "costs.element_gain"),
        ("[operators]", "[costs]\nmac_gain = -1.0\n[operators]", "costs.mac_gain"),
        ("[operators]", "[checks]\nprogram_sqnr_db = -inf\n[operators]", "checks.program_sqnr_db"),
        (
            "[operators]",
            '[sparsity]\npattern = "2:4"\nmin_input_channels = 0\nmin_output_channels = 1\nchannel_multiple = 1\n[operators]',
            "sparsity.min_input_channels",
        ),
        ('formats = ["onnx"]', 'formats = ["onnx", "onnx"]', "onnx twice"),
        ('formats = ["onnx"]', 'formats = ["onnx"]\nchannel_multiple = 0', "channel_multiple"),
        ('processor = "aarch64"', 'processor = "z80"', "processor"),
        ('processor = "aarch64"', "processor = 64", "processor"),
        ("ONNX QDQ, int8", "A" * 500_000, "summary"),
        ("[operators]", "[operators]\n" + "x" * 500_000 + " = 1", "unknown key"),
        ("[operators]", "[operators]\n" + "\n".join(f"k{number} = 1" for number in range(10_000)), "more"),
        ("[operators]", "a = " + "[" * 100_000 + "]" * 100_000, "nested too deep"),
    ],
)
def test_a_value_that_no_device_has_is_refused_by_its_key(old: str, new: str, key: str, tmp_path: Path) -> None:
    assert old in BASE
    assert key in refusal(tmp_path / "arm-ort.toml", BASE.replace(old, new, 1))


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(ConfigError, match="a FIFO, not a regular file"):
        loader.load(str(tmp_path / "fifo.toml"))
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(200 << 30)
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        loader.load(str(tmp_path / "large.toml"))
    assert SETTINGS_BYTES == 1 << 20
