"""Advice is what helps against what was measured, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from edgeopt.diagnosis.findings import Layer, OutlierChannel, Range
from edgeopt.diagnosis.remedies import Circumstances, odd, remedy
from edgeopt.targets import loader

PROFILE = loader.load("x86-fbgemm")
USUAL = Circumstances(PROFILE, PROFILE.schemes[0], samples=200)
RANGE = Range(minimum=-1.0, maximum=1.0, low=-1.0, high=1.0, scale=1 / 128)
LAYER = Layer(
    layer="a", operator="conv", line="", own=20.0, own_weights=40.0, own_inputs=40.0, own_result=40.0, alone=20.0, gives=RANGE
)
OUTLIER = (OutlierChannel(channel=7, times=40.0),)


def said(around: Circumstances = USUAL, **changes: Any) -> str:
    return remedy(replace(LAYER, **changes), around)


def test_a_layer_that_costs_little_needs_nothing() -> None:
    assert said(alone=50.0, own_weights=3.0) == "none needed"


def test_without_calibration_that_comes_first() -> None:
    assert "--calibration" in said(replace(USUAL, samples=0), own_weights=3.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_outliers": OUTLIER}, "clip the weight that stands out in output channel 7"),
        ({"weight_inputs": OUTLIER}, "the weights of input channel 7 are 40 times"),
        ({}, "its weights need more than 8 bits"),
    ],
)
def test_weights_are_told_apart(changes: dict[str, Any], words: str) -> None:
    assert words in said(own_weights=10.0, **changes)


def test_weights_of_7_bits_one_scale_or_few_samples_are_told_what_helps_them() -> None:
    avx2 = loader.load("x86-fbgemm-avx2")
    assert "x86-fbgemm" in said(replace(USUAL, profile=avx2, scheme=avx2.schemes[0]), own_weights=10.0)
    assert "8 calibration samples" in said(replace(USUAL, samples=4), own_weights=10.0)
    whole = replace(USUAL, scheme=replace(PROFILE.schemes[0], per_channel=False))
    assert "per-channel weights" in said(whole, own_weights=10.0)


def test_values_beyond_the_calibrated_range_ask_for_samples_like_them_and_those_within_do_not() -> None:
    assert "calibrate on samples like those held out: they reach 5" in said(replace(USUAL, reach=5.0), clipped=0.1)
    assert 'observer = "minmax"' in said(replace(USUAL, reach=1.0), clipped=0.1)
    cut_nothing = replace(USUAL, reach=1.0, scheme=replace(PROFILE.schemes[0], observer="minmax"))
    assert "minmax" not in said(cut_nothing, clipped=0.1)


def test_channels_and_rare_values_that_set_the_range_are_named() -> None:
    assert "channel 7 alone needs the range [-1, 1]" in said(outliers=OUTLIER)
    assert "bring the input's channels to one scale" in said(outliers=OUTLIER, operator="input", own_weights=None)
    assert "rare values set its range" in said(own_result=20.0)


def test_what_shares_a_scale_is_to_be_taken_apart() -> None:
    assert "scores, classes get little of it" in said(replace(USUAL, joined=("scores", "classes")))


def test_float_io_is_advised_where_the_kind_can_give_floats_alone() -> None:
    leaves = replace(USUAL, leaves_in_integers=True)
    giving = replace(leaves, profile=replace(PROFILE, operators=replace(PROFILE.operators, float_output=("conv",))))
    never = replace(leaves, profile=replace(PROFILE, operators=replace(PROFILE.operators, float_output=())))
    assert "--float-io" in said(giving) and "--float-io" not in said(never)


def test_what_is_unusual_is_said_whatever_it_costs_and_usual_layers_are_not() -> None:
    assert odd(LAYER) == ()
    strange = replace(LAYER, outliers=OUTLIER, saturated=0.9, clipped=0.01, channels=10, dead=6, weight_inputs=OUTLIER)
    assert len(odd(strange)) == 5
    assert replace(strange, odd=odd(strange)).oddness == 5.0 and LAYER.oddness == 0
