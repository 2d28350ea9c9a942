"""What native benchmark tools print, recorded, broken and mad, as events."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeopt.devices.native import benchmark_model, perf_test
from edgeopt.devices.native.job import NativeJob
from edgeopt.devices.native.output import Event, Nonsense, clean_lines
from edgeopt.devices.transport import Finished

GOLDEN = Path(__file__).parents[1] / "golden"
TFLITE = NativeJob(format="tflite", tool="/data/local/tmp/benchmark_model", artifact="/store/a model.tflite")
ONNX = NativeJob(format="onnx", tool="/data/local/tmp/onnxruntime_perf_test", artifact="/store/a model.onnx")


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def finished(stdout: bytes, exit_code: int = 0, stderr: bytes = b"") -> Finished:
    return Finished(exit_code, stdout, stderr)


def by_name(events: list[Event]) -> dict[str, Event]:
    return {event["event"]: event for event in events}


def tflite(output: bytes, exit_code: int = 0, stderr: bytes = b"", **changes: Any) -> dict[str, Event]:
    return by_name(benchmark_model.events(finished(output, exit_code, stderr), replace(TFLITE, **changes)))


# --- benchmark_model: outputs --------------------------------------------------------------------------------------------


def test_a_run_with_percentiles() -> None:
    found = tflite(golden("benchmark_model.xnnpack.txt"))
    assert found["loaded"] == {"event": "loaded", "ns": 614_333_000, "threads": 4}
    assert found["first"]["ns"] == 905_463_000
    assert found["warm"] == {"event": "warm", "runs": 1, "ns": 905_463_000, "stable": None}
    assert found["summary"] == {
        "event": "summary",
        "count": 50,
        "first_ns": 900_416_000,
        "min_ns": 898_007_000,
        "max_ns": 906_121_000,
        "avg_ns": 899_641_000,
        "std_ns": 1_549_000,
        "p5_ns": 898_333_000,
        "median_ns": 899_281_000,
        "p95_ns": 904_305_000,
    }
    assert (found["placement"]["partitions"], found["placement"]["whole"]) == (1, False)
    assert found["placement"]["fallback"] is None, "the tool counts partitions, not operators"
    assert "error" not in found


def test_an_older_run_without_percentiles_and_prefixes() -> None:
    found = tflite(golden("benchmark_model.gpu.txt"), accelerator="gpu")
    assert found["summary"]["count"] == 50
    assert found["summary"]["median_ns"] is None
    assert found["warm"]["runs"] == 4
    assert (found["placement"]["delegate"], found["placement"]["fallback"]) == ("GPU", 0)


def test_a_run_from_the_log_of_an_app() -> None:
    found = tflite(golden("benchmark_model.logcat.txt"), accelerator="nnapi")
    assert found["summary"]["avg_ns"] == 12_167_600
    assert found["placement"]["partitions"] == 44


def test_operators_and_what_fell_back() -> None:
    found = tflite(golden("benchmark_model.operators.txt"), accelerator="nnapi", mode="operators")
    kinds = [(operator["kind"], operator["provider"], operator["mean_ns"]) for operator in found["operators"]["operators"]]
    assert kinds == [
        ("TfLiteNnapiDelegate", "delegate", 4_011_000),
        ("RESIZE_NEAREST_NEIGHBOR", "cpu", 58_000),
        ("TfLiteNnapiDelegate", "delegate", 2_396_000),
    ]
    assert found["operators"]["operators"][1]["name"] == "[up/resize, up/resize;2]:38"
    assert found["placement"]["operators"] == {"RESIZE_NEAREST_NEIGHBOR": 1}
    assert found["placement"]["fallback"] == 1


def test_operators_with_the_older_column_for_starts() -> None:
    table = golden("benchmark_model.operators.txt").replace(b"\t  [first]", b"\t  [start]\t  [first]")
    table = table.replace(b"\t    3.826", b"\t    0.000\t    3.826").replace(b"\t    0.052", b"\t    3.9\t    0.052")
    table = table.replace(b"\t    2.244", b"\t    4.0\t    2.244")
    found = tflite(table, mode="operators")
    assert [operator["mean_ns"] for operator in found["operators"]["operators"]] == [4_011_000, 58_000, 2_396_000]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n", b"\r\n"),
        (b"INFO: ", b""),
        (b"INFO: ", b"\x1b[1;32mINFO: \x1b[0m"),
        (b"INFO: count=50", b"\x00\xff\xfe\nINFO: count=50"),
        (b"avg=899641", b"avg=8.99641e+05"),
        (b"INFO: Initialized session", b"05-30 15:16:44.857  3380  3380 I tflite  : Initialized session"),
    ],
)
def test_how_a_version_or_a_terminal_writes_it_changes_nothing(old: bytes, new: bytes) -> None:
    output = golden("benchmark_model.xnnpack.txt")
    assert tflite(output.replace(old, new)) == tflite(output)


def test_a_single_run_has_only_its_own_time() -> None:
    output = b"Initialized session in 1.5ms.\ncount=1 curr=2000\n\ncount=1 curr=1.24027e+06\n"
    summary = tflite(output)["summary"]
    assert {summary[name] for name in ("first_ns", "min_ns", "max_ns", "avg_ns", "median_ns")} == {1_240_270_000}
    assert summary["std_ns"] is None


def test_no_warm_up_is_no_warm_event() -> None:
    found = tflite(b"count=0\ncount=2 first=10 curr=12 min=10 max=12 avg=11 std=1\n")
    assert "warm" not in found
    assert found["summary"]["count"] == 2


def test_a_tool_that_goes_on_without_the_delegate_has_measured_something_else() -> None:
    said = b"ERROR: Failed to load /x/libnpu.so: cannot open shared object file\n"
    output = golden("benchmark_model.xnnpack.txt").replace(b"Explicitly applied", b"")
    found = tflite(said + output, accelerator="delegate", delegate="/x/libnpu.so")
    assert found["error"]["kind"] == "delegate"
    assert "/x/libnpu.so: ERROR: Failed to load" in found["error"]["message"]
    assert "summary" not in found
    named = golden("benchmark_model.gpu.txt")
    assert tflite(named, accelerator="delegate", delegate="/x/libnpu.so")["placement"]["accelerator"] == "delegate"


def test_a_delegate_that_takes_nothing_is_told() -> None:
    said = b"INFO: Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
    found = tflite(said + golden("benchmark_model.xnnpack.txt").replace(b"Explicitly applied", b""), accelerator="nnapi")
    assert (found["placement"]["accelerated"], found["placement"]["partitions"]) == (0, 0)


@pytest.mark.parametrize(
    ("output", "exit_code", "stderr", "kind", "said"),
    [
        (b"Loaded model m\n", 1, b"ERROR: Disallowed CPU fallback detected.\nERROR: Benchmarking failed.\n", "fallback", "CPU"),
        (b"", 1, b"ERROR: Failed to load model m.tflite\n", "load", "Failed to load model"),
        (b"Initialized session in 3ms.\n", 1, b"ERROR: Benchmarking failed.\n", "run", "Benchmarking failed"),
        (b"Initialized session in 3ms.\ncount=1 curr=9\n", 137, b"", "memory", "killed"),
        (b"Initialized session in 3ms.\ncount=1 curr=9\n", 139, b"Segmentation fault", "run", "signal 11"),
        (b"", 127, b"env: benchmark_model: No such file or directory", "missing_runtime", "cannot be started"),
        (b"", 126, b"Exec format error", "missing_runtime", "another processor"),
        (
            b"",
            1,
            b'CANNOT LINK EXECUTABLE "benchmark_model": library "libc++_shared.so" not found',
            "missing_runtime",
            "libc++",
        ),
        (b"Initialized session in 3ms.\n", 1, b"write: No space left on device\n", "disk_full", "No space left"),
        (b"Initialized session in 3ms.\n", 0, b"", "run", "no word about why"),
        (b"count=1 curr=9\ncount=2 first=1 curr=2 min=nan max=3 avg=2\n", 0, b"", "bad_output", "nan"),
        (b"count=1 curr=9\ncount=2 first=1 curr=2 min=5 max=3 avg=4\n", 0, b"", "bad_output", "more than"),
        (b"count=1 curr=9\ncount=2 first=1 curr=2 min=1 max=3 avg=44\n", 0, b"", "bad_output", "mean"),
        (b"count=1 curr=9\ncount=2 first=1 curr=2 min=-1 max=3 avg=2\n", 0, b"", "bad_output", "-1"),
        (b"count=1 curr=9\ncount=2 curr=2\n", 0, b"", "bad_output", "without"),
        (b"count=1 curr=9\ncount=0\n", 0, b"", "bad_output", "no run"),
    ],
)
def test_a_run_without_a_result_says_why(output: bytes, exit_code: int, stderr: bytes, kind: str, said: str) -> None:
    found = benchmark_model.events(finished(output, exit_code, stderr), TFLITE)
    assert found[-1]["event"] == "error"
    assert found[-1]["kind"] == kind
    assert said in found[-1]["message"]
    assert "summary" not in by_name(found)


# --- onnxruntime_perf_test: outputs --------------------------------------------------------------------------------------


def test_an_android_run_with_its_samples() -> None:
    samples = perf_test.samples_in(b"resnet,0.0958204,271122432,11,0\nresnet,0.0995086,271122432,11,1\n")
    assert samples == [95_820_400, 99_508_600]
    job = replace(ONNX, warm_up_max_seconds=0)
    found = by_name(perf_test.events(finished(golden("onnxruntime_perf_test.android.txt")), samples, job))
    assert found["loaded"]["ns"] == 217_932_000
    assert found["first"] == {"event": "first", "ns": 196_000_000, "resolution_ns": 1_000_000}
    assert found["samples"] == {"event": "samples", "t_ns": 0, "ns": samples}
    assert found["memory"]["peak"] == 271_122_432
    assert found["placement"]["fallback"] == 0
    assert "summary" not in found


def test_without_a_result_file_the_summary_stands() -> None:
    found = by_name(perf_test.events(finished(golden("onnxruntime_perf_test.android.txt")), [], ONNX))
    assert found["summary"]["count"] == 5
    assert found["summary"]["avg_ns"] == 98_961_997
    assert (found["summary"]["min_ns"], found["summary"]["median_ns"]) == (95_820_400, 99_508_600)


def test_an_older_version_without_blanks_and_percentiles() -> None:
    found = by_name(perf_test.events(finished(golden("onnxruntime_perf_test.2020.txt")), [], ONNX))
    assert found["loaded"]["ns"] == 1_841_490_000
    assert found["summary"] == {"event": "summary", "count": 1, "avg_ns": 734_606_000, "std_ns": None}


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (b"", []),
        (b",0.001,1,2,0\n,0.002,1,2,1\n", [1_000_000, 2_000_000]),
        (b"a,b,c,0.001,1,2,0\r\n", [1_000_000]),
        (b"m,0.0009,0.001,1,2,0\nMin Latency: 0.001 s\nP50 Latency: 0.001 s\n", [1_000_000]),
        (b"m,1.85e-05,1,2,0\n", [18_500]),
    ],
)
def test_result_files_of_every_version_give_the_samples(result: bytes, wanted: list[int]) -> None:
    assert perf_test.samples_in(result) == wanted


@pytest.mark.parametrize("time", [b"nan", b"-1", b"inf", b"1e300", b"x", b""])
def test_times_that_cannot_be_are_no_samples(time: bytes) -> None:
    with pytest.raises(Nonsense):
        perf_test.samples_in(b"m," + time + b",1,2,0\n")


@pytest.mark.parametrize(
    ("exit_code", "stderr", "kind"),
    [
        (
            1,
            b"This session contains graph nodes ..., but fallback to CPU EP has been explicitly disabled by the user.",
            "fallback",
        ),
        (1, b"Exception: Load model from m.onnx failed: Protobuf parsing failed.", "load"),
        (127, b"", "missing_runtime"),
        (1, b"error while loading shared libraries: libonnxruntime.so.1: cannot open shared object file", "missing_runtime"),
    ],
)
def test_a_failed_session_says_why(exit_code: int, stderr: bytes, kind: str) -> None:
    found = perf_test.events(finished(b"", exit_code, stderr), [], ONNX)
    assert (found[-1]["event"], found[-1]["kind"]) == ("error", kind)


PROFILE = [
    {"cat": "Session", "name": "session_initialization", "dur": 10},
    *[
        {"cat": "Node", "name": f"{name}_kernel_time", "dur": 100 + run, "args": {"op_name": kind, "provider": provider}}
        for run in range(4)
        for name, kind, provider in (("c1", "Conv", "QNNExecutionProvider"), ("r1", "Resize", "CPUExecutionProvider"))
    ],
]


def test_a_profile_gives_operators_and_what_fell_back() -> None:
    found = perf_test.operators_in(json.dumps(PROFILE).encode(), 2, replace(ONNX, accelerator="qnn", mode="operators"))
    assert [(o["name"], o["kind"], o["mean_ns"]) for o in found[0]["operators"]] == [
        ("c1", "Conv", 102_500),
        ("r1", "Resize", 102_500),
    ]
    assert (found[1]["accelerated"], found[1]["fallback"], found[1]["operators"]) == (1, 1, {"Resize": 1})


@pytest.mark.parametrize(
    "profile",
    [b"", b"{", b"[]", b"3", b'{"a":1}', b"[1]", b"[" * 100_000, b'[{"cat":"Node","name":"x_kernel_time","dur":NaN}]'],
)
def test_a_broken_profile_is_an_error(profile: bytes) -> None:
    (found,) = perf_test.operators_in(profile, 2, ONNX)
    assert found["event"] == "error"


# --- any output ----------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *golden("benchmark_model.operators.txt").splitlines(keepends=True),
        *golden("benchmark_model.xnnpack.txt").splitlines(keepends=True),
        *golden("onnxruntime_perf_test.android.txt").splitlines(keepends=True),
        b"count=99999999999999999999 curr=1\n",
        b"count=3 first=1e400 curr=1 min=1 max=1 avg=1\n",
        b"count=7 curr=\n",
        b"\x1b]0;title\x07\x1b[",
        b"Initialized session in infms.\n",
        b"P50 Latency: nan s\n",
        b"Total inference requests: 0\n",
    ]
)


@given(st.one_of(st.binary(max_size=2000), st.lists(PIECES, max_size=60).map(b"".join)), st.sampled_from([0, 1, 137]))
@example(b"count=1 curr=1\n" * 2 + b"Operator-wise Profiling Info for Regular\n== Run Order ==\n\t[node type]\n\t1\t2\t3\n", 0)
def test_any_output_gives_events_that_json_can_hold(output: bytes, exit_code: int) -> None:
    done = finished(output, exit_code, output)
    for mode in ("measure", "operators"):
        for found in (
            benchmark_model.events(done, replace(TFLITE, mode=mode)),
            perf_test.events(done, [], replace(ONNX, mode=mode)),
        ):
            json.dumps(found, allow_nan=False)
            assert found[-1]["event"] == "error" or "summary" in by_name(found)
            assert all(event["message"].isprintable() for event in found if event["event"] == "error")


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300), st.integers(1, 100), st.sampled_from([0.0, 0.01, 8.0]))
def test_samples_are_neither_lost_nor_made_up(samples: list[int], min_runs: int, warm_up: float) -> None:
    job = replace(ONNX, min_runs=min_runs, warm_up_max_seconds=warm_up)
    found = perf_test.events(finished(golden("onnxruntime_perf_test.android.txt")), samples, job)
    given_back = [sample for event in found if event["event"] == "samples" for sample in event["ns"]]
    warm = sum(event["runs"] for event in found if event["event"] == "warm")
    assert given_back == samples[warm:] != []
    (phase,) = (event for event in found if event["event"] == "phase")
    assert (phase["runs"], phase["ns"]) == (len(given_back), sum(given_back))


@given(st.binary(max_size=500))
def test_any_result_file_is_read_or_refused(result: bytes) -> None:
    with contextlib.suppress(Nonsense):
        assert all(0 <= sample < math.inf for sample in perf_test.samples_in(result))


def test_a_hundred_megabytes_are_cut_off() -> None:
    assert len(clean_lines(b"x" * 100_000_000)[0]) <= 20_000
    assert benchmark_model.events(finished(b"\x1b[" * 50_000_000), TFLITE)[-1]["event"] == "error"
