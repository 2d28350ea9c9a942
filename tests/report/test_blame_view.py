"""The table and the picture of ``edgeopt blame``: the worst first, and nothing that a model's names could smuggle in."""

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from edgeopt.core import Decision
from edgeopt.diagnosis.findings import Blame, Layer, OutlierChannel, Range, Scores
from edgeopt.report.blame_plot import write_blame
from edgeopt.report.blame_view import print_blame
from edgeopt.targets import loader

HOSTILE = "a\x1b[31m<script>$x$&[bold]\u202e"
RANGE = Range(minimum=-1.0, maximum=1.0, low=-1.0, high=1.0, scale=1 / 128)
WORST = Layer(
    layer="head", operator="conv", line="net.py, line 12: y = self.head(x)", own=11.0, own_weights=12.0, own_inputs=40.0,
    own_result=38.0, alone=14.5, without=21.5, gain=7.0, share=0.81, gives=RANGE, done=("equalized",), remedy="clip it",
    outliers=(OutlierChannel(channel=7, times=40.0),), odd=("channel 7 reaches 40 times what the median channel does",),
)  # fmt: skip
KEPT = Layer(layer="cat", operator="concat", line="", in_float="it joins values too far apart", alone=3.0, remedy="split it")
UNMEASURED = Layer(
    layer="late", operator="add", line="", own=30.0, own_result=30.0, odd=("8 bits cut off 2.00% of its values",)
)
FOUND = Blame(
    model="net", target="x86-fbgemm", format="onnx", scheme=loader.load("x86-fbgemm").schemes[0], calibrated=True,
    calibration="200 samples", samples=4, whole=14.5, part="output scores", layers=(KEPT, WORST, UNMEASURED), seconds=31.4,
    done=(Decision(subject="weights", choice="rounded", reason="less error"),), notes=("a note",),
    scores=Scores(metric="top1", model=0.83, integers=0.7, without_worst=0.82, worst=("head",)),
)  # fmt: skip


def printed(found: Blame, verbose: bool = False) -> str:
    console = Console(file=io.StringIO(), width=140, highlight=False, markup=False, emoji=False)
    print_blame(found, verbose=verbose, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def hostile() -> Blame:
    bad = {"layer": HOSTILE, "operator": HOSTILE, "line": HOSTILE, "remedy": HOSTILE, "odd": (HOSTILE,), "in_float": HOSTILE}
    layers = tuple(replace(layer, **bad) for layer in FOUND.layers)  # type: ignore[arg-type]
    scores = Scores(metric=HOSTILE, model=1.0, integers=1.0, without_worst=1.0, worst=(HOSTILE,))
    return replace(FOUND, model=HOSTILE, part=HOSTILE, layers=layers, scores=scores, notes=(HOSTILE,))


def test_the_table_says_what_each_costs_where_it_is_and_what_helps() -> None:
    text = printed(FOUND)
    assert "net on x86-fbgemm, u8 affine / s8 per-channel: 14.5 dB (output scores)" in text
    assert "top1: 0.83 in float, 0.7 in integers, 0.82 with head in float" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("head"))
    assert row == ["head", "conv", "8", "bits", "14.5", "+7.0", "81%", "11.0", "12.0", "-1..1"]
    assert text.index("\ncat ") < text.index("\nhead ") < text.index("\nlate ")
    for said in (
        "in float: it joins",
        "net.py, line 12: y = self.head(x)",
        "channel 7 reaches 40",
        "remedy: clip it",
        "a note",
    ):
        assert said in text
    assert "late: 8 bits cut off 2.00% of its values" in text


def test_few_layers_are_shown_and_all_with_verbose() -> None:
    many = replace(FOUND, layers=tuple(replace(WORST, layer=f"layer{number}") for number in range(30)))
    assert "and 18 that cost less: --verbose lists all" in printed(many) and "layer29" not in printed(many)
    assert "layer29" in printed(many, verbose=True)


def test_a_model_of_nothing_to_blame_is_printed() -> None:
    assert "14.5 dB" in printed(replace(FOUND, layers=(), scores=None, notes=(), done=(), part=""))


def test_hostile_names_reach_the_terminal_escaped() -> None:
    text = printed(hostile(), verbose=True)
    assert "\x1b" not in text and "\u202e" not in text
    assert r"a\x1b[31m<script>$x$&[bold]\u202e" in text


def test_the_picture_is_the_same_for_the_same_findings_and_escapes_names(tmp_path: Path) -> None:
    for name, found in (("one", FOUND), ("other", FOUND), ("hostile", hostile())):
        write_blame(found, tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    text = (tmp_path / "hostile.svg").read_text()
    ElementTree.fromstring(text)
    assert "<script>" not in text and "\x1b" not in text


def test_a_picture_without_a_measured_layer_is_drawn(tmp_path: Path) -> None:
    write_blame(replace(FOUND, layers=()), tmp_path / "none.svg")
    ElementTree.parse(tmp_path / "none.svg")
