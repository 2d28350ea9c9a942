import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgeopt.core import Manifest, Plan, QuantScheme, SparseLayer, Verdict, from_data, to_data
from edgeopt.report.doctor_view import print_checks
from edgeopt.report.plan_view import print_plans
from edgeopt.report.table import print_table
from edgeopt.report.target_view import print_target, print_targets
from edgeopt.report.text import counted, plain, size
from edgeopt.starter.doctor import Check
from edgeopt.targets import loader
from tests.report.samples import FP16, INT8, NORM, PALETTE4, PALETTE6, everything, made, manifest, plan, result, slow


def console(width: int = 120, *, terminal: bool = False) -> Console:
    options = {"force_terminal": True, "color_system": "truecolor"} if terminal else {}
    return Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False, **options)  # type: ignore[arg-type]


def said(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def table(data: Manifest, width: int = 120, *, terminal: bool = False) -> str:
    target = console(width, terminal=terminal)
    print_table(data, Path("build/m"), target)
    return said(target)


def row(text: str, target: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(target)).split()


def test_a_row_says_what_it_is_how_big_how_good_how_fast() -> None:
    text = table(everything())
    assert row(text, "arm-xnnpack") == [
        "arm-xnnpack",
        "tflite",
        "W8A8",
        "1",
        "0%",
        "3.8",
        "MB",
        "0.27",
        "18.2",
        "95.3%",
        "90-98",
        "0.850",
        "3.70",
        "0.56",
        "ok",
    ]
    assert row(text, "apple-ane")[2:] == ["fp16", "all", "100%", "3.7", "MB", *"-------", "ok", "GAVE", "WAY"]


@pytest.mark.parametrize("width", [80, 120])
def test_what_gave_way_is_marked_with_what_the_target_prefers_at_every_width(width: int) -> None:
    small = result("small", "coreml", plan=made("small", "coreml", PALETTE6, PALETTE4))
    lines = table(manifest(*everything().results, small), width).splitlines()
    preferred = {lines[i - 1].split()[0]: line.strip() for i, line in enumerate(lines) if line.strip().startswith("not ")}
    assert preferred == {"apple-ane": "not W8A8", "small": "not 4-bit palette"}
    marked = [line.split()[0] for line in lines if "GAVE WAY" in line]
    assert marked == ["apple-ane", "small"]


def test_what_gave_way_to_a_scheme_of_the_same_short_name_is_told_apart() -> None:
    plan = made("a", "tflite", INT8, replace(INT8, symmetric=True))
    text = table(manifest(result("a", plan=plan)), 160)
    assert row(text, "a")[2:7] == ["s8", "affine", "/", "s8", "per-channel"]
    assert "not s8 symmetric / s8 per-channel" in text


@pytest.mark.parametrize(
    ("share", "shown"), [(None, "-"), (0.0, "0%"), (0.001, "<1%"), (0.256, "26%"), (0.9999, ">99%"), (1.0, "100%")]
)
def test_a_share_of_the_work_is_rounded_and_never_to_nothing_or_all(share: float | None, shown: str) -> None:
    two = (NORM, NORM, replace(NORM, layer="other"))
    plan = made("a", "tflite", INT8, kept_float=two, float_macs=share)
    assert row(table(manifest(result("a", plan=plan))), "a")[3:5] == ["2", shown]


def test_weights_pruned_2_4_stand_beside_the_scheme() -> None:
    pruned = made("a", "onnx", INT8, sparse_layers=(SparseLayer(layer="head", pruned=True, reason="wide enough"),))
    dense = replace(pruned, target="b", sparse_layers=(replace(pruned.sparse_layers[0], pruned=False),))
    text = table(manifest(result("a", "onnx", plan=pruned), result("b", "onnx", plan=dense)))
    assert row(text, "a")[2:4] == ["W8A8", "2:4"]
    assert row(text, "b")[2:4] == ["W8A8", "0"]


def test_the_schemes_have_a_table_of_their_own_where_there_is_no_room_beside_the_numbers() -> None:
    wide, narrow = (table(everything(), width).splitlines() for width in (120, 80))
    assert [sum(line.startswith("target ") for line in lines) for lines in (wide, narrow)] == [1, 2]
    made_ones = [one.target for one in everything().results if one.plan]
    second = narrow[[i for i, line in enumerate(narrow) if line.startswith("target ")][1] + 1 :]
    shown = [line.split()[0] for line in second[: second.index("")] if not line.startswith(" ")]
    assert shown == made_ones, "what was not made has no scheme"


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (INT8, "W8A8"),
        (replace(INT8, per_channel=False), "W8A8 per-tensor"),
        (replace(INT8, reduce_range=True), "W7A8"),
        (QuantScheme(activation="float16", weight="int8"), "W8 weight-only"),
        (PALETTE4, "4-bit palette"),
        (FP16, "fp16"),
        (QuantScheme(activation="float32", weight="float32"), "fp32"),
    ],
)
def test_a_scheme_has_a_short_name(scheme: QuantScheme, name: str) -> None:
    assert scheme.short() == name


@pytest.mark.parametrize(
    ("rows", "told"),
    [((128, 128), "of 128 rows held out."), ((1, 1), "of 1 row held out."), ((16, 256), "of 16 to 256 rows")],
)
def test_how_many_rows_agreement_is_of_is_told_below_the_table(rows: tuple[int, int], told: str) -> None:
    verdicts = [Verdict(check="top1_agreement", value=1.0, rows=count, interval=(0.8, 1.0)) for count in rows]
    data = manifest(*(result(f"target-{i}", verdicts=(one,)) for i, one in enumerate(verdicts)))
    assert told in " ".join(table(data).split())
    assert row(table(data), "target-0")[9:11] == ["100%", "80-100"]


def test_without_data_of_the_user_s_agreement_has_no_interval() -> None:
    text = table(manifest(result("a", verdicts=(Verdict(check="top1_agreement", value=0.9996),))))
    assert "95 %" not in text.split("PyTorch")[0] and "held out" not in text
    assert "100.0%" in row(text, "a")


def test_a_bundle_of_before_there_were_intervals_is_still_read() -> None:
    """Fields that it lacks are those of numbers whose rows nobody counted."""
    data = to_data(everything())
    for verdict in (verdict for one in data["results"] for verdict in one["verdicts"]):
        del verdict["interval"], verdict["rows"]
    for one in (data["model"], *data["results"]):
        del one["accuracy_interval"]
    read = from_data(Manifest, data)
    assert all(verdict.interval is verdict.rows is None for one in read.results for verdict in one.verdicts)
    assert "95 %" not in table(read)


def test_the_twin_is_that_of_the_same_format() -> None:
    data = manifest(
        result("portable-fp32", "onnx", 8_000_000), result("portable-fp32", "tflite", 4_000_000), result("a", "onnx", 2_000_000)
    )
    assert row(table(data), "a")[7] == "0.25"


def test_no_accuracy_column_without_an_evaluation() -> None:
    model = replace(manifest().model, accuracy={})
    data = replace(manifest(result("a", accuracy={})), model=model)
    assert "top1" not in table(data)


def test_of_each_artifact_the_slices_that_fell_most_are_told_at_80_columns() -> None:
    before = {"top1": 0.9} | {f"top1/class={each}": 0.9 for each in range(10)}
    fell = before | {"top1/class=3": 0.8, "top1/class=7": 0.5, "top1/class=1": 0.85, "top1/class=2": 0.89}
    steady = before | {"top1": 0.1, "top1/class=4": 0.95, "top1/class=5": 0.8998}
    data = manifest(result("portable-fp32", accuracy=steady), result("a", accuracy=fell), result("b", accuracy=fell))
    text = table(replace(data, model=replace(data.model, accuracy=before)), 80)
    below = text[text.index("Slices that fell the most") : text.index("bundle:")].split()
    told = "a/tflite, b/tflite top1/class=7 0.900 to 0.500, top1/class=3 0.900 to 0.800, top1/class=1 0.900 to 0.850"
    assert " ".join(below) == f"Slices that fell the most {told}"
    assert "top1 0.900 (95 %: 0.899 to 0.972), 10 slices of top1." in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())


def test_without_slices_nothing_is_said_of_them() -> None:
    assert "lices" not in table(everything())


def test_a_failure_its_checks_and_a_skip_are_told_in_full() -> None:
    text = table(everything())
    assert "loses 0.35" in text
    assert "check accuracy_drop: 0.35, limit 0.01" in text
    assert "the worker died of signal 11; its last lines:\n    Traceback" in text
    assert "the format's extra is not installed" in text


def test_an_uncalibrated_artifact_is_marked_loudly_and_others_are_not() -> None:
    text = table(everything())
    assert text.lstrip().startswith("UNCALIBRATED: no calibration data")
    assert "UNCALIBRATED" in row(text, "android-litert-gpu")
    assert "UNCALIBRATED" not in row(text, "arm-xnnpack")
    assert "UNCALIBRATED" not in table(manifest(result("a")))


def test_an_artifact_slower_than_its_twin_is_marked() -> None:
    slower = result("x86-fbgemm", "onnx", ms=8.2, verdicts=(slow(8.2 / 6.6, own_kind=True),))
    assert row(table(manifest(slower)), "x86-fbgemm")[-2:] == ["ok", "SLOWER"]
    assert "SLOWER" not in row(table(everything()), "portable-fp32")


def test_an_artifact_for_another_kind_of_cpu_is_slower_here_and_no_more() -> None:
    assert row(table(everything()), "arm-ort")[-3:] == ["ok", "slower", "here"]


def test_a_warning_shared_by_targets_is_told_once() -> None:
    data = manifest(result("a", warnings=("watch out",)), result("b", warnings=("watch out",)))
    text = table(data)
    assert text.count("watch out") == 1
    assert "a/tflite, b/tflite" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_keeps_to_the_width(width: int) -> None:
    assert max(map(len, table(everything(), width).splitlines())) <= width


def test_at_80_columns_no_number_is_cut() -> None:
    assert "…" not in table(everything(), 80)
    assert row(table(everything(), 80), "android-litert-gpu")[:4] == ["android-litert-gpu", "tflite", "7.0", "MB"]


def test_markup_and_escapes_from_outside_are_only_text() -> None:
    text = table(everything(), terminal=True)
    assert "[bold]ARM is meant[/bold]" in text
    assert r"\x1b[31mboom" in text
    assert "\x1b[31mboom" not in text


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", table(everything(), terminal=True))


def plans(*all_plans: Plan, verbose: bool = False) -> str:
    target = console()
    print_plans(all_plans, verbose=verbose, console=target)
    return said(target)


def test_a_plan_groups_the_layers_kept_in_float_by_reason() -> None:
    text = plans(plan())
    assert "in float: 12 operators (layer_norm x12), because no integer kernel [in LiteRT]" in text
    assert "blocks.0.norm, blocks.1.norm, blocks.2.norm and 9 more" in text
    assert "--verbose lists every layer" in text
    assert "dense: 1 layer, because 3 input channels are too few" in text


def test_a_plan_says_for_how_much_its_scheme_holds() -> None:
    text = plans(replace(plan(), integer_weights=0.02, integer_macs=0.4))
    assert "arm-xnnpack/tflite: s8 affine / s8 per-channel, for 2% of the weights and 40% of the work" in text


def test_a_verbose_plan_lists_every_layer() -> None:
    text = plans(plan(), verbose=True)
    assert "blocks.11.norm" in text
    assert "--verbose" not in text


def test_a_target_is_shown_with_every_setting_and_its_source() -> None:
    for name in loader.names():
        profile, target = loader.load(name), console(10_000)
        print_target(profile, target)
        text = said(target)
        for key, source in profile.sources.items():
            assert f"{key} = " in text or f"{key}." in text, (name, key)
            assert source in text, (name, key)


def test_every_target_has_its_row() -> None:
    target = console()
    print_targets(map(loader.load, loader.names()), target)
    lines = said(target).splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in loader.names())


def test_the_doctor_gives_each_fix_once() -> None:
    fix = "pip install 'edgeopt[onnx]'"
    missing = [Check(name=name, ok=False, found="nothing", needed_for="ONNX", fix=fix) for name in ("onnx", "onnxscript")]
    target = console()
    print_checks([Check(name="python", ok=True, found="3.11", needed_for="all"), *missing], target)
    text = said(target)
    assert f"onnx, onnxscript: {fix}" in text
    assert text.count(fix) == 1
    assert "2 things to mend" in text


@given(st.text())
def test_plain_text_holds_no_control_character(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", plain(text))


@given(st.integers(0, 10**13))
def test_a_size_is_short(count: int) -> None:
    assert re.fullmatch(r"\d{1,5}(\.\d)? (B|kB|MB|GB)", size(count))


def test_counted_and_sizes_as_people_write_them() -> None:
    assert (counted(1, "layer"), counted(2_000, "layer")) == ("1 layer", "2,000 layers")
    assert [size(n) for n in (512, 13_996_000, 999_960_000)] == ["512 B", "14.0 MB", "1.0 GB"]
