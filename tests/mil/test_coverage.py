"""The table of operators in the documentation is the one of today, and what is left out has a reason."""

from edgeopt.mil.coverage import coverage
from scripts.coreml_coverage import DOCUMENT, written


def test_the_table_in_the_documentation_is_current() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text) == text, "run scripts/coreml_coverage.py"


def test_every_operator_is_evaluated_or_left_out_for_a_reason() -> None:
    assert not [each.name for each in coverage() if not each.evaluated and each.why == "not yet"]
