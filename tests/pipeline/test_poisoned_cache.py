"""Who may write to the cache cannot change what an export says of its artifacts."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeopt
from edgeopt.bundle.bundle import Bundle
from edgeopt.support.files import sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of torch and torchao


def exported(out: Path) -> Bundle:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    return edgeopt.export(module, torch.randn(1, 8), targets=["x86-fbgemm"], out=out, jobs=1)


def swap(cache: Path, good: Path, other: Path) -> int:
    """Puts ``other`` in the place of ``good`` in every entry, its list of digests included; how often."""
    swapped = 0
    for listed in cache.glob("v1/*/digests.json"):
        digests = json.loads(listed.read_text())
        for name in digests:
            file = listed.parent / "files" / name
            if file.read_bytes() == good.read_bytes():
                file.write_bytes(other.read_bytes())
                digests[name] = hashlib.sha256(other.read_bytes()).hexdigest()
                swapped += 1
        listed.write_text(json.dumps(digests))
    return swapped


def rewrite(cache: Path, good: Path, other: Path) -> int:
    """As :func:`swap`, and tells every record in the cache of the other digest; how many files changed."""
    changed = swap(cache, good, other)
    old, new = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (good, other))
    for record in cache.glob("v1/*/files/*.json"):
        if old in record.read_text():
            record.write_text(record.read_text().replace(old, new))
            changed += 1
    for listed in cache.glob("v1/*/digests.json"):
        files = listed.parent / "files"
        found = {str(file.relative_to(files)): sha256_of(file) for file in files.rglob("*") if file.is_file()}
        listed.write_text(json.dumps(found))
    return changed


def exchange(cache: Path, good: Path, other: Path) -> int:
    """Puts whole entries in each other's place."""
    first, second = (
        next(file.parents[1] for file in cache.glob("v1/*/files/model.onnx") if file.read_bytes() == path.read_bytes())
        for path in (good, other)
    )
    first.rename(cache / "meanwhile")
    second.rename(first)
    (cache / "meanwhile").rename(second)
    return 1


@pytest.mark.parametrize("alter", [rewrite, exchange])
def test_a_cache_that_agrees_with_itself_and_is_somebody_else_s_is_not_believed(
    alter: Callable[[Path, Path, Path], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGEOPT_CACHE", str(cache))
    first = exported(tmp_path / "first")
    good = first.path / "x86-fbgemm" / "model.onnx"
    assert alter(cache, good, first.path / "portable-fp32" / "model.onnx") > 0
    for listed in cache.glob("v1/*/files/value.json"):
        if alter is exchange and "manifest" in json.loads(listed.read_text()):
            shutil.rmtree(listed.parents[1])
    again = exported(tmp_path / "again")
    assert sha256_of(again.path / "x86-fbgemm" / "model.onnx") == sha256_of(good)
    assert again.verify() == ()


@pytest.mark.parametrize("whole", [True, False], ids=["the whole export is remembered", "each artifact is"])
def test_an_artifact_that_was_swapped_in_the_cache_is_made_anew(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGEOPT_CACHE", str(cache))
    first = exported(tmp_path / "first")
    good = first.path / "x86-fbgemm" / "model.onnx"
    assert swap(cache, good, first.path / "portable-fp32" / "model.onnx") > 0
    if not whole:
        for listed in cache.glob("v1/*/files/value.json"):
            if "manifest" in json.loads(listed.read_text()):
                shutil.rmtree(listed.parents[1])
    again = exported(tmp_path / "again")
    (result,) = (result for result in again.manifest.results if result.target == "x86-fbgemm")
    assert result.artifact is not None and result.artifact.sha256 == sha256_of(good) == sha256_of(again.artifact_path(result))
    assert again.verify() == ()
