"""The built-in profiles: complete, sourced, and consistent with one another."""

import tomllib
from importlib.resources import files
from typing import Any

import pytest

from edgeopt.core import to_data
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile

NAMES = (
    "android-litert-gpu", "android-nnapi", "apple-ane", "apple-ane-fp16", "apple-ane-palettized", "apple-ane-w8", "arm-ort",
    "arm-xnnpack", "nvidia-sparse24", "portable-fp32", "x86-fbgemm", "x86-fbgemm-avx2",
)  # fmt: skip
NOT_SETTINGS = {"name", "summary", "sources"}
ATOMIC = {"schemes", "operators.fixed_output"}
TABLES = tuple(table.name for table in files("edgeopt.targets").joinpath("operators").iterdir())


def settings(data: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys of every setting in a profile's TOML."""
    keys = set()
    for key, value in data.items():
        dotted = prefix + key
        if isinstance(value, dict) and dotted not in ATOMIC:
            keys |= settings(value, f"{dotted}.")
        elif dotted not in NOT_SETTINGS:
            keys.add(dotted)
    return keys


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads(files("edgeopt.targets").joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def test_the_targets_of_the_readme_are_built_in() -> None:
    assert set(NAMES) <= set(loader.names())
    assert loader.names() == tuple(sorted(loader.names()))


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_source_and_every_source_a_setting(name: str) -> None:
    data = toml(name)
    settings_only = {key for key in data if key != "sources"}
    present = settings({key: data[key] for key in settings_only})
    assert present == set(data["sources"])
    assert all(source.strip() for source in data["sources"].values())


@pytest.mark.parametrize("name", NAMES)
def test_special_ranges_are_those_of_quantized_operators(name: str) -> None:
    operators = loader.load(name).operators
    quantized = set(operators.integer)
    assert set(operators.shared_range) <= quantized
    assert set(operators.fixed_output) <= quantized
    assert set(operators.float_output) <= quantized
    assert set(operators.float_last) <= quantized - set(operators.float_output)
    assert not set(operators.shared_range) & set(operators.fixed_output)


@pytest.mark.parametrize("name", NAMES)
def test_only_integer_schemes_name_integer_operators(name: str) -> None:
    profile = loader.load(name)
    assert any(scheme.integer for scheme in profile.schemes) == bool(profile.operators.integer)


def test_the_schemes_are_those_each_runtime_is_fast_with() -> None:
    described = {name: [scheme.describe() for scheme in loader.load(name).schemes] for name in NAMES}
    assert described == {
        "android-litert-gpu": ["fp16"],
        "android-nnapi": ["s8 affine / s8 per-channel"],
        "apple-ane": ["u8 symmetric / s8 per-channel", "fp16"],
        "apple-ane-fp16": ["fp16"],
        "apple-ane-palettized": ["fp16 / 4-bit palette per 16 channels", "fp16 / 6-bit palette per 16 channels", "fp16"],
        "apple-ane-w8": ["fp16 / s8 per-channel", "fp16"],
        "arm-ort": ["s8 affine / s8 per-channel"],
        "arm-xnnpack": ["s8 affine / s8 per-channel"],
        "nvidia-sparse24": ["s8 symmetric / s8 per-channel"],
        "portable-fp32": ["fp32"],
        "x86-fbgemm": ["u8 affine / s8 per-channel"],
        "x86-fbgemm-avx2": ["u8 affine / s7 per-channel"],
    }


def test_nnapi_differs_from_xnnpack_only_in_what_does_not_change_the_file() -> None:
    def file_relevant(profile: TargetProfile) -> Any:
        data = to_data(profile)
        for key in ("name", "summary", "runtime", "processor", "status", "status_note", "sources"):
            del data[key]
        del data["operators"]["table"]
        del data["operators"]["float_last"]  # of floats out only: the delegate has no layer of floats with integer weights
        return data

    nnapi, xnnpack = loader.load("android-nnapi"), loader.load("arm-xnnpack")
    assert file_relevant(nnapi) == file_relevant(xnnpack)
    assert nnapi.status == "legacy" and "deprecated" in nnapi.status_note


def test_only_the_operator_tables_that_exist_are_named() -> None:
    tables = {profile.operators.table for profile in map(loader.load, NAMES)} - {None}
    assert tables == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_an_operator_table_is_a_tflite_builtin_with_a_source(table: str) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    rows = tomllib.loads(files("edgeopt.targets").joinpath("operators", table).read_text(encoding="utf-8"))["operator"]
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        assert hasattr(schema.BuiltinOperator, row["name"]), row["name"]
        assert set(row) <= {"name", "dtypes", "max_version", "same_range", "source"}
        assert row["source"] and row["dtypes"]
