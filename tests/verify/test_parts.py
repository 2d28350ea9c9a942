"""Each part of each output is judged: nothing loud hides what is lost beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.verify import parts, verdicts
from edgeopt.verify.parts import MAX_SQNR_DB, Outputs, OutputScales, Part

RANDOM = np.random.default_rng(0)


def samples(*scales: float, count: int = 8, size: int = 20) -> Outputs:
    """One output [1, channels, size] per sample, the channels with these scales."""
    return [(RANDOM.normal(size=(1, len(scales), size)) * np.reshape(scales, (1, -1, 1)),) for _ in range(count)]


def worst_channel(reference: Outputs, candidate: Outputs) -> tuple[float, str] | None:
    numbers, found = verdicts.compare(OutputScales.of(("y",), reference), reference, candidate)
    value = numbers.get("sqnr_float_channel")
    return None if value is None else (value, found["sqnr_float_channel"])


def changed(outputs: Outputs, channels: slice, factor: float) -> Outputs:
    result = [(sample[0].copy(),) for sample in outputs]
    for sample in result:
        sample[0][:, channels] *= factor
    return result


def test_scores_lost_beside_pixels_are_named() -> None:
    reference = samples(300, 250, 300, 300, 0.5, 0.4, 0.5)
    lost = changed(reference, slice(4, None), 0.0)
    assert verdicts.sqnr_db(reference, lost) > 50
    value, part = worst_channel(reference, lost) or (np.nan, "")
    assert (round(value, 1), part) == (0.0, "output y, channel 4..6")


@pytest.mark.parametrize("ratio", [31.0, 1e3, 1e5])
def test_a_channel_is_judged_by_its_own_scale_where_scales_differ(ratio: float) -> None:
    reference = samples(ratio, 1, ratio)
    value, part = worst_channel(reference, changed(reference, slice(1, 2), 1.1)) or (np.nan, "")
    assert value == pytest.approx(20, abs=0.5)
    assert part == "output y, channel 1"


def test_channels_of_like_scale_are_judged_together() -> None:
    reference = samples(20, 1, 10)
    assert worst_channel(reference, changed(reference, slice(1, 2), 0.0)) is None


def test_a_channel_of_zeros_needs_no_more_than_float32_can_give() -> None:
    reference = samples(1, 0)
    near = [(sample[0] + 1e-9,) for sample in reference]
    value, _ = worst_channel(reference, near) or (np.nan, "")
    assert value > 50


def test_a_few_numbers_tell_no_scale() -> None:
    reference = [(np.array([[100.0, 0.001]]),)]
    assert worst_channel(reference, [(np.array([[100.0, 0.5]]),)]) is None


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_parts_may_lie_along_any_axis(axis: int) -> None:
    shape = [1, 5, 5, 5]
    scale = np.ones(shape)
    index = [slice(None)] * 4
    index[axis] = slice(2, 3)
    scale[tuple(index)] = 1e-3
    reference = [(RANDOM.normal(size=shape) * scale,) for _ in range(3)]
    candidate = [(np.where(scale < 1, 0, sample[0]),) for sample in reference]
    value, part = worst_channel(reference, candidate) or (np.nan, "")
    assert value == pytest.approx(0, abs=0.5)
    assert part == ("output y, channel 2" if axis == 1 else f"output y, index of axis {axis} 2")


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, -1e9, -1e4])
def test_a_mask_hides_nothing_of_what_it_leaves(mask: float) -> None:
    def masked(outputs: Outputs) -> Outputs:
        return [(np.where(hidden, np.float32(mask), sample[0]).astype(np.float32),) for sample in outputs]

    hidden = np.zeros((1, 1, 20), bool)
    hidden[..., ::3] = True
    reference = samples(1)
    assert verdicts.sqnr_db(masked(reference), masked(reference)) == MAX_SQNR_DB
    assert verdicts.sqnr_db(masked(reference), masked(changed(reference, slice(None), 0.0))) == pytest.approx(0, abs=0.1)
    assert verdicts.sqnr_db(masked(reference), masked(changed(reference, slice(None), 1.01))) == pytest.approx(40, abs=0.1)
    assert verdicts.sqnr_db(masked(reference), reference) == -MAX_SQNR_DB


def test_a_mask_beyond_float16_may_be_infinity_in_an_artifact() -> None:
    reference = [(np.array([[1.0, 2.0, -3.4e38]], np.float32),)]
    for stand_in in (-np.inf, -65504.0, -3e4):
        assert verdicts.sqnr_db(reference, [(np.array([[1.0, 2.0, stand_in]], np.float32),)]) == MAX_SQNR_DB
    assert verdicts.sqnr_db(reference, [(np.array([[1.0, 2.0, -100.0]], np.float32),)]) == -MAX_SQNR_DB
    assert verdicts.sqnr_db(reference, [(np.array([[1.0, 2.0, 3.4e38]], np.float32),)]) == -MAX_SQNR_DB


def test_a_large_result_is_no_mask() -> None:
    reference = [(np.array([[20000.0, 0.5]]),)]
    assert verdicts.sqnr_db(reference, [(np.array([[19000.0, 0.5]]),)]) == pytest.approx(26, abs=0.1)


def test_classes_have_no_distance() -> None:
    reference = [(np.arange(100),)]
    wrong = reference[0][0].copy()
    wrong[:10] = 99
    assert verdicts.sqnr_db(reference, [(wrong,)]) == pytest.approx(10, abs=0.01)


def test_an_output_that_never_changes_is_named_with_what_its_model_does() -> None:
    reference = [(np.array([value]), np.array([value])) for value in (1.0, 2.0, 3.0)]
    candidate = [(np.array([2.0]), np.array([value])) for value in (1.0, 2.0, 3.0)]
    assert [name for name, _ in parts.constant(("a", "b"), reference, candidate)] == ["a"]
    still = [(np.array([5.0]), np.array([5.0]))] * 3
    assert list(parts.constant(("a", "b"), still, still)) == []


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=12), st.integers(0, 11), st.floats(0.5, 100))
def test_no_change_beyond_rounding_goes_unseen(values: list[float], index: int, change: float) -> None:
    reference = [(np.array([values]),)]
    candidate = [(np.array([values]),)]
    candidate[0][0][0, index % len(values)] += change * max(1.0, max(map(abs, values)))
    assert verdicts.sqnr_db(reference, candidate) < 20


def test_a_part_reads_well() -> None:
    assert str(Part("scores")) == "output scores"
    assert str(Part("scores", 1, 4, 6)) == "output scores, channel 4..6"


def test_a_rare_class_that_is_lost_is_named_though_nearly_all_elements_agree() -> None:
    reference = np.zeros((1, 64, 64), np.int64)
    reference[0, :4, :10] = 2
    reference[0, 32:, 32:] = 1
    candidate = np.where(reference == 2, 0, reference)
    candidate[0, 0, :8] = 2
    value, part = worst_channel([(reference,)], [(candidate,)]) or (np.nan, "")
    assert value == pytest.approx(10 * np.log10(40 / 32)) and part == "output y, class 2"
    assert verdicts.sqnr_db([(reference,)], [(candidate,)]) > 20


def test_a_class_of_a_few_elements_tells_nothing() -> None:
    reference = np.zeros((1, 64), np.int64)
    reference[0, :3] = 7
    assert (worst_channel([(reference,)], [(np.zeros_like(reference),)]) or (0,))[0] > 13


def test_rows_of_a_mask_are_not_judged_one_by_one() -> None:
    reference = np.zeros((1, 32, 32), bool)
    reference[0, 4:20] = True
    reference[0, 0, 0] = True
    candidate = reference.copy()
    candidate[0, 0, 0] = False
    _, part = worst_channel([(reference,)], [(candidate,)]) or (np.nan, "")
    assert part.startswith("output y, class ")


def test_images_of_integers_have_distances() -> None:
    reference = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    near = (reference ^ 1).astype(np.uint8)
    assert verdicts.sqnr_db([(reference,)], [(near,)]) > 40


def test_an_offset_does_not_hide_that_what_varies_is_lost() -> None:
    reference = [(1000 + RANDOM.normal(size=(1, 5)),) for _ in range(8)]
    near, lost = [(y[0] + 0.01,) for y in reference], [(np.round(y[0], -1),) for y in reference]
    assert verdicts.sqnr_db(reference, lost) > 40
    assert list(verdicts.drowned(("p",), reference, near)) == []
    (warning,) = verdicts.drowned(("p",), reference, lost)
    assert "output p" in warning
