from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt.capture import capture
from edgeopt.core import TWIN, RefusedScheme
from edgeopt.errors import ConversionError
from edgeopt.model.model import Model
from edgeopt.pipeline import program as programs
from edgeopt.pipeline.jobs import DENSE, Job, float_io, jobs_of
from edgeopt.pipeline.plan import Chosen, chosen
from edgeopt.pipeline.program import Programs
from edgeopt.quantize.calibrate import calibrate
from edgeopt.quantize.shares import Shares
from edgeopt.targets import loader
from tests.quantize.networks import Convolutional

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def job(target: str, io_float: bool = False) -> Job:
    return jobs_of([loader.load(target)], io_float)[0]


def test_the_twins_come_first_and_every_format_is_a_job() -> None:
    found = jobs_of([loader.load(name) for name in ("x86-fbgemm", TWIN, "apple-ane")], io_float=False)
    assert [one.name for one in found] == [f"{TWIN}/onnx", f"{TWIN}/tflite", "x86-fbgemm/onnx", "apple-ane/coreml"]


def test_floats_are_given_where_they_are_the_default_or_can_be_chosen() -> None:
    assert float_io(loader.load("x86-fbgemm"), wanted=False)
    assert not float_io(loader.load("arm-xnnpack"), wanted=False)
    assert float_io(loader.load("arm-xnnpack"), wanted=True)


def test_jobs_share_a_conversion_only_where_all_that_shapes_the_bytes_is_equal() -> None:
    assert job("arm-xnnpack").conversion() == job("android-nnapi").conversion()
    assert job("arm-xnnpack").conversion() != job("arm-xnnpack", io_float=True).conversion()
    assert job("x86-fbgemm").conversion() != job("x86-fbgemm-avx2").conversion()


def test_jobs_with_the_same_bytes_and_other_checks_may_end_in_other_schemes() -> None:
    first = job("apple-ane-palettized")
    strict = replace(first, profile=replace(first.profile, checks=replace(first.profile.checks, float_sqnr_db=30.0)))
    assert strict.conversion() == first.conversion() and strict.alternatives != first.alternatives
    last = first.profile.schemes[-1]
    assert replace(first, scheme=last).alternatives == replace(strict, scheme=last).alternatives == ()


def test_a_refused_scheme_is_followed_by_the_profile_s_next_until_there_is_none() -> None:
    first = job("apple-ane")
    second = first.fallback("lstm is not there")
    assert second is not None
    assert second.scheme == first.profile.schemes[1]
    assert second.refused == (RefusedScheme(scheme=first.scheme, reason="lstm is not there"),)
    assert job("x86-fbgemm").fallback("no") is None


def test_what_is_pruned_waits_for_the_data_whatever_its_scheme() -> None:
    sparse, twin = loader.load("nvidia-sparse24"), loader.load(TWIN)
    in_floats = replace(sparse, name="sparse-fp32", schemes=twin.schemes)
    assert [one.needs_data for one in jobs_of([twin, sparse, in_floats], io_float=False)] == [False, False, True, True]


@pytest.fixture
def made(tmp_path: Path) -> Programs:
    captured = capture(Model(Convolutional(), torch.randn(1, 3, 8, 8)))
    found = Programs(captured, tmp_path)
    module = captured.program.module(check_guards=False)
    found.calibrated(calibrate({DENSE: module}, captured.signature, captured.example, None))
    return found


def test_float_jobs_share_one_saved_program_and_integer_ones_have_their_own(made: Programs) -> None:
    twins = [made.saved(one)[0] for one in jobs_of([loader.load(TWIN)], io_float=False)]
    quantized, found = made.saved(job("arm-xnnpack"))
    assert twins[0] == twins[1] != quantized
    assert found == Chosen(decisions=found.decisions, shares=Shares(1.0, 1.0), float_macs=0.0)
    program = torch.export.load(quantized)
    assert [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"] == ["image"]


def test_of_a_target_with_two_formats_each_gets_the_weights_as_it_folds_them(made: Programs) -> None:
    both = replace(loader.load("arm-xnnpack"), formats=("onnx", "tflite"))
    stored = {}
    for one in jobs_of([both], io_float=True):
        program = torch.export.load(made.saved(one)[0])
        stored[one.format] = {value.dtype for value in (*program.state_dict.values(), *program.constants.values())}
    assert torch.int8 in stored["onnx"] and torch.int8 not in stored["tflite"]


@pytest.mark.parametrize("target", ["apple-ane-palettized", "apple-ane-w8"])
def test_the_plan_of_a_target_that_quantizes_weights_alone_says_what_stays_float(made: Programs, target: str) -> None:
    module = made.captured.program.module(check_guards=False)
    found = chosen(job(target), made.captured, module, {})
    assert found == made.saved(job(target))[1]
    assert found.kept_float and all("below 2,048" in each.reason for each in found.kept_float)
    assert chosen(job("apple-ane-fp16"), made.captured, module, {}) == Chosen()


def test_what_quantization_raises_costs_one_job_only(made: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise AssertionError("a pattern nobody thought of")

    with monkeypatch.context() as patch:
        patch.setattr(programs, "quantize", broken)
        with pytest.raises(ConversionError, match="x86-fbgemm/onnx cannot be quantized") as caught:
            made.saved(job("x86-fbgemm"))
    assert "a pattern nobody thought of" in caught.value.why
    assert made.saved(job("arm-xnnpack"))[0].exists()


def test_what_is_promised_is_made_ahead_and_once(made: Programs) -> None:
    wanted = job("arm-xnnpack")
    with ThreadPoolExecutor(max_workers=1) as ahead:
        made.promise(wanted, ahead)
    assert [path.name for path in made.folder.iterdir()] == ["program_1.pt2"]
    assert made.saved(wanted)[0].name == "program_1.pt2"
    assert made.saved(wanted)[0].name == "program_2.pt2", "a promise is kept once: what is asked for again is made again"


def test_a_promise_that_cannot_be_kept_raises_what_making_it_raised(made: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("no such range")

    monkeypatch.setattr(programs, "quantize", refused)
    with ThreadPoolExecutor(max_workers=1) as ahead:
        made.promise(job("arm-xnnpack"), ahead)
    with pytest.raises(ConversionError, match="cannot be quantized"):
        made.saved(job("arm-xnnpack"))


def test_no_program_is_made_while_the_model_runs(made: Programs) -> None:
    with ThreadPoolExecutor(max_workers=1) as ahead:
        with made.turn():
            waiting = ahead.submit(made.saved, job("arm-xnnpack"))
            assert not wait([waiting], timeout=0.5).done
        assert waiting.result()[0].exists()
