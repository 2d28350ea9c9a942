"""However the main process ends, no worker outlives it."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.worker.test_worker import gone, until

ROOT = Path(__file__).parents[2]

SCRIPT = """
    import contextlib, os, sys, threading, time
    from pathlib import Path
    from edgeopt.errors import WorkerCrashed
    from edgeopt.worker.client import WorkerHost

    def work(number):
        with contextlib.suppress(WorkerCrashed):  # what the thread is told when the host closes, if it still gets to hear it
            host.run("tests.worker.chores:grandchild", {{}}, timeout_s=600, log=Path(sys.argv[1]) / str(number))

    host = WorkerHost(preload={preload})
    host.start()
    for number in range(2):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    {then}
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    yield {**os.environ, "PYTHONPATH": str(ROOT)}


def start(tmp_path: Path, environment: dict[str, str], *, preload: str = "[]", then: str = "") -> subprocess.Popen[str]:
    code = textwrap.dedent(SCRIPT).format(preload=preload, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def descendants(main: subprocess.Popen[str], tmp_path: Path) -> list[int]:
    """Host, two tasks and what each of them started."""
    assert until(lambda: sum("grandchild" in log.read_text() for log in tmp_path.iterdir()) == 2, 60)
    found = [process.pid for process in psutil.Process(main.pid).children(recursive=True)]
    assert len(found) == 5
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_main_process_ends_every_worker(tmp_path: Path, environment: dict[str, str], signum: int) -> None:
    with start(tmp_path, environment, then="time.sleep(600)") as main:
        workers = descendants(main, tmp_path)
        main.send_signal(signum)
        main.wait(30)
        assert all(gone(pid) for pid in workers)


def test_the_end_of_the_script_ends_every_worker_without_a_word(tmp_path: Path, environment: dict[str, str]) -> None:
    then = "while sum(log.stat().st_size > 0 for log in Path(sys.argv[1]).iterdir()) < 2: time.sleep(0.05)"
    with start(tmp_path, environment, then=then) as main:
        main.wait(30)
        assert main.stderr is not None
        assert main.stderr.read() == ""
    for log in tmp_path.iterdir():
        assert gone(int(log.read_text().split()[-1]))


def test_the_main_process_may_die_while_the_host_still_imports(tmp_path: Path, environment: dict[str, str]) -> None:
    with start(tmp_path, environment, preload='["tests.worker.sleeper"]', then="time.sleep(600)") as main:
        assert until(lambda: bool(psutil.Process(main.pid).children()))
        host = psutil.Process(main.pid).children()[0]
        assert until(lambda: "edgeopt.worker.host" in " ".join(host.cmdline()))
        main.kill()
        main.wait(30)
        assert gone(host.pid)


def test_a_fork_of_the_main_process_that_exits_leaves_the_host_alone(tmp_path: Path, environment: dict[str, str]) -> None:
    then = """
    if (pid := os.fork()) == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
    print(host.run("tests.worker.chores:echo", {}, timeout_s=60, log=Path(sys.argv[1]) / "after"), file=sys.stderr)
    """
    code = SCRIPT.replace("range(2)", "range(0)")
    script = textwrap.dedent(code).format(preload="[]", then=textwrap.dedent(then))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "{}\n"
