"""A task that crashes, hangs, raises or is killed costs that task alone, and leaves nothing behind."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeopt.errors import (
    CalibrationError,
    ConversionError,
    MissingExtra,
    OutputError,
    UnknownName,
    WorkerCrashed,
    WorkerTimeout,
)
from edgeopt.worker.client import WorkerHost

CHORES = "tests.worker.chores:"
LIMIT_S = 60.0
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=["fork", "fresh"])
def host(request: pytest.FixtureRequest) -> Iterator[WorkerHost]:
    """Forked children and fresh interpreters must behave alike."""
    if request.param == "fork" and sys.platform != "linux":
        pytest.skip("forking is used on Linux only")
    with WorkerHost(preload=["wave", "no_such_module"], fork=request.param == "fork") as started:
        yield started


@pytest.fixture
def run(host: WorkerHost, tmp_path: Path) -> Run:
    def call(task: str, timeout_s: float = LIMIT_S, **request: Any) -> dict[str, Any]:
        return host.run(CHORES + task, request, timeout_s=timeout_s, log=tmp_path / "logs" / "task.log")

    return call


def gone(pid: int) -> bool:
    """Whether the process ends within a few seconds."""
    return until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def test_request_and_answer_go_through_as_they_are(run: Run) -> None:
    request = {"text": "é\n\x00", "numbers": [1, 2.5, -1e300], "nested": {"none": None, "true": True}, "big": "x" * 3_000_000}
    assert run("echo", **request) == request


def test_what_a_task_prints_goes_to_its_log_only(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("echo")
    log = (tmp_path / "logs" / "task.log").read_text()
    for line in ("to standard output", "to standard error", "from a program it started"):
        assert line in log
    assert capfd.readouterr() == ("", "")


def test_a_task_runs_in_a_session_of_its_own_without_the_terminal(run: Run) -> None:
    task = run("where")
    assert task["pid"] == task["group"] == task["session"] != os.getsid(0)
    assert task["parent"] != os.getpid()
    assert task["stdin"] == ""
    assert gone(task["pid"])


@pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
def test_preloaded_modules_are_there_in_a_forked_task(tmp_path: Path) -> None:
    with WorkerHost(preload=["wave"]) as host:
        assert host.run(CHORES + "where", {}, timeout_s=LIMIT_S, log=tmp_path / "log")["wave"]


@pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
def test_a_preload_that_starts_threads_turns_to_fresh_interpreters_and_says_so(tmp_path: Path) -> None:
    with WorkerHost(preload=["tests.worker.threaded", "wave"]) as host:
        task = host.run(CHORES + "where", {}, timeout_s=LIMIT_S, log=tmp_path / "log")
    assert not task["wave"]
    assert "importing tests.worker.threaded started 1 thread" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("task", "name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_in_native_code_names_the_signal(run: Run, task: str, name: str) -> None:
    with pytest.raises(WorkerCrashed, match=name):
        run(task)


def test_a_crash_shows_the_last_ten_lines_printed_and_where_the_rest_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        run("segfault")
    assert caught.value.why.splitlines()[-10:] == [f"line {number}" for number in range(2, 12)]
    assert str(tmp_path / "logs" / "task.log") in caught.value.fix
    assert "Segmentation fault" in (tmp_path / "logs" / "task.log").read_text(), "the log keeps the stack"


def test_an_exit_without_an_answer_is_a_crash_with_its_exit_code(run: Run) -> None:
    with pytest.raises(WorkerCrashed, match="exit code 3") as caught:
        run("leave", code=3)
    assert "about to leave" in caught.value.why


def test_a_kill_from_outside_points_to_memory(run: Run) -> None:
    with pytest.raises(WorkerCrashed, match="SIGKILL") as caught:
        run("killed")
    assert "memory" in caught.value.why
    assert "--jobs 1" in caught.value.fix


def test_a_hang_that_ignores_sigterm_is_stopped_after_the_time_limit(run: Run) -> None:
    with pytest.raises(WorkerTimeout, match=r"longer than 2\.5 s") as caught:
        run("hang", timeout_s=2.5)
    assert caught.value.why.endswith("still 99%"), "a progress bar's last state, without escape sequences"
    assert "--timeout" in caught.value.fix


def test_what_a_task_has_started_ends_with_it(run: Run, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashed):
        run("grandchild", die=True)
    assert gone(int((tmp_path / "logs" / "task.log").read_text().split()[-1]))


def test_what_a_task_has_started_is_stopped_with_it(host: WorkerHost, tmp_path: Path) -> None:
    with host.session(CHORES + "slow", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session:
        with pytest.raises(WorkerTimeout):
            session.call((np.zeros(1),), timeout_s=0.2)
        assert gone(int((tmp_path / "log").read_text().split()[-1]))


def test_an_edgeopt_error_comes_back_as_itself(run: Run) -> None:
    with pytest.raises(CalibrationError) as caught:
        run("known_error")
    assert (caught.value.what, caught.value.why, caught.value.fix) == ("what ", "why", "fix")


def test_an_edgeopt_error_of_an_unknown_class_is_a_crash_with_its_text(run: Run) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        run("unknown_error")
    assert (caught.value.what, caught.value.why, caught.value.fix) == ("what", "why", "fix")


def test_any_other_exception_is_a_conversion_error_with_type_message_and_last_lines(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        run("value_error")
    assert "ValueError: no such operator" in caught.value.why
    assert caught.value.why.endswith("converting layer 7")
    assert "Traceback" in (tmp_path / "logs" / "task.log").read_text()


def test_a_module_of_an_extra_that_is_missing_is_a_missing_extra(run: Run) -> None:
    with pytest.raises(MissingExtra) as caught:
        run("missing_module")
    assert caught.value.fix == "pip install 'edgeopt[onnx]'"


def test_a_library_that_calls_exit_fails_its_task(run: Run) -> None:
    with pytest.raises(ConversionError, match="SystemExit: a library calls exit"):
        run("exit_call")


def test_an_answer_that_is_not_json_fails_its_task(run: Run) -> None:
    with pytest.raises(ConversionError, match="not JSON serializable"):
        run("not_json")


def test_a_library_that_writes_into_the_connection_fails_its_task(run: Run) -> None:
    with pytest.raises(WorkerCrashed, match="wrote to edgeopt's connection"):
        run("garbage")


def test_a_missing_function_fails_its_task(run: Run) -> None:
    with pytest.raises(ConversionError, match="no_such_function"):
        run("no_such_function")


def test_other_tasks_go_on_while_one_crashes(run: Run) -> None:
    with ThreadPoolExecutor(4) as pool:
        crashes = [pool.submit(run, "segfault") for _ in range(3)]
        answers = [pool.submit(run, "echo", number=number) for number in range(3)]
        assert [answer.result()["number"] for answer in answers] == [0, 1, 2]
        assert all(isinstance(crash.exception(), WorkerCrashed) for crash in crashes)


def test_a_log_that_cannot_be_written_is_an_output_error(host: WorkerHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        host.run(CHORES + "echo", {}, timeout_s=LIMIT_S, log=tmp_path / "file" / "log")
    with pytest.raises(OutputError):
        host.run(CHORES + "echo", {}, timeout_s=LIMIT_S, log=tmp_path)


def test_names_come_from_the_table_and_an_unknown_one_lists_it(tmp_path: Path) -> None:
    with WorkerHost(tasks={"repeat": CHORES + "echo"}) as host:
        assert host.run("repeat", {"x": 1}, timeout_s=LIMIT_S, log=tmp_path / "log") == {"x": 1}
        with pytest.raises(UnknownName, match="repeat"):
            host.run("nothing", {}, timeout_s=LIMIT_S, log=tmp_path / "log")


def test_a_host_that_dies_fails_what_runs_and_is_replaced_for_the_next_task(tmp_path: Path) -> None:
    with WorkerHost() as host, ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, CHORES + "grandchild", {}, timeout_s=LIMIT_S, log=tmp_path / "log")
        assert until(lambda: (tmp_path / "log").exists() and "grandchild" in (tmp_path / "log").read_text())
        parent = psutil.Process(int((tmp_path / "log").read_text().split()[-1])).parents()[1]
        parent.kill()
        with pytest.raises(WorkerCrashed, match="the worker host was killed by SIGKILL"):
            running.result()
        assert gone(int((tmp_path / "log").read_text().split()[-1]))
        assert host.run(CHORES + "echo", {"x": 1}, timeout_s=LIMIT_S, log=tmp_path / "log") == {"x": 1}


def test_a_host_that_dies_idle_is_replaced_unnoticed(tmp_path: Path) -> None:
    with WorkerHost() as host:
        first = host.run(CHORES + "where", {}, timeout_s=LIMIT_S, log=tmp_path / "log")["parent"]
        psutil.Process(first).kill()
        assert host.run(CHORES + "where", {}, timeout_s=LIMIT_S, log=tmp_path / "log")["parent"] != first


@pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
def test_an_import_that_crashes_the_host_costs_only_the_tasks_that_need_it(tmp_path: Path) -> None:
    with WorkerHost(preload=["tests.worker.crasher"]) as host:
        assert host.run(CHORES + "echo", {"x": 1}, timeout_s=LIMIT_S, log=tmp_path / "log") == {"x": 1}
        assert "the worker host was killed by SIGSEGV" in (tmp_path / "log").read_text()
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            host.run("tests.worker.crasher:anything", {}, timeout_s=LIMIT_S, log=tmp_path / "log")


def test_close_ends_what_runs_in_other_threads_and_is_final(tmp_path: Path) -> None:
    host = WorkerHost()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, CHORES + "hang", {}, timeout_s=LIMIT_S, log=tmp_path / "log")
        assert until(lambda: (tmp_path / "log").exists() and "still" in (tmp_path / "log").read_text())
        host.close()
        with pytest.raises(WorkerCrashed, match="shutting down"):
            running.result()
    with pytest.raises(WorkerCrashed, match="shutting down"):
        host.run(CHORES + "echo", {}, timeout_s=LIMIT_S, log=tmp_path / "log")
    host.close()


def test_close_leaves_no_process_behind(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with WorkerHost() as host, host.session(CHORES + "own_pid", {}, timeout_s=LIMIT_S, log=tmp_path / "log"):
        assert len(set(psutil.Process().children(recursive=True)) - before) == 2
        host.close()
        assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
def test_an_import_that_hangs_costs_only_the_tasks_that_need_it(tmp_path: Path) -> None:
    with WorkerHost(preload=["tests.worker.sleeper"], start_timeout_s=5) as host:
        assert host.run(CHORES + "echo", {"x": 1}, timeout_s=LIMIT_S, log=tmp_path / "log") == {"x": 1}
        assert "was not ready within 5 s" in (tmp_path / "log").read_text()


def test_sessions_compute_arrays_and_survive_an_error(host: WorkerHost, tmp_path: Path) -> None:
    with host.session(CHORES + "double", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session:
        assert session.call((np.array(1.5, np.float16),))[0] == np.float16(3)
        with pytest.raises(ConversionError, match="empty batch"):
            session.call((np.zeros(0),))
        one, two = session.call((np.arange(3), np.ones((2, 2))))
        assert one.tolist() == [0, 2, 4]
        assert two.flags.writeable


def test_a_session_that_cannot_start_raises_at_once(host: WorkerHost, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError):
        host.session(CHORES + "known_error", {}, timeout_s=LIMIT_S, log=tmp_path / "log")


def test_a_session_call_has_a_limit_of_its_own(host: WorkerHost, tmp_path: Path) -> None:
    with host.session(CHORES + "slow", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session:
        with pytest.raises(WorkerTimeout):
            session.call((np.zeros(1),), timeout_s=0.3)
        with pytest.raises(WorkerCrashed):
            session.call((np.zeros(1),))


def test_a_session_that_crashes_in_a_call_names_the_signal(host: WorkerHost, tmp_path: Path) -> None:
    with (
        host.session(CHORES + "crash_on_call", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session,
        pytest.raises(WorkerCrashed, match="SIGSEGV"),
    ):
        session.call((np.zeros(1),))


def test_a_session_that_returns_no_arrays_is_told_so(host: WorkerHost, tmp_path: Path) -> None:
    with (
        host.session(CHORES + "returns_text", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session,
        pytest.raises(ConversionError, match="only arrays of numbers and booleans"),
    ):
        session.call((np.zeros(1),))


def test_a_session_s_process_ends_with_it(host: WorkerHost, tmp_path: Path) -> None:
    with host.session(CHORES + "own_pid", {}, timeout_s=LIMIT_S, log=tmp_path / "log") as session:
        pid = int(session.call(())[0])
        assert psutil.pid_exists(pid)
    assert gone(pid)


def test_large_arrays_stay_intact_in_four_sessions_at_once(host: WorkerHost, tmp_path: Path) -> None:
    def exchange(seed: int) -> bool:
        array = np.random.default_rng(seed).integers(0, 256, 30_000_000, dtype=np.uint8)
        with host.session(CHORES + "mirror", {}, timeout_s=LIMIT_S, log=tmp_path / f"{seed}.log") as session:
            return all(np.array_equal(session.call((array,))[0], array) for _ in range(2))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(exchange, range(4)))


def test_ctrl_c_while_waiting_stops_the_task(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "task.log"

    def press() -> None:
        until(lambda: log.exists() and "grandchild" in log.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run("grandchild")
    thread.join()
    assert gone(int(log.read_text().split()[-1]))
