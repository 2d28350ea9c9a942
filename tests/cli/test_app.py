import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeopt import __version__, errors
from edgeopt.cli import app as cli
from edgeopt.cli import endings
from edgeopt.cli.app import app
from edgeopt.cli.endings import exit_code_for
from tests.report.samples import manifest, result

ROOT = Path(__file__).parents[2]
RUN = CliRunner()


def edgeopt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeopt.cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build(): return nn.Linear(4, 2)\ndef wrong(): raise KeyError('x')"
    )
    return f"{tmp_path}/net.py"


def test_help_names_every_command() -> None:
    said = RUN.invoke(app, ["--help"]).output
    assert all(command in said for command in ("init", "export", "plan", "targets", "doctor", "--version"))


def test_no_command_shows_the_help() -> None:
    assert "Usage:" in RUN.invoke(app, []).output


def test_export_and_plan_take_the_same_arguments() -> None:
    def options(command: str) -> set[str]:
        return set(re.findall(r"--[a-z-]+", RUN.invoke(app, [command, "--help"]).output))

    assert options("plan") - options("export") == {"--verbose"}
    assert options("export") <= options("plan")


def test_version() -> None:
    assert RUN.invoke(app, ["--version"]).output == f"edgeopt {__version__}\n"


def test_the_readme_s_options_and_commands_are_real() -> None:
    readme = (ROOT / "README.md").read_text()
    alone = ("init", "export", "plan", "blame", "targets", "doctor", "advise", "compress", "bench", "devices")
    commands = [[], *([name] for name in alone), *(["devices", name] for name in ("add", "setup", "clean"))]
    known = "".join(RUN.invoke(app, [*command, "--help"]).output for command in commands)
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme))
    assert said <= set(re.findall(r"--[a-z][a-z-]+", known))
    assert set(re.findall(r"^ {4}edgeopt ([a-z]+)", readme, re.MULTILINE)) <= set(alone)


def test_targets_are_listed_and_one_is_shown_with_its_sources() -> None:
    assert "android-litert-gpu" in RUN.invoke(app, ["targets"]).output
    said = RUN.invoke(app, ["targets", "arm-xnnpack"]).output
    assert "io.float_type = int8" in said
    assert "source:" in said


def test_doctor_tells_what_is_there() -> None:
    done = RUN.invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "torchao" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export"], 2, "no model is given"),
        (["export", "{net}:build", "--input", "4y4"], 2, "write it as 1x3x224x224:float32"),
        (["export", "{net}:build", "--max-drop", "nan"], 2, "--max-drop does not fit"),
        (["export", "{net}:build", "--input", "1x4", "--max-drop", "0.1"], 2, "add --evaluate"),
        (["export", "{net}:build", "--max-size", "4"], 2, "'4' is not a size"),
        (["export", "{net}:build", "--max-slice-drop", "-1"], 2, "--max-slice-drop does not fit"),
        (["export", "{net}:build", "--input", "1x4", "--max-slice-drop", "0.1"], 2, "--max-slice-drop has nothing to judge"),
        (["export", "{net}:build", "--no-such-option"], 2, "No such option"),
        (["export", "--config", "{net}.toml"], 3, "there is no configuration file"),
        (["plan", "{net}:build", "--target", "arm-xnpack"], 4, "arm-xnnpack"),
        (["targets", "arm-xnpack"], 4, "arm-xnnpack"),
        (["export", "{net}:wrong"], 10, "line 3"),
        (["export", "{net}:biuld"], 11, "did you mean 'build'"),
        (["export", "{net}:build"], 12, "pass --input"),
        (["export", "{net}:build", "--input", "1x4", "--calibration", "{net}:nothing"], 11, "has no 'nothing'"),
    ],
)
def test_bad_input_gives_one_message_and_its_own_exit_code(net: str, arguments: list[str], code: int, said: str) -> None:
    done = RUN.invoke(app, [argument.format(net=net) for argument in arguments])
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["export", "net.py:build", "--calibration", ""], "--calibration"),
        (["export", "net.py:build", "--evaluate="], "--evaluate"),
        (["bench", "build/net", "--out", ""], "--out"),
        (["compress", "--recipe", ""], "--recipe"),
        (["devices", "clean", ""], "an argument"),
        (["plan", ""], "an argument"),
    ],
)
def test_what_a_script_s_unset_variable_leaves_is_refused(net: str, arguments: list[str], named: str) -> None:
    done = RUN.invoke(app, arguments)
    assert done.exit_code == errors.UsageError.exit_code and f"{named} is empty" in done.stderr and not done.stdout


def test_debug_shows_the_traceback(net: str) -> None:
    done = RUN.invoke(app, ["export", f"{net}:wrong", "--debug"])
    assert done.exit_code == 10
    assert "Traceback" in done.stderr


def test_text_from_outside_cannot_steer_the_terminal(net: str) -> None:
    done = RUN.invoke(app, ["export", f"{net}:\x1b[2Jbuild"])
    assert "\x1b" not in done.output
    assert r"\x1b[2Jbuild" in done.stderr


def test_something_unexpected_is_one_line_with_the_way_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(cli.export, "load", boom)
    done = RUN.invoke(app, ["export", "x"])
    assert (done.exit_code, done.stderr) == (1, "error: unexpected RuntimeError: boom; run again with --debug to see where\n")


def test_a_target_that_was_named_and_is_skipped_whole_is_no_success() -> None:
    ok, skipped, other = result("a"), result("b", status="skipped"), replace(result("b"), format="tflite", status="ok")
    nothing = errors.NotApplicable.exit_code
    assert exit_code_for(manifest(ok, skipped), ["a"]) == 0
    assert (
        exit_code_for(manifest(ok, skipped), ["a", "b"]) == exit_code_for(manifest(ok, skipped), ["boards/b.toml"]) == nothing
    )
    assert exit_code_for(manifest(ok, skipped, other), ["b"]) == 0
    assert exit_code_for(manifest(ok, skipped, result("c", status="failed", error="WorkerCrashed")), ["b"]) != nothing


def test_the_exit_code_is_that_of_the_worst_failure() -> None:
    ok, skipped = result("a"), result("b", status="skipped")
    crash = result("c", status="failed", error="WorkerCrashed")
    gate = result("d", status="failed", error="GateFailed")
    assert exit_code_for(manifest(ok, skipped)) == 0
    assert exit_code_for(manifest(ok, crash)) == errors.WorkerCrashed.exit_code
    assert exit_code_for(manifest(gate, crash)) == errors.GateFailed.exit_code
    assert exit_code_for(manifest(result("e", status="failed"))) == errors.TargetFailed.exit_code
    wrong = result("f", status="failed", error="VerificationFailed")
    unknown = result("g", status="unverified", error="UnknownOperator")
    assert exit_code_for(manifest(wrong, unknown)) == errors.VerificationFailed.exit_code, "though its number is the smaller"
    assert exit_code_for(manifest(ok, unknown)) == errors.UnknownOperator.exit_code


def test_a_closed_pipe_is_quiet() -> None:
    run = f"{sys.executable} -m edgeopt.cli targets arm-xnnpack | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert int(done.stdout) in (0, endings.BROKEN_PIPE_EXIT_CODE)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, errors.INTERRUPTED_EXIT_CODE), (signal.SIGTERM, 143)])
def test_being_stopped_clears_up_and_says_at_most_one_line(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    clears = f"try:\n    time.sleep(60)\nfinally:\n    open({str(tmp_path / 'cleared')!r}, 'w').close()"
    (tmp_path / "slow.py").write_text(f"import time\nprint('here', flush=True)\n{clears}")
    command = [sys.executable, "-m", "edgeopt.cli", "export", f"{tmp_path}/slow.py:x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "here\n"
        time.sleep(0.1)
        os.kill(run.pid, sent)
        _, said = run.communicate(timeout=30)
    assert run.returncode == code
    assert (tmp_path / "cleared").exists()
    assert len(said.strip().splitlines()) <= 1


def test_a_configuration_file_gives_the_model(tmp_path: Path, net: str) -> None:
    (tmp_path / "edgeopt.toml").write_text('model = "net.py:biuld"')
    done = edgeopt("export", "--config", "edgeopt.toml", cwd=tmp_path)
    assert done.returncode == errors.ReferenceNotFound.exit_code
    assert "net.py has no 'biuld'" in done.stderr


def test_a_terminal_that_cannot_show_a_character_does_not_end_the_run(tmp_path: Path) -> None:
    profile = (ROOT / "targets" / "arm-ort.toml").read_text()
    (tmp_path / "mine.toml").write_text(re.sub('summary = ".*"', 'summary = "für ARM"', profile.replace('"arm-ort"', '"mine"')))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "edgeopt.cli", "targets", f"{tmp_path}/mine.toml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"f\xfcr ARM" in done.stdout
