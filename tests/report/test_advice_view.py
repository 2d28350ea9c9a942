"""The same advice as a table and as a recipe."""

import io
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgeopt.compress.advice.advice import Advice, AdvisedStep, Budgets, Figures, Refusal
from edgeopt.compress.advice.architecture import Architecture, WeightedLayer
from edgeopt.compress.advice.recipe_text import recipe_text, reference_from
from edgeopt.compress.advice.sensitivity import Point, Sensitivity
from edgeopt.report.advice_view import print_advice, print_sensitivity

REFERENCES = {"model": "../net.py:model", "target": "arm-xnnpack"}


def advice() -> Advice:
    layer = WeightedLayer(name="features.[0]", kind="convolution", parameters=800, macs=9_000, inputs=3, outputs=32)
    whole = Architecture(
        family="cnn", layers=(layer,), parameters=1_000, macs=10_000, shares={"convolution": 0.9, "linear": 0.1}
    )
    settings = {"amount": 0.5, "exclude": ("head",), "measure": "macs"}
    after = Figures(parameters=400, macs=2_500, bytes=3_000_000, latency_ms=1.25)
    return Advice(
        model="net\x1b[31m", target="arm-xnnpack", scheme="s8 affine / s8 per-channel", architecture=whole,
        budgets=Budgets(max_bytes=4_000_000, max_latency_ms=2, max_drop=0.01),
        before=Figures(parameters=1_000, macs=10_000, bytes=6_000_000, latency_ms=3.0),
        steps=(AdvisedStep(technique="channels", settings=settings, after=after, reason="takes [75%] of the MACs"),),
        refused=(Refusal(technique="magnitude", reason="zeros [give] no speed\nhere"),), notes=("accuracy is not computed",),
    )  # fmt: skip


def said(*, verbose: bool = False, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    print_advice(advice(), verbose=verbose, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_model_the_budgets_the_steps_and_the_refusals_are_told() -> None:
    text = said()
    assert "a cnn, multiply-accumulates (MACs): 90.0% convolution, 10.0% linear" in text
    assert "at most 4.0 MB, at most 2 ms, a loss of at most 0.01" in text
    row = next(line for line in text.splitlines() if line.startswith("1 channels"))
    assert row.split()[-8:] == ["400", "2.5", "k", "25%", "3.0", "MB", "50%", "1.25"]
    assert "zeros [give] no speed" in text
    assert "\x1b" not in text
    assert "features" not in text


def test_a_verbose_view_lists_every_layer() -> None:
    assert "features.[0]: convolution, 3 -> 32, 800 parameters, 9,000 MACs" in said(verbose=True)


@pytest.mark.parametrize("width", [60, 80])
def test_it_keeps_to_the_width(width: int) -> None:
    assert max(map(len, said(width=width).splitlines())) <= width


def test_a_recipe_says_what_is_advised() -> None:
    recipe = tomllib.loads(recipe_text(advice(), REFERENCES, {"fit": "../net.py:fit"}))
    assert recipe == {
        "model": "../net.py:model",
        "target": "arm-xnnpack",
        "max_drop": 0.01,
        "max_bytes": 4_000_000,
        "max_latency_ms": 2,
        "training": {"fit": "../net.py:fit"},
        "step": [{"technique": "channels", "amount": 0.5, "exclude": ["head"], "measure": "macs", "epochs": 3}],
        "export": {"targets": ["arm-xnnpack"]},
    }


def test_without_training_code_no_step_trains_and_the_recipe_says_where_it_stands() -> None:
    text = recipe_text(advice(), REFERENCES, {})
    assert "epochs" not in tomllib.loads(text)["step"][0]
    assert "# train_step" in text


@pytest.mark.parametrize(
    ("reference", "written"),
    [
        ("/home/me/models/net.py:model", "net.py:model"),
        ("/home/me/net.py:model", "../net.py:model"),
        ("/home/me/recipes/new/net.py:model", "../recipes/new/net.py:model"),
        ("/work/net.py:model", "/work/net.py:model"),
        ("/opt/targets/board.toml", "/opt/targets/board.toml"),
        ("package.nets:model", "package.nets:model"),
        ("arm-xnnpack", "arm-xnnpack"),
    ],
)
def test_a_path_is_relative_where_recipe_and_file_can_be_moved_together(reference: str, written: str) -> None:
    assert reference_from(Path("/home/me/models"), reference) == written


def test_a_comment_cannot_become_a_key() -> None:
    step = replace(advice().steps[0], reason='takes\nout = "/etc"\r\nall')
    recipe = tomllib.loads(recipe_text(replace(advice(), steps=(step,), model="a\nout = 1"), REFERENCES, {}))
    assert "out" not in recipe
    assert "out" not in recipe["step"][0]


def test_the_most_sensitive_layers_come_first() -> None:
    points = tuple(Point(layer=f"layer{n}", amount=0.5, score=0.9 - n / 100) for n in range(7))
    found = Sensitivity(
        technique="silenced channels", metric="top1", base=0.9, amounts=(0.5, 0.75), points=points, macs={},
        unscanned=("last",), seconds=3,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=100, highlight=False, markup=False)
    print_sensitivity(found, console=console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.index("layer6") < text.index("layer2")
    assert "layer0" not in text
    assert "and 2 that lose less" in text
    assert "1 layer not reached" in text
