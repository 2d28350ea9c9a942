from tests.matrix.table import Cell, changes, markdown


def a_cell(column: str, status: str, cause: str = "") -> Cell:
    return Cell(column=column, status=status, cause=cause)


def test_a_status_that_got_worse_is_told_from_one_that_improved() -> None:
    worse, better = changes(
        {"a": "ok", "b": "failed", "c": "fallback"},
        [a_cell("a", "failed", "no op"), a_cell("b", "ok"), a_cell("c", "fallback")],
    )
    assert worse == ["a: ok -> failed no op"]
    assert better == ["b: failed -> ok"]


def test_a_missing_and_an_unknown_column_count_as_worse() -> None:
    worse, better = changes({"a": "ok"}, [a_cell("b", "ok")])
    assert worse == ["a: not made", "b: not in the table"]
    assert not better


def test_the_page_lists_each_cause_without_breaking_its_markdown() -> None:
    page = markdown({"net": (a_cell("arm-ort", "failed", "a | b\n<c>"),)})
    assert "| net | failed |" in page
    assert "- net, arm-ort (failed): a \\| b \\<c>" in page
