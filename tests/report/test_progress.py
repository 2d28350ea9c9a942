import os
import pty
import subprocess
import sys

import pytest

from edgeopt.report.progress import paused, progress
from edgeopt.support.progress import Event

CODE = """
from edgeopt.support.progress import Event
from edgeopt.report.progress import progress
with progress() as listen:
    listen(Event(subject="a/onnx", phase="convert", detail="[bold]x\\x1b[31m", fraction=0.5))
    listen(Event(subject="a/onnx", phase="failed", detail="why"))
    listen(Event(subject="b/onnx", phase="done"))
"""


def test_a_log_gets_one_plain_line_per_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listen:
        listen(Event(subject="model", phase="calibrate", fraction=0.1))
        listen(Event(subject="model", phase="calibrate", fraction=0.2))
        listen(Event(subject="a/onnx", phase="convert", detail="with \x1b[31mred\nand more"))
    shown = capsys.readouterr()
    lines = [line.partition("] ")[2] for line in shown.err.splitlines()]
    assert lines == ["model: calibrate", r"a/onnx: convert, with \x1b[31mred"]
    assert shown.out == ""


def test_a_name_with_line_breaks_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle may come from anywhere, and a line of a log may be a command to who reads it (``::add-mask::``)."""
    with progress() as listen:
        listen(Event(subject="x\n::add-mask::a\r\n[   9.9 s] local: done\t", phase="convert", detail="a\nb"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("[ 9.9 s] local: done: convert, a") and "\r" not in line


def in_terminal(**environment: str) -> str:
    """What CODE writes to a terminal."""
    main, side = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR")}
    run = subprocess.Popen([sys.executable, "-c", CODE], stderr=side, env={**clean, "TERM": "xterm", **environment})
    os.close(side)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # Linux says so when the other side has closed
        pass
    finally:
        os.close(main)
    assert run.wait() == 0
    return shown.decode()


def test_a_terminal_gets_live_lines_with_outcomes() -> None:
    shown = in_terminal()
    assert "✗" in shown
    assert "✓" in shown
    assert "\x1b[31m\x1b" not in shown


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR"])
def test_a_terminal_gets_plain_lines_where_that_is_asked_for(variable: str) -> None:
    shown = in_terminal(**{variable: "1"})
    assert "a/onnx: failed, why" in shown
    assert "\x1b" not in shown


def test_a_log_says_each_launch_and_each_pause(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listen:
        for detail in ("launch 1 of 2", "throttled (thermal status 3): waiting 15 s", "launch 2 of 2", "launch 2 of 2"):
            listen(Event(subject="pi: a/onnx x1", phase="measure", detail=detail))
    lines = [line.partition("measure, ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["launch 1 of 2", "throttled (thermal status 3): waiting 15 s", "launch 2 of 2"]


def test_while_progress_is_paused_nothing_is_written_and_afterwards_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listen:
        with paused():
            listen(Event(subject="pi", phase="connect"))
            assert capsys.readouterr().err == ""
        listen(Event(subject="pi", phase="done"))
    assert [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()] == ["pi: connect", "pi: done"]
    with paused():
        pass
