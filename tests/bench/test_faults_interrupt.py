"""Ctrl-C in the middle of ``edgeopt bench``: every device is cleared at once, and what was measured is kept."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomlkit

from edgeopt.bench.run import RESULT_NAME
from edgeopt.bench.types import DeviceRun
from edgeopt.core import from_json
from edgeopt.errors import INTERRUPTED_EXIT_CODE
from tests.bench.faults import SILENCE_S, Bed, identity, samples, until
from tests.bench.faults_ssh import Way, bed, server
from tests.emulators.sshd import Server

__all__ = ["bed", "server"]

NAMES = ("first", "second")
AT_ONCE_S = 10.0
STUCK_S = 6.0
"""Where a thread has to be left behind: it takes 2 s on a machine with nothing else to do."""
EVALUATE = """
import time, pathlib
def sleep(predict): begin(); time.sleep(1000)
def compute(predict):
    begin()
    while True: pass
def torch(predict):
    import torch
    begin()
    while True: torch.rand(500, 500) @ torch.rand(500, 500)
def begin(): pathlib.Path("begun").touch()
"""


def start(bed: Bed, url: str, padding: int = 0) -> "subprocess.Popen[str]":
    """``edgeopt bench`` on two devices whose runs never end, with an artifact of at least ``padding`` bytes."""
    document = tomlkit.document()
    for name in NAMES:
        device = bed.device(name, url, after="hang")
        document[name] = {"url": device.url, "root": device.root, "python": device.python}
    (bed.folder / "devices.toml").write_text(tomlkit.dumps(document))
    identity(bed.folder / "identity.onnx", padding=padding)
    command = [sys.executable, "-m", "edgeopt.cli", "bench", "identity.onnx", "--seconds", "0.2", "--runs", "150"]
    command += [word for name in NAMES for word in ("--device", name)]
    return subprocess.Popen(
        command, cwd=bed.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"HOME": str(bed.folder), "XDG_CONFIG_HOME": str(bed.folder / "none")}, start_new_session=True,
    )  # fmt: skip


@contextmanager
def begun(folder: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """``edgeopt bench`` in ``folder``, killed at the end of the block where it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgeopt.cli", "bench", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(folder)},
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def stopped(process: "subprocess.Popen[str]", folder: Path) -> DeviceRun:
    """Ctrl-C, which must end it soon; the result that it has written."""
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < STUCK_S
    assert process.returncode == INTERRUPTED_EXIT_CODE, errors
    assert "Traceback" not in errors
    assert "what was measured is in" in errors
    (path,) = folder.glob(f"runs/*/{RESULT_NAME}")
    return from_json(DeviceRun, path.read_text())


def measuring(folder: Path) -> bool:
    found = list(folder.glob("runs/*/lines.jsonl"))
    return len(found) == len(NAMES) and all('"event":"samples"' in path.read_text() for path in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "exit_code"), [(signal.SIGINT, INTERRUPTED_EXIT_CODE), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_ctrl_c_clears_every_device_and_keeps_what_was_measured(
    bed: Bed, server: Server, sent: signal.Signals, exit_code: int
) -> None:
    process = start(bed, server.url)
    try:
        until(lambda: measuring(bed.folder) or process.poll() is not None, 60)
        begin = time.monotonic()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - begin < AT_ONCE_S
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    assert "nterrupted" in errors
    for name in NAMES:
        bed.assert_cleared(name)
        (path,) = bed.folder.glob(f"runs/*-{name}/{RESULT_NAME}")
        run = from_json(DeviceRun, path.read_text())
        assert [one.status for one in run.results] == ["failed"]
        assert "nterrupted" in run.results[0].reason
        assert samples(run) > 0
        assert run.warnings == ()


@pytest.mark.slow
def test_ctrl_c_ends_a_push(bed: Bed, server: Server) -> None:
    way = Way(server.url, bytes_per_s=500_000)
    process = start(bed, way.url, padding=20_000_000)
    try:
        until(lambda: all(list(bed.root(name).glob("store/*.part")) for name in NAMES) or process.poll() is not None, 60)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - begin < AT_ONCE_S
    finally:
        process.kill()
        process.communicate()
        way.proxy.close()
    assert process.returncode == INTERRUPTED_EXIT_CODE, errors
    until(lambda: not any(map(bed.left, NAMES)), 2 * SILENCE_S)
    assert len(list(bed.folder.glob(f"runs/*/{RESULT_NAME}"))) == len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["ssh://nobody@127.0.0.1:{}", "adb://127.0.0.1:{}"])
def test_ctrl_c_does_not_wait_for_a_host_that_takes_the_connection_and_says_nothing(bed: Bed, url: str) -> None:
    identity(bed.folder / "identity.onnx")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        with begun(bed.folder, "identity.onnx", "--device", url.format(silent.getsockname()[1])) as process:
            taken, _ = silent.accept()
            with taken:
                run = stopped(process, bed.folder)
    assert [(one.status, one.reason.splitlines()[0]) for one in run.results] == [("failed", "interrupted")]


@pytest.mark.slow
@pytest.mark.parametrize("function", ["sleep", "compute", "torch"])
def test_ctrl_c_ends_an_evaluate_that_never_predicts_and_keeps_what_was_measured(tmp_path: Path, function: str) -> None:
    identity(tmp_path / "identity.onnx")
    (tmp_path / "own.py").write_text(EVALUATE)
    (tmp_path / "devices.toml").write_text(f'[here]\nurl = "local"\nroot = "{tmp_path}/edgeopt-device"\n')
    quick = ("--seconds", "0.1", "--runs", "20", "--launches", "1", "--max-seconds", "1")
    with begun(tmp_path, "identity.onnx", "--device", "here", "--evaluate", f"own.py:{function}", *quick) as process:
        until((tmp_path / "begun").exists, 60)
        run = stopped(process, tmp_path)
    (result,) = run.results
    assert result.status == "ok", result.reason
    assert samples(run) >= 20
    assert not list((tmp_path / "edgeopt-device" / "sessions").iterdir())
