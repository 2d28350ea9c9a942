"""What becomes of a command whose streams are closed or full, as a shell gives them to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeopt import errors
from edgeopt.support import signals

RUN = f"{sys.executable} -m edgeopt.cli"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    own = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=folder, env=own, timeout=100)


@pytest.mark.parametrize("command", ["targets", "--help", "doctor", "targets arm-ort"])
def test_an_output_that_cannot_be_written_is_told_with_its_exit_code(command: str, tmp_path: Path) -> None:
    done = shell(f"{RUN} {command} > /dev/full", tmp_path)
    assert done.returncode == errors.OutputError.exit_code and "the disk is full" in done.stderr, done.stderr
    assert "completion" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_command_without_somebody_to_hear_it_does_its_work(streams: str, tmp_path: Path) -> None:
    done = shell(f"{RUN} devices add pi ssh://pi@pi {streams}", tmp_path)
    assert (done.returncode, (tmp_path / "edgeopt" / "devices.toml").exists()) == (0, True), done.stderr


def test_a_reader_that_has_gone_ends_it_quietly(tmp_path: Path) -> None:
    done = shell(f"{RUN} targets | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_a_wrong_command_has_its_usual_end(tmp_path: Path) -> None:
    done = shell(f"{RUN} tragets", tmp_path)
    assert done.returncode == 2 and "No such command" in done.stderr


def test_ctrl_c_while_the_prompt_is_being_imported_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgeopt.report.prompt", ModuleType("half of it"))
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        signals._end(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_anything_has_begun_ends_it_without_a_word(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, sys

class Sends:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Sends())
sys.argv = ["edgeopt", "targets"]
from edgeopt.cli.entry import main
main()
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("then", ["raise AttributeError('half imported')", "pass"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_a_library_swallows_has_its_exit_code_all_the_same(
    number: signal.Signals, then: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, typer
from edgeopt.cli import endings
from edgeopt.support import signals

def command():
    with endings.reported(debug=False):
        try:
            os.kill(os.getpid(), {int(number)})
        except BaseException:
            pass
        {then}

signals.heed()
typer.run(command)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 128 + number and "unexpected" not in done.stderr, done.stderr
