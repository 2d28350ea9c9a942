"""What a run prints, honest, cut off and hostile, as launches and errors."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeopt.bench import events
from edgeopt.bench.events import MissingRuntime, Reader
from edgeopt.bench.types import BenchResult, Launch, Measurement, Subject
from edgeopt.core import from_json, to_json
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, FellBack, RunFailed

NAMES = (
    "runtime", "loaded", "first", "warm", "samples", "sustained", "memory", "placement", "environment", "summary", "outputs",
    "prediction", "operators", "error", "end", "phase", "unheard of",
)  # fmt: skip
FIELDS = (
    "event", "ns", "import_ns", "runs", "stable", "t_ns", "ns_total", "peak", "growth", "overall", "files", "same_at_end",
    "not_finite", "sample", "outputs", "operators", "kind", "message", "name", "provider", "mean_ns", "count", "avg_ns",
)  # fmt: skip
HOSTILE = ("\x1b]0;title\x07\x1b[2J", "\ud800", "../../etc/passwd", "x" * 100_000, "")
scalars = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**20, -(10**400), 2**63, 0, 1]) | st.floats()
    | st.text(max_size=20) | st.sampled_from(HOSTILE)
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner), max_leaves=9
)
hostile_events = st.dictionaries(st.sampled_from(FIELDS), values).flatmap(
    lambda fields: st.sampled_from(NAMES).map(lambda name: fields | {"event": name})
)
hostile_lines = st.text(max_size=60) | hostile_events.map(json.dumps) | values.map(json.dumps)


def said(*found: dict[str, Any]) -> Reader:
    reader = Reader("m.onnx on pi5", "pi5")
    for one in found:
        reader.feed(json.dumps(one))
    return reader


def one(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, **fields}


def through_json(launch: Launch) -> Launch:
    subject = Subject(path="m", target="t", format="onnx", sha256="", bytes=1)
    result = BenchResult(
        subject=subject, threads=1, accelerator="cpu", status="ok", measurement=Measurement(launches=(launch,))
    )
    back = from_json(BenchResult, to_json(result))
    assert back.measurement is not None
    return back.measurement.launches[0]


# --- honest runs ---------------------------------------------------------------------------------------------------------


def test_a_whole_run_becomes_a_launch() -> None:
    reader = said(
        one("runtime", name="onnxruntime", versions={"onnxruntime": "1.24"}),
        one("environment", t_ns=0, workload_ns=5),
        one("loaded", import_ns=7, ns=8), one("first", ns=9), one("warm", runs=40, ns=100, stable=True),
        one("samples", t_ns=0, ns=[10, 11]), one("samples", t_ns=21, ns=[12]),
        one("sustained", t_ns=5, runs=4, ns_total=100, ns=[25]),
        one("memory", peak=1000, growth=12.5, series=[1, 2]),
        one("outputs", files=[{"file": "0.bin"}], same_at_end=True, not_finite=0),
        one("placement", fallback=0), one("end"),
    )  # fmt: skip
    reader.finish(0, "")
    launch = reader.launch
    assert (launch.import_ns, launch.load_ns, launch.first_ns, launch.samples_ns) == (7, 8, 9, (10, 11, 12))
    assert (launch.warm_up_runs, launch.warm_up_ns, launch.warm) == (40, 100, True)
    assert (launch.sustained[0].mean_ns, launch.peak_bytes, launch.growth_bytes) == (25.0, 1000, 12.5)
    assert (launch.same_outputs, launch.not_finite, launch.placement) == (True, 0, {"fallback": 0})
    assert launch.runtime == {"name": "onnxruntime", "versions": {"onnxruntime": "1.24"}}
    assert reader.outputs == [{"file": "0.bin"}]
    assert through_json(launch) == launch


def test_what_is_no_event_is_passed_over() -> None:
    reader = said(one("samples", ns=[1]))
    for line in ("", "INFO: Created TensorFlow Lite XNNPACK delegate", "[1, 2]", '"text"', '{"event": "unheard of"}', "{}"):
        reader.feed(line)
    reader.feed(json.dumps(one("end")))
    reader.finish(0, "")
    assert reader.launch.samples_ns == (1,)


def test_operators_and_predictions_come_in_their_order() -> None:
    operator = {"kind": "Conv", "name": "conv1", "provider": "CPU", "mean_ns": 12.5, "runs": 50}
    reader = said(
        one("operators", operators=[operator]), one("prediction", sample=0, outputs=[{"file": "a"}]),
        one("prediction", sample=1, outputs=[]), one("end"),
    )  # fmt: skip
    reader.finish(0, "")
    assert (reader.operators[0].kind, reader.operators[0].mean_ns) == ("Conv", 12.5)
    assert reader.predictions == [[{"file": "a"}], []]
    with pytest.raises(BadAnswer, match="makes no sense"):
        said(one("prediction", sample=1, outputs=[])).finish(0, "")


# --- runs that end before their time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (137, "was killed"),
        (139, "signal 11"),
        (132, "signal 4"),
        (1, "exit code 1"),
        (255, "exit code 255"),
        (0, "exit code 0"),
    ],
)
def test_a_run_that_was_cut_off_keeps_its_samples(exit_code: int, words: str) -> None:
    reader = said(one("loaded", ns=5), one("samples", ns=[10, 11]))
    with pytest.raises(RunFailed, match=words) as failure:
        reader.finish(exit_code, "the last words\n")
    assert failure.value.why.endswith("the last words")
    assert failure.value.fix
    assert reader.launch.samples_ns == (10, 11)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing_runtime", MissingRuntime), ("no_accelerator", MissingRuntime), ("fallback", FellBack),
        ("memory", RunFailed), ("load", RunFailed), ("disk_full", DeviceFull), ("read_only", DeviceError), ("run", RunFailed),
        ("bad_job", RunFailed), ("bad_output", BadAnswer), ("no such kind", RunFailed),
    ],
)  # fmt: skip
def test_each_kind_of_error_is_an_error_of_its_own(kind: str, error: type[DeviceError]) -> None:
    reader = said(one("samples", ns=[3]), one("error", kind=kind, message="because"))
    with pytest.raises(DeviceError) as failure:
        reader.finish(1, "")
    assert (type(failure.value), failure.value.why) == (error, "because")
    assert failure.value.fix
    assert reader.launch.samples_ns == (3,)


def test_a_complete_run_that_then_crashes_is_a_failure() -> None:
    with pytest.raises(RunFailed, match="signal 11"):
        said(one("end")).finish(139, "")


# --- devices that lie ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "samples", "ns": [NaN]}',
        '{"event": "samples", "ns": [1e999]}',
        '{"event": "samples", "ns": [0]}',
        '{"event": "samples", "ns": [-5]}',
        '{"event": "samples", "ns": [true]}',
        '{"event": "samples", "ns": ["7"]}',
        '{"event": "samples", "ns": [1.5]}',
        '{"event": "samples", "ns": 5}',
        '{"event": "samples"}',
        '{"event": "samples", "ns": [' + "9" * 30 + "]}",
        '{"event": "samples", "ns": [' + "9" * 5000 + "]}",
        '{"event": "loaded", "ns": -1}',
        '{"event": "first", "ns": "soon"}',
        '{"event": "sustained", "t_ns": 0, "runs": 0, "ns_total": 5}',
        '{"event": "memory", "peak": -1}',
        '{"event": "memory", "growth": 1e999}',
        '{"event": "summary", "avg_ns": 1e999}',
        '{"event": "summary", "avg_ns": ' + "9" * 400 + "}",
        '{"event": "outputs", "files": [1]}',
        '{"event": "operators", "operators": [{"mean_ns": "fast"}]}',
        '{"event": "samples", "ns": [1',
        "{" * 100_000,
        '{"event": ' + "[" * 100_000,
    ],
)
def test_an_event_that_cannot_be_is_a_bad_answer(line: str) -> None:
    reader = said(one("samples", ns=[3]))
    reader.feed(line)
    reader.feed(json.dumps(one("samples", ns=[4])))
    with pytest.raises(BadAnswer, match="makes no sense"):
        reader.finish(0, "")
    assert reader.launch.samples_ns == (3,), "what came before is kept, what comes after is not trusted"


@given(st.lists(hostile_lines, max_size=8), st.integers(-200, 300), st.text(max_size=50))
@example([json.dumps(one("runtime", name="\ud800", versions={"\udfff": ["\ud800"]}))], 0, "")
@example(['{"event": "placement", "x": 1e999, "y": ' + "9" * 400 + "}"], 0, "")
@example([json.dumps(one("error", kind="run", message="\ud800"))], 1, "")
def test_whatever_is_printed_ends_in_a_launch_that_can_be_kept(lines: list[str], exit_code: int, stderr: str) -> None:
    reader = Reader("m.onnx on pi5", "pi5")
    for line in lines:
        reader.feed(line)
    try:
        reader.finish(exit_code, stderr)
    except DeviceError as error:
        error.message().encode()
    assert through_json(reader.launch) == reader.launch


@given(hostile_events)
def test_whatever_event_a_native_tool_makes_ends_in_a_launch_that_can_be_kept(event: dict[str, Any]) -> None:
    reader = Reader("m.tflite on pixel8", "pixel8")
    reader.take(event)
    with contextlib.suppress(DeviceError):
        reader.finish(0, "")
    assert through_json(reader.launch) == reader.launch


def test_a_flood_of_samples_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_SAMPLES", 1000)
    reader = Reader("m", "pi5")
    for _ in range(50):
        reader.feed(json.dumps(one("samples", ns=[5] * 100)))
    assert len(reader.launch.samples_ns) == 1000
    with pytest.raises(BadAnswer):
        reader.finish(0, "")


def test_many_small_chunks_take_no_longer_than_few_large_ones() -> None:
    reader = said(*[one("samples", ns=[5])] * 100_000)
    assert len(reader.launch.samples_ns) == 100_000


def test_deep_and_wide_facts_are_cut() -> None:
    deep: Any = "x" * 10_000
    for _ in range(50):
        deep = [deep]
    reader = said(one("placement", deep=deep, wide=list(range(100_000)), text="y" * 10_000), one("end"))
    reader.finish(0, "")
    placement = reader.launch.placement
    assert placement["deep"] == [[[[]]]]
    assert (len(placement["wide"]), len(placement["text"])) == (events.MAX_ENTRIES, events.MAX_TEXT)


def test_a_long_sustained_phase_is_kept_whole() -> None:
    reader = said(*(one("sustained", t_ns=number * 10**9, runs=1, ns_total=10) for number in range(7200)))
    assert len(reader.launch.sustained) == 7200


def test_setup_is_not_the_next_step_for_a_runtime_that_is_there_without_the_accelerator() -> None:
    with pytest.raises(MissingRuntime) as failure:
        said(one("error", kind="no_accelerator", message="only CPUExecutionProvider")).finish(1, "")
    assert "setup" not in failure.value.fix and "--accelerator" in failure.value.fix and "accelerator" in failure.value.what
