"""``--max-size``: a gate on the file, the room in it goes to layers in floats, and what contradicts it is told with numbers."""

from importlib.resources import files
from pathlib import Path

import pytest

from edgeopt.core import TargetResult
from edgeopt.errors import GateFailed
from tests.pipeline.test_mixed import export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao


def one(out: Path, target: str = "arm-ort", **options: object) -> TargetResult:
    (result,) = export(out, (target,), **options)
    return result


def sqnr(result: TargetResult) -> float:
    return next(verdict.value or 0.0 for verdict in result.verdicts if verdict.check == "sqnr_float")


def test_room_goes_to_layers_in_floats_and_the_file_stays_within_it(tmp_path: Path) -> None:
    whole = one(tmp_path / "whole")
    assert whole.artifact is not None
    most = whole.artifact.bytes + 3000
    filled = one(tmp_path / "filled", max_size=most)
    assert filled.status == "ok" and filled.artifact is not None and filled.plan is not None
    assert filled.artifact.bytes <= most and sqnr(filled) > sqnr(whole)
    assert any("left of --max-size" in layer.reason for layer in filled.plan.kept_float)


def test_a_file_that_is_too_large_fails_with_both_sizes_and_the_next_step(tmp_path: Path) -> None:
    integer = one(tmp_path / "integer", max_size="500B")
    assert (integer.status, integer.error) == ("failed", GateFailed.__name__)
    assert "limit 500 bytes" in integer.reason and "edgeopt compress" in integer.reason

    twin = one(tmp_path / "float", "apple-ane-fp16", max_size="500B")
    assert twin.status == "failed" and "an integer target of coreml" in twin.reason


def test_where_no_scheme_fits_the_smallest_file_is_kept_with_its_own_numbers(tmp_path: Path) -> None:
    """A user's target that prefers float16 to integers, whose file is the larger one of so small a network."""
    text = files("edgeopt.targets").joinpath("apple-ane.toml").read_text(encoding="utf-8")
    first, second = text.index("[[schemes]]"), text.rindex("[[schemes]]")
    end = text.index("[io]")
    target = tmp_path / "mine.toml"
    order = text[:first] + text[second:end] + text[first:second] + text[end:]
    target.write_text(order.replace('name = "apple-ane"', 'name = "mine"'), encoding="utf-8")
    result = one(tmp_path / "out", str(target), max_size="500B")
    assert result.status == "failed" and result.plan is not None and result.artifact is not None
    assert result.plan.scheme.activation == "float16"
    assert f"{result.artifact.bytes:,} bytes" in result.reason


def test_gates_that_contradict_each_other_are_told_in_one_message(tmp_path: Path) -> None:
    whole = one(tmp_path / "whole")
    assert whole.artifact is not None
    result = one(tmp_path / "both", max_size=whole.artifact.bytes + 100, min_sqnr=32.0)
    assert (result.status, result.error) == ("failed", GateFailed.__name__)
    assert "min_sqnr" in result.reason and "best reached within --max-size" in result.reason
    needed = int(result.reason.split("give --max-size ")[1].split("B")[0])
    assert one(tmp_path / "room", max_size=needed, min_sqnr=32.0).status == "ok"
