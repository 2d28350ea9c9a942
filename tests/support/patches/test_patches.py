"""Every patch stands for the very source that is installed, and is put in and taken out as it says."""

import logging
from dataclasses import replace

import pytest

from edgeopt.support.patches import (
    Patch,
    in_place,
    kept_original,
    torch_archives,
    torch_composites,
    torch_graphs,
    torch_provenance,
)
from edgeopt.support.patches.patch import digest_of

TORCH = (*torch_archives.PATCHES, *torch_graphs.PATCHES, *torch_provenance.PATCHES)


def others() -> tuple[Patch, ...]:
    """Of libraries that other warnings come from when they are imported."""
    from edgeopt.support.patches import coremltools_graphs, litert_torch_export, onnxscript_matching

    coreml = (*coremltools_graphs.PATCHES, *coremltools_graphs.VALIDATED_ONCE)
    return (*coreml, *onnxscript_matching.PATCHES, *litert_torch_export.exported_already(None))  # type: ignore[arg-type]


def found(patch: Patch) -> object:
    return vars(patch.holder())[patch.name]


@pytest.mark.parametrize("patch", (*TORCH, *torch_composites.PATCHES), ids=lambda patch: patch.attribute)
def test_torch_has_the_source_that_each_patch_was_made_from(patch: Patch) -> None:
    assert digest_of(kept_original(found(patch))) == patch.digest, "read the new source, and make the patch anew"


@pytest.mark.filterwarnings("default")
def test_the_converters_have_the_source_that_each_patch_was_made_from() -> None:
    for patch in others():
        assert digest_of(kept_original(found(patch))) == patch.digest, f"{patch.attribute}: make the patch anew"


def test_a_patch_is_in_place_inside_and_gone_behind(caplog: pytest.LogCaptureFixture) -> None:
    before = [found(patch) for patch in TORCH]
    with in_place(TORCH):
        inside = [found(patch) for patch in TORCH]
        with in_place(TORCH):  # a second time changes nothing
            assert [found(patch) for patch in TORCH] == inside
        assert [found(patch) for patch in TORCH] == inside
        assert all(new is not old for new, old in zip(inside, before, strict=True))
    assert [found(patch) for patch in TORCH] == before
    assert caplog.records == []


def test_another_source_keeps_its_own_function_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    other = replace(TORCH[0], digest="0" * 16)
    gone = replace(TORCH[0], attribute="no_such_function")
    before = found(TORCH[0])
    with caplog.at_level(logging.WARNING), in_place((other, gone)):
        assert found(TORCH[0]) is before
    assert [record.getMessage().partition(": ")[2][:23] for record in caplog.records] == ["conversions take longer"] * 2
