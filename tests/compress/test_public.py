"""The names for Python, and that docs/compression.md can be taken at its word."""

import re
from pathlib import Path
from typing import Any

import pytest

import edgeopt.compress
from edgeopt.compress.common.measures import sparsity
from edgeopt.compress.techniques import TECHNIQUES, technique
from edgeopt.recipe.schema import read
from tests.compress.search import families

DOCUMENT = (Path(__file__).parents[2] / "docs" / "compression.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def test_every_technique_is_imported_from_the_package() -> None:
    public = {name: getattr(edgeopt.compress, name) for name in edgeopt.compress.__all__}
    assert {technique(name) for name in TECHNIQUES} <= set(public.values())
    with pytest.raises(AttributeError, match="no attribute 'Channel'"):
        _ = edgeopt.compress.Channel


def test_every_technique_is_in_the_document_s_table() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT, re.MULTILINE) == list(TECHNIQUES)


def test_the_documented_recipe_is_one(tmp_path: Path) -> None:
    recipe, *_ = blocks("toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    assert [step.technique for step in read(tmp_path / "recipe.toml").steps] == ["distill", "channels"]


def test_the_first_documented_code_runs_as_written() -> None:
    images, labels, _, _ = families.data()
    batches = [(images[:64], labels[:64])]
    names: dict[str, Any] = {
        "net": families.build(),
        "image": images[:1],
        "train_step": families.train_step,
        "batches": batches,
    }
    exec(blocks("python")[0], names)
    assert names["compressed"].record.changed
    assert sum(sparsity(names["sparse"].module).values()) > 0
