"""CONTRIBUTING says where things are, and it is true; files and functions stay short."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_LINES, MOST_FUNCTION_LINES = 350, 40
LINKS = ("targets", "converters", "devices")


def sources() -> Iterator[Path]:
    for folder in ("edgeopt", *LINKS):
        yield from (path for path in (ROOT / folder).rglob("*.py") if folder != "edgeopt" or path.parts[-2] not in LINKS)


def named_paths() -> set[str]:
    """What stands in backticks and looks like a path of the repository, placeholders aside."""
    names = re.findall(r"`((?:edgeopt|targets|converters|devices|tests|docs|scripts)/[\w./-]*)`", CONTRIBUTING)
    return {name for name in names if not re.search(r"[A-Z]{3}", name)}


@pytest.mark.parametrize("name", sorted(named_paths()))
def test_what_contributing_names_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_every_package_has_its_row_in_contributing() -> None:
    packages = {path.name for path in (ROOT / "edgeopt").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    rows = {name.rstrip("/").rpartition("/")[2] for name in named_paths()}
    assert packages - rows == set()


def test_every_package_is_in_the_wheel() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in sources() if path.name == "__init__.py"}
    named = {f"edgeopt.{name}" if name.partition(".")[0] in LINKS else name for name in found}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == named


@pytest.mark.parametrize("path", sorted(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = {node.name: lines for node in functions if (lines := _lines(node)) > MOST_FUNCTION_LINES}
    assert long == {}


def _lines(function: ast.FunctionDef) -> int:
    """Of the body: parameters and docstring say what it is for."""
    first = function.body[1] if isinstance(function.body[0], ast.Expr) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1
