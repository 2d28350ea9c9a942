import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgeopt.bench.types import DeviceRun, Measurement
from edgeopt.report.bench_columns import Column, columns
from edgeopt.report.bench_table import fitted, print_runs
from edgeopt.report.figures import margin, megabytes, ms, rate
from tests.report.bench_samples import (
    HOSTILE,
    everything,
    hostile,
    launch,
    lost,
    measurement,
    phone,
    pi,
    result,
    run,
    sustained,
)

NUMBER = re.compile(r"\d")


def shown(*runs: DeviceRun, width: int = 160, terminal: bool = False) -> str:
    options = {"force_terminal": True, "color_system": "truecolor"} if terminal else {}
    target = Console(file=io.StringIO(), width=width, highlight=False, **options)  # type: ignore[arg-type]
    print_runs(runs, [Path(f"runs/20260301T100000Z-{number}") for number, _ in enumerate(runs)], target)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def row(text: str, *begins: str) -> list[str]:
    """The words of the row that begins with these."""
    return next(line.split() for line in text.splitlines() if line.split()[: len(begins)] == list(begins))


def column(name: str, *runs: DeviceRun) -> list[str]:
    return [cell.words for one in columns(runs) if one.name == name for cell in one.cells]


def test_one_table_holds_every_device_and_every_figure() -> None:
    text = shown(*everything())
    assert text.count("verdict") == 1
    assert row(text, "pi5", "arm-xnnpack") == [
        *("pi5", "arm-xnnpack", "tflite", "1", "6.720", "0.009", "6.812", "6.869", "20.15", "21.40", "61.3", "148.8"),
        *("0.28", "0.850", "exact", "ok"),
    ]
    assert row(text, "pi5", "portable-fp32")[12:] == ["-", "0.900", "exact", "ok"]


def test_an_artifact_as_fast_as_its_twin_is_the_same_and_a_slower_one_is_loud() -> None:
    assert column("of fp32", pi())[:4] == ["-", "0.28", "same", "1.31"]
    assert "\x1b[1;33m1.31\x1b[0m" in shown(pi(), terminal=True)


def test_an_artifact_slower_than_its_twin_says_how_to_export_it_with_measured_costs() -> None:
    text = " ".join(shown(pi()).split())
    assert "edgeopt bench MODEL --layers TABLE.json --target android-nnapi --device pi5" in text
    assert "edgeopt export MODEL --target android-nnapi --latency-table TABLE.json" in text
    assert "--target arm-xnnpack --device" not in text


def test_outputs_are_bit_exact_or_as_near_as_so_many_db() -> None:
    assert column("outputs as here", pi())[1:3] == ["exact", "41 dB"]


def test_a_percentile_without_enough_samples_is_not_invented() -> None:
    text = shown(pi())
    assert row(text, "pi5", "nvidia-sparse24")[6:8] == ["-", "-"]
    assert "not enough samples: p90 needs 64, p99 needs 662" in text
    assert "not enough samples" not in shown(sustained())


def test_so_few_samples_that_there_is_no_median_give_an_average_that_says_so() -> None:
    text = shown(run("slow", result(measured=measurement(900.0, 3))))
    assert row(text, "slow")[4:6] == ["898.5", "avg"]
    assert "median needs 11" in text
    assert "avg: an average, there is no median" in text


def test_figures_of_a_native_tool_stand_in_the_table_for_what_they_are() -> None:
    text = shown(phone())
    assert row(text, "pixel8", "arm-xnnpack")[4:] == ["5.100", *"---", "15.30", "21.40", "+12.3", "192.3", "ok"]
    assert row(text, "pixel8", "android-nnapi")[3:7] == ["1", "nnapi", "5.200", "avg"]
    assert "native tools without samples" in text
    assert "peak with +: growth since the start of the tool" in text


def test_the_peak_is_that_of_the_hungriest_launch_and_the_first_inference_the_middle_one() -> None:
    launches = tuple(
        launch(6.7, peak_bytes=peak, first_ns=first) for peak, first in ((10**7, 3), (4 * 10**7, 10**9), (10**7, 10**7))
    )
    one = run("pi5", result(measured=measurement(6.7, launches=launches)))
    assert (column("peak MB", one), column("first ms", one)) == (["40.0"], ["10.00"])


def test_sustained_and_accuracy_are_columns_only_where_there_are_such() -> None:
    assert row(shown(sustained()), "pi5")[-3] == "9.400"
    names = [one.name for one in columns([sustained()])]
    assert "sustained ms" in names
    assert "accuracy (top1)" not in names
    assert "accuracy (top1)" in [one.name for one in columns([pi()])]
    assert "sustained ms" not in [one.name for one in columns([pi()])]


def test_marks_stand_beside_the_verdict_in_bold_yellow() -> None:
    assert column("verdict", pi()) == ["ok", "ok", "ok", "ok NOISY THROTTLED", "FAILED UNCALIBRATED PARTIAL", "skipped"]
    assert "\x1b[1;33mTHROTTLED\x1b[0m" in shown(pi(), terminal=True)


def test_an_uncalibrated_artifact_is_marked_also_where_nothing_was_measured() -> None:
    assert column("verdict", run("a", result(status="failed", calibrated=False))) == ["FAILED UNCALIBRATED"]


def test_a_device_that_could_not_be_used_has_one_line_and_its_reason_once() -> None:
    text = shown(*everything())
    assert row(text, "attic") == ["attic", *"--------------", "FAILED"]
    assert text.count("timed out") == 1
    assert "  attic\n    there is no connection to ssh://pi@attic" in text


def test_a_device_lost_halfway_keeps_what_it_measured() -> None:
    one, reason = lost(), lost().reason
    half = replace(one, results=(replace(one.results[0], status="ok", reason="", measurement=measurement(6.7)), one.results[1]))
    assert column("verdict", half) == ["ok", "FAILED"]
    assert f"  attic (arm-xnnpack/tflite x1)\n    {reason.splitlines()[0]}" in shown(half)


def test_a_device_that_has_nothing_to_run_is_skipped_and_says_so() -> None:
    text = shown(run("pi5"))
    assert row(text, "pi5")[-1] == "skipped"
    assert "there is no artifact for it" in text


def test_a_note_of_many_results_is_told_once_with_all_of_them() -> None:
    text = shown(*everything())
    assert text.count("the governor of CPUs 0-3") == 1
    assert "pi5 (portable-fp32/tflite x1, arm-xnnpack/tflite x1, android-litert-gpu/tflite x1)" in text


def test_a_note_of_all_results_of_a_device_names_the_device_alone() -> None:
    noted = measurement(6.7, notes=("warm in here",))
    text = shown(run("pi5", result("a", measured=noted), result("b", measured=noted)))
    assert "\n  pi5\n    warm in here" in re.sub(" +\n", "\n", text)


def test_notes_of_the_same_results_stand_together() -> None:
    text = shown(run("pi5", result("a", measured=measurement(6.7, notes=("it was hot", "it was loud")))))
    assert "\n  pi5 (a/tflite x1)\n    it was hot\n    it was loud" in re.sub(" +\n", "\n", text)


def test_warnings_skips_and_the_place_of_the_results_are_told() -> None:
    text = shown(*everything())
    assert "clocks of CPU 0 cannot be locked" in text
    assert "the runtime for apple-ane/coreml is not installed there" in text
    assert "pixel8: runs/20260301T100000Z-1 (Google Pixel 8, 4x Cortex-A76, Android 14 (API 34))" in text


def test_threads_stay_where_rows_could_not_be_told_apart_without_them() -> None:
    both = run("pi5", *(result(measured=measurement(6.7), threads=threads) for threads in (1, 4)))
    assert "thr" in shown(both, width=50).split()
    assert "thr" not in shown(run("pi5", result(measured=measurement(6.7))), width=50).split()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_keeps_to_the_width_and_no_number_is_cut_or_wrapped(width: int) -> None:
    text = shown(*everything(), width=width)
    assert max(map(len, text.splitlines())) <= width
    kept, dropped = fitted(columns(everything()), width)
    table = text.strip("\n").split("\n\n")[0].splitlines()
    for number, cells in enumerate(zip(*(one.cells for one in kept), strict=True)):
        words = [cell.text for cell in cells if NUMBER.search(cell.text)][2:]
        assert any(all(word in line for word in words) for line in table), number
    assert ("no room for" in text) == bool(dropped)


def test_at_100_columns_only_lesser_figures_are_left_out() -> None:
    dropped = [one.name for one in fitted(columns(everything()), 100)[1]]
    assert dropped == ["p90 ms", "first ms", "load ms", "runs/s"]


@given(st.integers(20, 300))
def test_what_fits_is_at_most_what_there_is_room_for(width: int) -> None:
    everything_fitting, dropped = fitted(COLUMNS, width)
    names = [one.name for one in everything_fitting]
    assert {"device", "target", "median ms", "± ms", "verdict"} <= set(names)
    assert len(everything_fitting) + len(dropped) == len(COLUMNS)
    assert names == [one.name for one in COLUMNS if one.name in names]


COLUMNS: list[Column] = columns(everything())


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_hostile_text_in_every_place_is_only_text(width: int) -> None:
    text = shown(hostile(), width=width, terminal=True)
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= width
    if width == 200:
        assert text.count("[bold]b[/bold]") > 8
        assert row(re.sub(r"\x1b\[[0-9;]*m", "", text), r"\x1b[31mred\x1b[0m")[-1] == "ok"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown(*everything(), terminal=True))


def test_a_measurement_with_nothing_in_it_is_a_row_of_dashes() -> None:
    assert set(row(shown(run("pi5", result(measured=Measurement(launches=())))), "pi5")[4:-1]) == {"-"}


@given(st.floats(0, 1e12) | st.floats(0, 1e4))
def test_a_time_has_at_most_four_decimals_and_is_near_the_truth(nanoseconds: float) -> None:
    text = ms(nanoseconds)
    assert re.fullmatch(r"\d+(\.\d{1,4})?", text)
    assert abs(float(text) - nanoseconds / 1e6) <= max(5.1e-5, 5.1e-4 * nanoseconds / 1e6)


@given(st.integers(1, 10**10), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_margin_is_never_less_than_the_interval(value: int, below: int, above: int) -> None:
    assert float(margin(value, value - below, value + above)) >= max(below, above) / 1e6 - 1e-12


def test_figures_as_people_write_them() -> None:
    assert [ms(n) for n in (None, 0, 12_300, 6_712_345, 1_234_567_890)] == ["-", "0.0000", "0.0123", "6.712", "1235"]
    assert (margin(6_700_000, 6_680_000, 6_705_000), margin(6_700_000, 6_700_000, 6_700_001)) == ("0.020", "0.001")
    assert [megabytes(n) for n in (None, 61_300_000, 1_250_000_000)] == ["-", "61.3", "1250"]
    assert [rate(n) for n in (None, 0.5, 41.37, 1234.5)] == ["-", "0.50", "41.4", "1234"]


def test_the_sample_of_hostile_text_holds_what_it_should() -> None:
    assert all(part in HOSTILE for part in ("\x1b[", "[bold]", "|", "`", "<script>", "\n=", "@", "\u202e"))
