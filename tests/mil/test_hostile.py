"""Packages that somebody else made: shapes without end and types that are none are refused before anything is allocated."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeopt.bench.artifacts import load
from edgeopt.errors import ConfigError, ConversionError, EdgeoptError
from edgeopt.mil.loading import MODEL, read_spec, spec_operations
from tests.fuzz.parsers.samples import make

# coremltools and torch warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a palette, an affine weight and a bias."""
    (found,) = make("mlpackage", tmp_path_factory.mktemp("sample") / "made", None)
    return found


@pytest.fixture
def edited(package: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """A copy of it whose protobuf a function has changed."""

    def edit(change: Callable[[Any], None]) -> Path:
        copy = Path(shutil.copytree(package, tmp_path / "m.mlpackage"))
        spec = read_spec(copy)
        change(spec)
        (copy / "Data" / MODEL).write_bytes(spec.SerializeToString())
        return copy

    return edit


def operation(spec: Any, kind: str) -> Any:
    return next(each for each in spec_operations(spec.mlProgram) if each.type == kind)


def large_output(spec: Any) -> None:
    kind = operation(spec, "constexpr_lut_to_dense").outputs[0].type.tensorType
    kind.dimensions[0].constant.size = 10**12


def large_constant(spec: Any) -> None:
    value = operation(spec, "const").attributes["val"].type.tensorType
    value.rank = 2
    del value.dimensions[:]
    for _ in range(2):
        value.dimensions.add().constant.size = 2**40


def unknown_type(spec: Any) -> None:
    spec.description.input[0].type.multiArrayType.dataType = 0


def large_input(spec: Any) -> None:
    spec.description.input[0].type.multiArrayType.shape[0] = 10**15


def test_the_package_itself_is_read(package: Path) -> None:
    (one,) = load(package)
    assert one.inputs[0].shape == (4, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (large_output, "constants that it cannot hold"),
        (large_constant, "constants that it cannot hold"),
        (unknown_type, "of an unknown type"),
        (large_input, "says what cannot be of its tensors"),
    ],
)
def test_what_it_cannot_hold_is_refused(
    change: Callable[[Any], None], said: str, edited: Callable[[Callable[[Any], None]], Path]
) -> None:
    with pytest.raises((ConversionError, ConfigError), match=said):
        load(edited(change))


def test_a_link_in_it_is_refused(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "m.mlpackage"))
    (copy / "Data" / MODEL).unlink()
    (copy / "Data" / MODEL).symlink_to("/etc/passwd")
    with pytest.raises(EdgeoptError, match="is a link"):
        load(copy)
