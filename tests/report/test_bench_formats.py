import csv
import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from edgeopt.bench.types import Agreement, DeviceRun
from edgeopt.core import from_data
from edgeopt.report.bench_formats import as_csv, as_json, as_markdown
from tests.report.bench_samples import HOSTILE, everything, hostile, measurement, phone, pi, result, run

MARKDOWN = MarkdownIt("commonmark").enable("table")


def records(*runs: DeviceRun) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(runs)), strict=True))


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def table(text: str) -> list[list[str]]:
    return [cells(line) for line in text.splitlines() if line.startswith("|")]


def test_json_holds_every_device_without_raw_samples_unless_asked() -> None:
    data = json.loads(as_json(everything()))
    assert [one["device"] for one in data] == ["pi5", "pixel8", "attic"]
    assert data[0]["results"][0]["measurement"]["latency"]["median"]["value"] > 0
    assert data[0]["results"][0]["measurement"]["launches"][0]["samples_ns"] == []
    assert (
        len(json.loads(as_json(everything(), samples=True))[0]["results"][0]["measurement"]["launches"][0]["samples_ns"]) == 300
    )


def test_json_with_samples_reads_back_as_it_was() -> None:
    runs = (*everything(), hostile())
    assert tuple(from_data(DeviceRun, one) for one in json.loads(as_json(runs, samples=True))) == runs


def test_json_is_json_also_with_numbers_that_are_none() -> None:
    text = as_json([run("a", result(measured=measurement(6.7, accuracy={"top1": math.nan})))])
    assert json.loads(text, parse_constant=pytest.fail)[0]["results"][0]["measurement"]["accuracy"] == {"top1": None}


def test_json_holds_no_control_character() -> None:
    assert as_json([hostile()]).isascii()
    assert "\x1b" not in as_json([hostile()])


def test_csv_has_a_row_per_result_with_numbers_a_program_can_read() -> None:
    found = records(*everything())
    assert len(found) == 10
    one = found[1]
    assert (one["device"], one["target"], one["threads"], one["status"]) == ("pi5", "arm-xnnpack", "1", "ok")
    assert float(one["median_low_ms"]) <= float(one["median_ms"]) <= float(one["median_high_ms"])
    assert float(one["of_fp32"]) == pytest.approx(0.2786, abs=1e-4)
    assert (one["of_fp32_verdict"], one["accuracy top1"], one["bit_exact"]) == ("faster", "0.85", "true")
    assert found[4]["p99_ms"] == ""
    assert found[4]["marks"] == "uncalibrated partial"


def test_csv_tells_a_median_of_a_native_tool_from_an_average() -> None:
    first, second = records(phone())
    assert (first["median_ms"], first["mean_ms"]) == ("5.1", "")
    assert (second["median_ms"], second["mean_ms"]) == ("", "5.2")


def test_csv_has_a_row_for_a_device_without_results() -> None:
    (one,) = records(run("attic", error="Unreachable", reason="switched off", facts=None))
    assert (one["device"], one["status"], one["reason"]) == ("attic", "failed", "switched off")


def test_csv_of_nothing_is_empty() -> None:
    assert as_csv([]) == ""


@given(st.sampled_from(["=", "+", "-", "@", "\t", "\r", "＝", " =", "\n@"]), st.text())
def test_no_text_from_outside_becomes_a_formula(begin: str, rest: str) -> None:
    text = begin + rest
    data = run(text, result(text, measured=measurement(6.7, 12, 1, accuracy={text: 0.5}), path=text), error=text, reason=text)
    lines = list(csv.reader(io.StringIO(as_csv([data])), strict=True))
    assert len(lines) == 2
    assert not [cell for line in lines for cell in line if re.match(r"\s*[=+\-@＝＋－＠]", cell)]


def test_csv_leaves_our_own_negative_numbers_alone() -> None:
    agreement = Agreement(bit_exact=False, sqnr_db=-3.5, max_abs_error=1.0, samples=1)
    (one,) = records(run("a", result(measured=measurement(6.7, agreement=agreement))))
    assert one["sqnr_db"] == "-3.5"


def test_csv_and_markdown_hold_no_control_character_and_no_line_break_from_outside() -> None:
    for text in (as_csv([hostile()]), as_markdown([hostile()])):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert len(as_csv([hostile()]).splitlines()) == 4


def test_markdown_has_every_column_and_as_many_cells_in_each_row() -> None:
    head, line, *body = table(as_markdown(everything()))
    assert [name.strip() for name in head][:6] == ["device", "target", "format", "threads", "median ms", "± ms"]
    assert {"accuracy (top1)", "runs/s"} <= {name.strip().replace("\\", "") for name in head}
    assert all(re.fullmatch(" ---:? ", mark) for mark in line)
    assert {len(one) for one in (head, line, *body)} == {len(head)}
    assert body[3][-1].strip() == "ok **NOISY** **THROTTLED**"
    assert len(body) == 9


def test_markdown_tells_failures_and_notes_below_the_table() -> None:
    text = as_markdown(everything())
    assert "**Failed**" in text
    assert "- attic: ` there is no connection to ssh://pi@attic cause: timed out" in text
    assert "- not enough samples: p90 needs 64, p99 needs 662" in text


def test_hostile_text_stays_text_in_markdown() -> None:
    text = as_markdown([hostile()])
    head, _, *body = table(text)
    assert {len(one) for one in body} == {len(head)}
    assert all(len(line) < 2_000 for line in text.splitlines())
    inline = [child for token in MARKDOWN.parse(text) for child in token.children or ()]
    assert {token.type for token in inline} <= {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "code_inline",
        "html_inline",
    }
    assert {token.content for token in inline if token.type == "html_inline"} == {"<!-- -->"}
    words = "".join(token.content for token in inline if token.type in ("text", "text_special"))
    assert r"\x1b[31mred\x1b[0m [bold]b[/bold] a|b `c` <script>x</script> =cmd() @team \u202eevil" in words
    assert "@team" not in text.replace("`", "\n").split("**Failed**")[0]


@given(st.text(alphabet="`a |<@\\\n", max_size=30))
def test_code_in_markdown_holds_its_text_and_nothing_else(text: str) -> None:
    warning = f"a{text}a"
    paragraph = [token for token in MARKDOWN.parse(as_markdown([run("b", warnings=(warning,))])) if token.type == "inline"][-1]
    label, code = paragraph.children or ()
    assert (label.content, code.type, code.content) == ("b: ", "code_inline", " ".join(warning.split()))


def test_the_guard_keeps_the_text() -> None:
    (one,) = records(run("a", result("-x", status="skipped", reason=HOSTILE)))
    assert one["target"] == "'-x"
    assert "[bold]b[/bold] a|b `c` <script>x</script> =cmd() @team" in one["reason"]


def test_the_same_runs_give_the_same_text() -> None:
    assert as_csv([pi()]) == as_csv([pi()])
    assert as_markdown([pi()]) == as_markdown([pi()])
