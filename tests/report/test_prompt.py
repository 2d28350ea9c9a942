"""Questions at a real terminal: seen until they are answered, one at a time, and the terminal as it was, however it ends."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from edgeopt.devices.transport import asked_by
from edgeopt.errors import NotAuthorized
from edgeopt.report.prompt import ask
from tests.devices.runner.jobs import onnx_model

ASKS = """
import fcntl, sys, termios, threading, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from edgeopt import registry
from edgeopt.cli import app as cli
from edgeopt.errors import NotAuthorized

real = registry.transport

def transport(url, ask):
    if url == "local":
        return real(url, ask)
    answer = ask(f"password of {url}")
    raise NotAuthorized(f"{url} refuses {answer!r}", fix="give another one")

registry.transport = transport
sys.argv = ["edgeopt", *sys.argv[1:]]
cli.main()
"""


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._main, self._side = pty.openpty()
        clean = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ASKS, *arguments], stdin=self._side, stdout=self._side, stderr=self._side,
            start_new_session=True, cwd=folder, env={**clean, "TERM": "xterm", **environment},
        )  # fmt: skip
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self._side)

    @property
    def echo(self) -> bool:
        return bool(termios.tcgetattr(self._side)[3] & termios.ECHO)

    def read(self, seconds: float) -> bytes:
        """What is written in so long."""
        until, found = time.monotonic() + seconds, b""
        while (left := until - time.monotonic()) > 0 and select.select([self._main], [], [], left)[0]:
            found += os.read(self._main, 65536)
        self.shown += found
        return found

    def until(self, pattern: bytes) -> bytes:
        """What is written until ``pattern`` has come, which is where it ends."""
        start, found = time.monotonic(), b""
        while not re.search(pattern, found):
            assert time.monotonic() - start < 30 and self.process.poll() is None, found
            found += self.read(0.02)
        return found

    def type(self, text: bytes) -> None:
        os.write(self._main, text)

    def end(self) -> int:
        """Its exit code."""
        start = time.monotonic()
        while self.process.poll() is None:
            assert time.monotonic() - start < 10, self.shown
            self.read(0.02)
        self.read(0.1)
        return self.process.returncode


BENCH = ("bench", "relu.onnx", "--out", "runs", "--device", "ssh://one", "--device", "ssh://two")


@pytest.fixture(params=[{}, {"CI": "1"}], ids=["live lines", "plain lines"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    onnx_model(tmp_path / "relu.onnx")
    with Terminal(tmp_path, *BENCH, **request.param) as terminal:
        yield terminal


def test_a_question_stays_on_the_screen_until_it_is_answered_and_the_next_waits(bench: Terminal) -> None:
    first = bench.until(rb"password of ssh://(one|two): \Z")
    assert first.count(b"password of") == 1
    assert bench.read(1.0) == b"", "nothing is written over a question, nor behind it"
    assert not bench.echo
    bench.type(b"secret 1\n")
    second = bench.until(rb"password of ssh://(one|two): \Z")
    assert second.count(b"password of") == 1
    assert bench.read(0.5) == b""
    bench.type(b"secret 2\n")
    assert bench.end() == NotAuthorized.exit_code
    assert bench.echo
    assert b"refuses 'secret 1'" in bench.shown and b"refuses 'secret 2'" in bench.shown


@pytest.mark.parametrize(
    ("sent", "exit_code"), [(None, 130), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_whatever_ends_the_program_at_a_question_the_terminal_is_as_it_was(
    bench: Terminal, sent: signal.Signals | None, exit_code: int
) -> None:
    bench.until(rb"password of ssh://(one|two): \Z")
    assert not bench.echo
    start = time.monotonic()
    if sent is None:
        bench.type(b"\x03")
    else:
        bench.process.send_signal(sent)
    assert bench.end() == exit_code
    assert time.monotonic() - start < 5
    assert bench.echo
    assert bench.shown.count(b"password of") == 1, "who waited to ask no longer does"


@pytest.mark.parametrize("command", [("devices", "setup", "ssh://one"), ("devices", "clean", "ssh://one"), ("devices",)])
def test_every_command_gives_the_terminal_back(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "devices.toml").write_text('[pi]\nurl = "ssh://one"\n')
    with Terminal(tmp_path, *command) as terminal:
        terminal.until(rb"(\r\n|\A)(pi: )?password of ssh://one: \Z")
        assert not terminal.echo
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert terminal.echo


def test_an_input_that_ends_gives_no_secret(tmp_path: Path) -> None:
    with Terminal(tmp_path, "devices", "clean", "ssh://one") as terminal:
        terminal.until(rb"password of ssh://one: \Z")
        terminal.type(b"\x04")
        assert terminal.end() == NotAuthorized.exit_code
        assert b"nothing was given" in terminal.shown and terminal.echo


def test_what_is_typed_is_taken_as_it_is(tmp_path: Path) -> None:
    with Terminal(tmp_path, "devices", "clean", "ssh://one", LC_ALL="C.UTF-8") as terminal:
        terminal.until(rb"password of ssh://one: \Z")
        terminal.type(" päß  wörd ".encode() + b"\n")
        terminal.end()
        assert "refuses ' päß  wörd '".encode() in terminal.shown


def test_without_a_terminal_the_question_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing, pytest.raises(NotAuthorized, match="password of it") as refused:
        monkeypatch.setattr("sys.stdin", nothing)
        ask("password of it")
    assert refused.value.why == "there is no terminal to ask at"


def test_a_question_names_its_device_once() -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return ""

    asked_by("pi5", ask)("password of pi@10.0.0.5")
    asked_by("pi5", ask)("password of pi@pi5")
    asked_by("pi", ask)("password of root@pi-2")
    assert asked == ["pi5: password of pi@10.0.0.5", "password of pi@pi5", "pi: password of root@pi-2"]
