"""Commands outside a session: they are what they are without their watch, and none outlives who asked for it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.bench import inventory as module
from edgeopt.bench.inventory import inventory
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.watched import watched
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from tests.devices.session.test_session import eventually, refuse, running
from tests.emulators.sshd import sshd

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
WITHOUT = ((), ("setsid",), ("setsid", "perl"))
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(params=[(shell, without) for shell in SHELLS for without in WITHOUT], ids=str)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts a command as a device does that has one of several shells as ``sh``, and lacks some programs."""
    shell, without = request.param
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in {"sleep", "setsid", "perl"} - set(without):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "sh").write_text(f'#!/bin/sh\nexec {shutil.which(shell)}{" sh" if shell == "busybox" else ""} "$@"\n')
    (programs / "sh").chmod(0o755)

    def started(*command: str, seconds: float = 60) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            watched(command, seconds), env={"PATH": str(programs)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, executable=programs / "sh",
        )  # fmt: skip

    return started


def test_what_ends_by_itself_says_what_it_says_without_a_watch(start: Start) -> None:
    process = start("sh", "-c", 'printf %s "$1"; echo err >&2; exit 3', "sh", "two  words")
    assert process.communicate(timeout=30) == (b"two  words", b"err\n")
    assert process.returncode == 3
    killed = start("sh", "-c", "kill -9 $$")
    assert killed.communicate(timeout=30)[0] == b""
    assert killed.returncode in (137, -9)


@pytest.mark.parametrize("why", ["nobody reads", "time"])
def test_what_never_ends_is_ended(start: Start, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = f"981{os.getpid()}"
    if why == "time":
        monkeypatch.setattr("edgeopt.devices.session.watched.GRACE_S", 0)
    process = start("sleep", marker, seconds=1 if why == "time" else 60)
    assert process.stdout is not None and process.stderr is not None
    assert eventually(lambda: running(f"sleep {marker}"))
    if why == "nobody reads":
        process.stdout.close()
        process.stderr.close()
    assert eventually(lambda: not running(f"sleep {marker}"))
    process.wait(30)
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("body", ["exec sleep {}", "sleep {}; true"])
def test_a_python_that_never_ends_is_ended_after_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    marker = f"982{os.getpid()}"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body.format(marker)}\n")
    python.chmod(0o755)
    with sshd(tmp_path / "sshd") as server:
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "config")))
        spec = DeviceSpec(name="x", url=server.url, root=str(tmp_path / "root"), python=str(python))
        monkeypatch.setattr(module, "_PYTHON_S", 2.0)
        (row,) = inventory([spec], refuse)
        assert "2 s" in row.error
        assert eventually(lambda: not running(f"sleep {marker}"), 4)
        monkeypatch.setattr(module, "_PYTHON_S", 60.0)
        (row,) = inventory([spec], refuse, timeout=3.0)  # the connection is closed, as Ctrl-C does
        assert "did not say everything" in row.error
        assert eventually(lambda: not running(f"sleep {marker}"), 4)
